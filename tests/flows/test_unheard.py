"""A console whose pipe is broken."""

import io
import logging
from collections.abc import Iterator

import pytest
from prefect.logging.handlers import PrefectConsoleHandler

from flows.unheard import keep_on_unheard


class Broken(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def handler() -> Iterator[PrefectConsoleHandler]:
    """Prefect's, of the logger `unheard`."""
    found, logger = PrefectConsoleHandler(stream=Broken()), logging.getLogger("unheard")
    logger.addHandler(found)
    yield found
    logger.removeHandler(found)


def test_goes_on_when_its_console_is_gone(handler: PrefectConsoleHandler) -> None:
    keep_on_unheard()
    assert not handler.console.quiet
    logging.getLogger("unheard").warning("still here")  # rich alone would raise SystemExit
    assert handler.console.quiet
