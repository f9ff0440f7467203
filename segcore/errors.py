"""Errors that a user can act on: one line each, *what failed and where, expected X, got Y, what to do*."""


class SegcoreError(Exception):
    """Base of every error that the user, rather than the program, can mend."""


def worded(error: BaseException, image_id: str) -> str:
    """One line for the item of a failed image; it names the image where the error itself cannot."""
    known = isinstance(error, SegcoreError)
    return " ".join((str(error) if known else f"image {image_id}: {type(error).__name__}: {error}").split())


class ConfigError(SegcoreError):
    """A setting, table or manifest is wrong."""


class SourceError(SegcoreError):
    """A user's own file cannot be read, or is refused for safety."""


class StoreError(SegcoreError):
    """The workspace, or an object in it, is missing, damaged or not usable."""


class IncompleteError(StoreError):
    """An image or a mask is not finished: the stage that makes it has to be run (again)."""


class DamagedError(StoreError):
    """An object of the workspace's state is not what was written."""


class PlanMismatchError(StoreError):
    """Another plan already stands under the same name."""


class LeaseHeldError(StoreError):
    """Another process is writing the same image or mask at this moment."""


class ContractError(SegcoreError):
    """An image does not meet the input contract of a model package."""


def utf8(text: str) -> bytes:
    """Text as a file holds it. Names of files need not be UTF-8: their other bytes are shown as `\\udce9`."""
    return text.encode("utf-8", "backslashreplace")
