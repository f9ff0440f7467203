"""Class files: one mask file per class, each of them 0 and one other value."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import SourceInfo
from segcore.sources.base import Pixels
from segcore.targets.base import Kind, Target, TargetOpening, planes_of
from segcore.targets.layers import Overlaps, named_layers
from segcore.targets.masks import MaskTarget
from segcore.targets.regridded import plane_shape


class ClassFiles(Target):
    """A target from one file per class; where two overlap, the later one has the pixel.

    What a file does not know (transparent pixels, another field of view) is ignored unless another file claims it.
    """

    kind: Kind = "classes"

    def __init__(self, uris: Sequence[str], names: Sequence[str], image: SourceInfo, how: TargetOpening) -> None:
        assert len(uris) == len(names), f"{len(uris)} files for {len(names)} classes"
        naming = named_layers(uris[0], names, how.table)
        table = naming.table
        self.classes, self.ignore, self.dtype = table.classes, table.ignore, np.dtype(table.dtype)
        self._ids, self._fill = naming.ids, naming.fill
        self._files: list[MaskTarget] = []
        with ExitStack() as opened:
            for uri in uris:
                file = MaskTarget(uri, image, how.model_copy(update={"table": None}))
                opened.callback(file.close)
                self._files.append(file)
                if file.classes[-1].id > 1:
                    raise SourceError(
                        f"{uri}: the mask of one class holds 0 and 1 or 255, this one ids up to {file.classes[-1].id}; "
                        "say from where on they are foreground (--threshold)"
                    )
            self._overlaps = Overlaps()
            for window in planes_of(plane_shape(image)):
                self._read(window, self._overlaps)
            self.notes = tuple(note for file in self._files for note in file.notes) + self._overlaps.notes(naming)
            self._opened = opened.pop_all()

    def read(self, window: Window) -> Pixels:
        return self._read(window, Overlaps())

    def _read(self, window: Window, overlaps: Overlaps) -> Pixels:
        ids = np.full(window.shape, self._fill, dtype=self.dtype)
        unknown = np.zeros(window.shape, dtype=np.bool_)
        for number, file in zip(self._ids, self._files, strict=True):
            found = file.read(window)
            overlaps.lay(ids, found == 1, number, self._fill)
            unknown |= found == file.ignore
        ids[unknown & (ids == self._fill)] = self.ignore
        return ids

    def close(self) -> None:
        self._opened.close()
