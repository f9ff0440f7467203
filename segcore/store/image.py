"""Image and Label: a complete multiscale array of the workspace, open for reading."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import IGNORE, ClassInfo
from segcore.geometry import Ints, Window
from segcore.nodata import missing
from segcore.sources import Joined
from segcore.spatial import Georef, Spacing
from segcore.store.arrays import Reader, open_array
from segcore.store.linked import LinkedLevel, located, source_of
from segcore.store.objects import Objects
from segcore.store.places import array_prefix
from segcore.store.plan import plan_digest
from segcore.store.pyramid import Ngff, Pixels, PyramidSpec

READ_BYTES = 64 << 20
"""Of bands that are read at once where only their validity is asked for: an image may have hundreds."""


class _Pyramid:
    """What images and labels share; safe to use from many threads."""

    def __init__(self, objects: Objects, image_id: str, name: str, attributes: dict[str, Any]) -> None:
        self.image_id, self.name = image_id, name
        self.attributes: dict[str, Any] = attributes["segcore"]
        """Our own attributes."""
        self.ngff: Ngff = attributes["ome"]["version"]
        """Version of OME-NGFF that it is stored in, and its masks."""
        link = self.attributes.get("linked")
        self._link: dict[str, Any] | None = link
        self._spec = None if link is None else PyramidSpec.model_validate(link["spec"])
        if self._spec is not None:
            self.axes, self.num_levels = self._spec.axes, len(self._spec.levels)
        else:
            scales = attributes["ome"]["multiscales"][0]
            self.axes = tuple(axis["name"] for axis in scales["axes"])
            self.num_levels = len(scales["datasets"])
        self._objects = objects
        self.prefix = array_prefix(image_id, name)
        self._readers: dict[int, Reader] = {}
        self._lock = threading.Lock()

    def _level(self, level: int) -> Reader:
        with self._lock:
            if level not in self._readers:
                self._readers[level] = self._opened(level)
            return self._readers[level]

    def _opened(self, level: int) -> Reader:
        if self._link is None or self._spec is None:
            return open_array(self._objects, f"{self.prefix}/{level}", self.ngff)
        return LinkedLevel(located(self._link, self._objects), self._spec, level)

    @property
    def objects(self) -> Objects:
        """Of the workspace that it lies in."""
        return self._objects

    @property
    def is_linked(self) -> bool:
        """True if the pixels, and coarser levels with them, are the source's own."""
        return self._link is not None

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
    def base_level(self) -> int:
        """The level of its image that is the finest of this label or layer; 0 for an image itself."""
        return int(self.attributes.get("base_level", 0))

    @property
    def nodata(self) -> float | None:
        value = self.attributes.get("nodata")
        return None if value is None else float(value)

    @property
    def source(self) -> str:
        """URI of the user's own file."""
        return str(self.attributes.get("source", ""))

    @property
    def reopened(self) -> str | Joined:
        """What `open_source` takes to read the source again: its copy in the workspace, where there is one."""
        if self._link is not None:
            return source_of(located(self._link, self._objects))
        joined = self.attributes.get("recipe", {}).get("entry", {}).get("joined")
        return self.source if joined is None else Joined.model_validate(joined)

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
    def tells_objects(self) -> bool:
        """True if its ids are those of objects, and 0 is none; it has no classes then."""
        return self.attributes.get("kind") == "instances"

    @property
    def ignore(self) -> int:
        """The id of pixels that count as neither right nor wrong; of classes."""
        return IGNORE if self.dtype == np.uint8 else 65535


class Layer(_Pyramid):
    """Probabilities or uncertainty of an image, with its axes; 0 to 255 for 0 to 1, or float16."""

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self.attributes["channels"])


class Image(_Pyramid):
    """An image, with what is known of which pixels are usable."""

    def __init__(
        self, objects: Objects, image_id: str, attributes: dict[str, Any], open_valid: Callable[[], Label]
    ) -> None:
        super().__init__(objects, image_id, "image", attributes)
        self._open_valid = open_valid
        self._valid: Label | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self.attributes["channels"])

    def handed_on(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a mask or a layer that are the image's own, JSON, and the digest of its plan."""
        return {
            "source": self.source,
            "spacing": None if self.spacing is None else self.spacing.model_dump(mode="json"),
            "georef": None if self.georef is None else self.georef.model_dump(mode="json"),
            "affine": self.attributes.get("affine"),
            "split": self.split,
            "group": self.group,
            "digest": plan_digest(plan),
        }

    @property
    def has_valid(self) -> bool:
        """True if the image has a `valid` label (from alpha, a mask band or a file)."""
        return bool(self.attributes.get("has_valid"))

    @property
    def valid_plan(self) -> int | None:
        """Which plan made the `valid` label; another one is another validity. None without the label.

        Raises:
            IncompleteError: if the label is not finished.
        """
        return int(self._valid_label().attributes["plan"]) if self.has_valid else None

    def _valid_label(self) -> Label:
        with self._lock:
            if self._valid is None:
                self._valid = self._open_valid()
            return self._valid

    def read_valid(self, window: Window, level: int = 0) -> npt.NDArray[np.bool_]:
        """Which pixels of a window over the axes without c are usable, True = usable.

        Without a `valid` label, a pixel is usable where any band has a value.
        """
        channel = self.axes.index("c")
        assert window.ndim == len(self.axes) - 1, f"validity is over {self.axes} without c, got {window}"
        if self.has_valid:
            return self._valid_label().read(window, level).astype(np.bool_)
        if not self.pixels_tell:
            return np.ones(window.shape, dtype=np.bool_)
        num_bands, usable = self.shape(level)[channel], np.zeros(window.shape, dtype=np.bool_)
        together = max(1, READ_BYTES // max(1, window.num_px * self.dtype.itemsize))
        for first in range(0, num_bands, together):
            bands = window.with_axis(channel, min(together, num_bands - first), first)
            usable |= ~self.missing(self.read(bands, level)).all(axis=channel)
            if usable.all():
                break
        return usable

    @property
    def pixels_tell(self) -> bool:
        """True if the pixels themselves say which are usable: no `valid` label, but nodata or a float type."""
        return not self.has_valid and (self.nodata is not None or np.issubdtype(self.dtype, np.floating))

    def missing(self, pixels: Pixels) -> npt.NDArray[np.bool_]:
        """Elements without a value, in the shape of `pixels`: nodata, and what is not finite."""
        return missing(pixels, self.nodata)

    def usable(self, pixels: Pixels) -> npt.NDArray[np.bool_]:
        """Where any band has a value, of one plane already read: `(C, Y, X)` -> `(Y, X)`, True = usable."""
        return np.asarray(~self.missing(pixels).all(axis=0))
