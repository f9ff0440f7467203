"""Roots: where a deployment's runs may read and write, whoever starts them and whatever they ask for.

The lists come from the environment of the process that works, which who starts a run does not set:

    SEGCORE_SOURCE_ROOTS      folders and URL prefixes that may be read, with `;` between them
    SEGCORE_WORKSPACE_ROOTS   those that may be written too: workspaces, exports
    SEGCORE_DASK_SCHEDULERS   addresses of dask schedulers, with `;` between them: what they send is trusted

Where neither is set, as on a person's own command line, nothing is limited; where one is, the other allows nothing
until it is set too. A URL's server may still send its answer from elsewhere.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from segcore.errors import ConfigError, SourceError

SOURCE_ROOTS, WORKSPACE_ROOTS = "SEGCORE_SOURCE_ROOTS", "SEGCORE_WORKSPACE_ROOTS"
DASK_SCHEDULERS = "SEGCORE_DASK_SCHEDULERS"

READ = ("sources", "manifest")
"""Settings that are always a place."""
READ_IF_A_PATH = ("classes", "aoi", "model", "init", "screen", "ensemble", "against", "compare")
"""Settings that may be a place, or a name in the workspace."""
WRITTEN = ("workspace", "output", "mlflow")


def limited() -> bool:
    """True where this process may not read and write everywhere."""
    return SOURCE_ROOTS in os.environ or WORKSPACE_ROOTS in os.environ


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings of a stage that name a place outside the roots, before anything is opened.

    What a pattern with `{parent}` means shows when it is filled in; it is checked then (`check_source`).

    Raises:
        ConfigError: naming setting and place.
    """
    if not limited():
        return
    for name in (*READ, *READ_IF_A_PATH):
        for place in _places(settings.get(name)):
            is_place = name in READ or "/" in place or "::" in place
            if is_place and "{parent}" not in place and not may_read(place):
                raise ConfigError(f"{name} {place}: {_outside('read', SOURCE_ROOTS)}")
    for name in WRITTEN:
        for place in _places(settings.get(name)):
            if not _lies_below(place, _listed(WORKSPACE_ROOTS)):
                raise ConfigError(f"{name} {place}: {_outside('write', WORKSPACE_ROOTS)}")
    scheduler = settings.get("dask")
    if scheduler is not None and "://" in scheduler and scheduler not in _listed(DASK_SCHEDULERS):
        raise ConfigError(f"dask {scheduler}: {_outside('work with', DASK_SCHEDULERS)}")


def check_source(uri: str) -> None:
    """Refuse a file outside the roots; whatever named it: a parameter, a manifest, a catalogue, a link.

    Raises:
        SourceError: naming it.
    """
    if limited() and not may_read(uri):
        raise SourceError(f"{uri}: {_outside('read', SOURCE_ROOTS)}")


def may_read(uri: str) -> bool:
    """True for what lies below a root; what may be written may be read."""
    return _lies_below(uri, [*_listed(SOURCE_ROOTS), *_listed(WORKSPACE_ROOTS)])


def _outside(verb: str, setting: str) -> str:
    return f"lies outside what this deployment may {verb}; whoever runs the worker sets {setting}"


def _listed(setting: str) -> list[str]:
    return [root.strip() for root in os.environ.get(setting, "").split(";") if root.strip()]


def _places(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        yield from (each for each in value if isinstance(each, str))


def _lies_below(uri: str, roots: list[str]) -> bool:
    place = _spelled_out(uri.partition("::")[0])
    return any(place == root or place.startswith(root.rstrip("/") + "/") for root in map(_spelled_out, roots))


def _spelled_out(uri: str) -> str:
    """One spelling per place: links are followed, `..` is gone; a URL with `..` in it lies nowhere."""
    if "://" not in uri or uri.startswith("file://"):
        return str(Path(os.path.realpath(Path(uri.removeprefix("file://")).expanduser())))
    return "nowhere" if ".." in unquote(unquote(uri)).split("/") else uri
