"""Unheard: a run goes on when nobody reads its console any more, as where its Prefect worker was killed.

Prefect writes log lines through rich. Where the pipe is broken, rich raises SystemExit in the thread whose line it is:
the flow's own, or the one that leads dask workers, for whose answer the flow then waits for ever.
"""

import logging
from functools import partial
from typing import Any


def keep_on_unheard() -> None:
    """From now on a console that nobody reads falls silent; the server gets every line as before."""
    loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            console: Any = getattr(handler, "console", None)
            if hasattr(console, "on_broken_pipe"):
                console.on_broken_pipe = partial(_silence, console)


def _silence(console: Any) -> None:
    console.quiet = True
