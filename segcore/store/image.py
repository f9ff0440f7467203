"""Image and Label: a complete multiscale array of the workspace, open for reading."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import IGNORE, ClassInfo
from segcore.geometry import Ints, Window
from segcore.spatial import Georef, Spacing
from segcore.store.arrays import Reader, open_array
from segcore.store.objects import Objects
from segcore.store.pyramid import Pixels, differs_from


class _Pyramid:
    """What images and labels share; safe to use from many threads."""

    def __init__(self, objects: Objects, image_id: str, name: str, attributes: dict[str, Any]) -> None:
        self.image_id, self.name = image_id, name
        self.attributes: dict[str, Any] = attributes["segcore"]
        """Our own attributes."""
        scales = attributes["ome"]["multiscales"][0]
        self.axes: tuple[str, ...] = tuple(axis["name"] for axis in scales["axes"])
        self.num_levels: int = len(scales["datasets"])
        image = f"images/{image_id}.ome.zarr"
        self._objects = objects
        self.prefix = image if name == "image" else f"{image}/labels/{name}"
        self._readers: dict[int, Reader] = {}
        self._lock = threading.Lock()

    def _level(self, level: int) -> Reader:
        with self._lock:
            if level not in self._readers:
                self._readers[level] = open_array(self._objects, f"{self.prefix}/{level}")
            return self._readers[level]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._level(0).dtype

    def shape(self, level: int = 0) -> Ints:
        """Sides in px, in the order of `axes`."""
        return self._level(level).shape

    def read(self, window: Window, level: int = 0) -> Pixels:
        """The pixels of a window over all axes that lies inside the level, C-order."""
        return self._level(level).read(window)

    @property
    def spacing(self) -> Spacing | None:
        value = self.attributes.get("spacing")
        return Spacing.model_validate(value) if value else None

    @property
    def georef(self) -> Georef | None:
        value = self.attributes.get("georef")
        return Georef.model_validate(value) if value else None

    @property
    def nodata(self) -> float | None:
        value = self.attributes.get("nodata")
        return None if value is None else float(value)

    @property
    def source(self) -> str:
        """URI of the user's own file."""
        return str(self.attributes.get("source", ""))

    @property
    def split(self) -> str | None:
        return self.attributes.get("split")

    @property
    def group(self) -> str | None:
        return self.attributes.get("group")

    @property
    def digest(self) -> str | None:
        """Digest of the content: the source file's for an image, the plan's inputs for a label."""
        return self.attributes.get("digest")


class Label(_Pyramid):
    """Class or instance ids; axes without `c`."""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(ClassInfo.model_validate(value) for value in self.attributes.get("classes", ()))

    @property
    def ignore(self) -> int:
        """The id of pixels that count as neither right nor wrong."""
        return IGNORE if self.dtype == np.uint8 else 65535


class Image(_Pyramid):
    """An image, with what is known of which pixels are usable."""

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self.attributes["channels"])

    @property
    def has_valid(self) -> bool:
        """True if the image has a `valid` label (from alpha, a mask band or a file)."""
        return bool(self.attributes.get("has_valid"))

    def _valid_label(self) -> Label:
        with self._lock:
            cached: Label | None = self.__dict__.get("_valid")
            if cached is None:
                axes = [{"name": axis} for axis in self.axes if axis != "c"]
                scales = {"axes": axes, "datasets": [{}] * self.num_levels}
                attributes = {"segcore": {}, "ome": {"multiscales": [scales]}}
                cached = self.__dict__["_valid"] = Label(self._objects, self.image_id, "valid", attributes)
            return cached

    def read_valid(self, window: Window, level: int = 0) -> npt.NDArray[np.bool_]:
        """Which pixels of a `(y, x)` window are usable, True = usable.

        Without a `valid` label, a pixel is usable where any band differs from nodata; without nodata, everywhere.
        """
        assert window.ndim == 2, f"validity is over (y, x), got {window}"
        if self.has_valid:
            return self._valid_label().read(window, level).astype(np.bool_)
        if self.nodata is None:
            return np.ones(window.shape, dtype=np.bool_)
        leading = self.shape(level)[:-2]
        pixels = self.read(Window((0,) * len(leading) + window.start, leading + window.shape), level)
        return self.usable(pixels)

    def usable(self, pixels: Pixels) -> npt.NDArray[np.bool_]:
        """The nodata rule on pixels already read: `(..., Y, X)` -> `(Y, X)`, True = usable."""
        if self.nodata is None:
            return np.ones(pixels.shape[-2:], dtype=np.bool_)
        return np.asarray(differs_from(pixels, self.nodata).reshape(-1, *pixels.shape[-2:]).any(axis=0))
