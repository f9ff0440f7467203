"""segcore: large images -> OME-Zarr -> masks and a report. The core, free of any orchestrator."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("segcore")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
