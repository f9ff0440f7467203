"""Shelf: images, masks and layers that are open, each with a *version* that changes when it is made anew.

A version is a digest of the attributes, in which the plan and the digest of what it was made of stand. Addresses of
tiles carry it: so a browser may keep them for ever, and shows no tile of a mask that is no more.
"""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from segcore.errors import StoreError
from segcore.geometry import Window
from segcore.report.pictures import DARK, color_channels
from segcore.store import Image, Label, Layer, Workspace
from segcore.view.planes import read_bands

FRESH_S = 1.0
"""After this the attributes are read again."""
MAX_OPEN = 512
LOW_PERCENT, HIGH_PERCENT = 0.2, 99.8
"""As in the report's pictures."""

Group = Literal["image", "labels", "layers"]
GROUPS: tuple[Group, ...] = ("image", "labels", "layers")
Limits = tuple[float, float]


@dataclass
class Opened:
    """One of them."""

    pyramid: Image | Label | Layer
    version: str
    looked_s: float
    limits: tuple[Limits, ...] | None = None
    """Of an image's bands, once somebody asked."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Shelf:
    """Opens what is asked for, and looks again when it was opened a while ago; safe to use from many threads."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._open: OrderedDict[tuple[str, str, str], Opened] = OrderedDict()
        self._lock = threading.Lock()

    def image(self, image_id: str) -> tuple[Image, str]:
        """An image and its version.

        Raises:
            StoreError: if there is none, or it is not complete.
        """
        opened = self.opened(image_id, "image", "image")
        assert isinstance(opened.pyramid, Image), f"{image_id}: {opened.pyramid}"
        return opened.pyramid, opened.version

    def opened(self, image_id: str, group: Group, name: str) -> Opened:
        """An image ("image"), one of its labels, or a layer (`mask.kind`).

        Raises:
            StoreError: if there is none, or it is not complete.
        """
        key = (image_id, group, name)
        with self._lock:
            found = self._open.get(key)
            if found is not None and time.monotonic() - found.looked_s < FRESH_S:
                self._open.move_to_end(key)
                return found
        now = time.monotonic()
        pyramid = self._read(*key)
        version = version_of(pyramid)
        with self._lock:
            if found is not None and found.version == version:
                found.looked_s = now  # the arrays that it opened stay open
            else:
                found = Opened(pyramid, version, now)
            self._open[key] = found
            self._open.move_to_end(key)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return found

    def _read(self, image_id: str, group: Group, name: str) -> Image | Label | Layer:
        if group == "image":
            return self.workspace.image(image_id)
        if group == "labels":
            return self.workspace.label(image_id, name)
        mask, _, kind = name.rpartition(".")
        if not mask:
            raise StoreError(f"layer {name}: expected mask.kind")
        return self.workspace.layer(image_id, mask, kind)

    def limits(self, image_id: str) -> tuple[Limits, ...]:
        """Of every band, between which values most of its pixels lie: of the middle plane of the coarsest level."""
        opened = self.opened(image_id, "image", "image")
        image = opened.pyramid
        assert isinstance(image, Image), f"{image_id}: {image}"
        with opened.lock:
            if opened.limits is None:
                opened.limits = tuple(band_limits(image, band) for band in range(len(image.channels)))
            return opened.limits


def version_of(pyramid: Image | Label | Layer) -> str:
    """16 hex digits; another one if it was made under another plan, or of other pixels."""
    told = json.dumps({"prefix": pyramid.prefix, **pyramid.attributes}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def band_limits(image: Image, band: int) -> Limits:
    """The 0.2nd and 99.8th percentile of the usable pixels of a band."""
    level = image.num_levels - 1
    pixels, valid = read_bands(image, level, Window.whole(image.shape(level)[-2:]), {}, [band])
    values = pixels[0] if valid is None else pixels[0][valid]
    values = values[~image.missing(values)] if values.dtype.kind == "f" else values.ravel()
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, (LOW_PERCENT, HIGH_PERCENT)).tolist()
    return low, max(high, low + 1e-6)


def shown_bands(image: Image) -> list[int]:
    """Which bands an image is shown by, where nobody says: three, or one as grey."""
    bands = color_channels(len(image.channels), image.channels)
    return bands if len(set(bands)) > 1 else bands[:1]


def stretch(limits: tuple[Limits, ...], bands: list[int], dtype: np.dtype[np.generic]) -> Limits:
    """Between which values these bands are shown, all alike, so that colours keep their ratio: as in the report.

    8-bit images that use their range stay as they are.
    """
    low, high = min(limits[band][0] for band in bands), max(limits[band][1] for band in bands)
    if dtype == np.uint8:
        return (0.0, 255.0) if high >= DARK else (0.0, max(high, 1.0))
    return low, high
