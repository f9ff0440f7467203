"""Joined: several files of the user's that are one image together."""

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from segcore.sources.base import Opening, Source

How = Literal["stack", "mosaic", "frames", "dicom"]
"""How: also the module that does it, with `open_joined(joined, opening, open_source) -> Source`."""

OpenSource = Callable[[str, Opening], Source]


class Joined(BaseModel):
    """Files that make one image."""

    model_config = ConfigDict(frozen=True)

    uri: str
    """What the whole is called: the folder or the pattern that names the parts."""
    how: How
    """`stack`: the channels of one place; `mosaic`: neighbouring places; `frames`: one place over time;
    `dicom`: the slices of one series."""
    parts: tuple[str, ...]
    """The files, in the order of their names."""
