"""Sampling: store -> *tiles* -> model. Random tiles straight from the store, no folder of cut-outs between.

Which tile is the k-th of step s is a pure function of (seed, s, k): a resumed run sees the tiles of an undisturbed
one, whatever was prefetched. An index, made once at the start, knows where each class is, so that rare ones are
seen as often as common ones.
"""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segcore.errors import ConfigError
from segcore.geometry import Window, reflected
from segcore.store import Image, Label
from segcore.stretch import Stretch

IGNORED = -1
"""Class number, in tiles, of pixels that change neither loss nor score: `ignore` in the target, or not usable."""

MAX_INDEX_PX = 16 << 20
"""The class index is made from the finest level that has at most so many pixels in a plane."""
MAX_POSITIONS = 1 << 21
"""Pixels that the index keeps of each class, over all images."""

Pixels = npt.NDArray[Any]
Int16s = npt.NDArray[np.int16]


class LabelledImage:
    """An image and its target at one level, read together, plane by plane (axes beside c, y and x are planes)."""

    def __init__(self, image: Image, target: Label, level: int = 0) -> None:
        if level >= min(image.num_levels, target.num_levels):
            raise ConfigError(
                f"image {image.image_id}: expected a pyramid level below {image.num_levels}, got level {level}"
            )
        self.image, self.target, self.level = image, target, level
        shape = dict(zip(image.axes, image.shape(level), strict=True))
        self.num_channels = shape["c"]
        self.shape_yx = (shape["y"], shape["x"])
        self._plane_shape = tuple(n for axis, n in shape.items() if axis not in "cyx")
        self._num_classes = len(target.classes)
        self._kept: dict[int, tuple[Pixels, Int16s]] | None = None
        self.stretch: Stretch | None = None
        """What `read` does to the pixels first."""

    @property
    def image_id(self) -> str:
        return self.image.image_id

    @property
    def num_planes(self) -> int:
        return int(np.prod(self._plane_shape, dtype=np.int64))

    @property
    def num_bytes(self) -> int:
        """Memory that pixels and target take when they are kept."""
        return self.num_planes * int(np.prod(self.shape_yx)) * (self.num_channels * self.image.dtype.itemsize + 2)

    def keep(self) -> None:
        """Decode each plane once, at its first use, and keep it; changes no pixel, only the time to read it."""
        self._kept = {}

    def read(self, plane: int, window: Window) -> tuple[Pixels, Int16s]:
        """Pixels (C, Y, X) as `read_pixels` gives them and class numbers (Y, X), `IGNORED` where nothing is known.

        Args:
            plane: number of the plane, in raster order of the axes beside c, y and x.
            window: over (y, x), inside the level.
        """
        if self._kept is None:
            return self._read(plane, window)
        if plane not in self._kept:
            self._kept[plane] = self._read(plane, Window.whole(self.shape_yx))
        pixels, target = self._kept[plane]
        return pixels[:, *window.slices], target[window.slices]

    def read_reflected(self, plane: int, window: Window) -> tuple[Pixels, Int16s]:
        """As `read`, of a window that may reach over the border; what lies outside is mirrored, target too."""
        if Window.whole(self.shape_yx).contains(window):
            return self.read(plane, window)
        rows, columns = (reflected(*side) for side in zip(window.start, window.shape, self.shape_yx, strict=True))
        start = (int(rows.min()), int(columns.min()))
        inside = Window(start, (int(rows.max()) + 1 - start[0], int(columns.max()) + 1 - start[1]))
        pixels, target = self.read(plane, inside)
        rows, columns = rows - start[0], columns - start[1]
        return pixels[:, rows[:, None], columns], target[rows[:, None], columns]

    def read_classes(self, plane: int, level: int) -> Int16s:
        """Class numbers (Y, X) of a whole plane at a level of its own."""
        window = Window.whole(self.target.shape(level)[-2:])
        pixels = self.read_pixels(plane, window, level) if self.image.pixels_tell else None
        return self._classes(plane, window, level, pixels)

    def read_pixels(self, plane: int, window: Window, level: int) -> Pixels:
        """Pixels (C, Y, X) of one plane at a level of its own, in the image's dtype; missing floats are NaN.

        Fill values such as -3.4e38 would reach their neighbours: NaN becomes an average value, band by band.
        """
        pixels = self.image.read(self._full(self.image.axes, plane, window), level)
        pixels = pixels.reshape(self.num_channels, *window.shape)
        if np.issubdtype(pixels.dtype, np.floating):
            pixels[self.image.missing(pixels)] = np.nan
        return pixels

    def read_valid(self, plane: int, window: Window, level: int, pixels: Pixels | None) -> npt.NDArray[np.bool_]:
        """Usable pixels (Y, X) of one plane; `pixels` are needed where they, not a label, say so."""
        if self.image.has_valid:
            return self.image.read_valid(self._full(self.target.axes, plane, window), level).reshape(window.shape)
        assert pixels is not None, "only pixels tell what is usable"
        return self.image.usable(pixels)

    def _read(self, plane: int, window: Window) -> tuple[Pixels, Int16s]:
        pixels = self.read_pixels(plane, window, self.level)
        classes = self._classes(plane, window, self.level, pixels)
        return self.stretched(pixels), classes

    def stretched(self, pixels: Pixels) -> Pixels:
        """Pixels as the model gets them: stretched, where this image is."""
        return pixels if self.stretch is None else self.stretch.apply(pixels)

    def _classes(self, plane: int, window: Window, level: int, pixels: Pixels | None) -> Int16s:
        """Class numbers; `pixels` of the same window are needed where they, not a label, say what is usable."""
        ids = self.target.read(self._full(self.target.axes, plane, window), level).reshape(window.shape)
        classes = np.where(ids == self.target.ignore, IGNORED, ids.astype(np.int32)).astype(np.int16)
        if self.image.has_valid or pixels is not None:
            classes[~self.read_valid(plane, window, level, pixels)] = IGNORED
        if classes.max(initial=IGNORED) >= self._num_classes:
            raise ConfigError(
                f"target of {self.image_id}: expected class ids below {self._num_classes} or ignore "
                f"({self.target.ignore}), got {classes.max()}; complete the class table and ingest again"
            )
        return classes

    def _full(self, axes: tuple[str, ...], plane: int, window: Window) -> Window:
        """The window over all axes: every channel, one plane, and (y, x)."""
        place = iter(np.unravel_index(plane, self._plane_shape) if self._plane_shape else ())
        yx = dict(zip("yx", zip(window.start, window.shape, strict=True), strict=True))
        sides = [
            yx[axis] if axis in yx else (0, self.num_channels) if axis == "c" else (int(next(place)), 1)
            for axis in axes
        ]
        return Window(tuple(start for start, _ in sides), tuple(length for _, length in sides))


def keep_what_fits(images: Sequence[LabelledImage], cache_mib: int) -> None:
    """Let as many images as the limit allows stay decoded in memory, in their order."""
    left = cache_mib << 20
    for image in images:
        if image.num_bytes <= left:
            image.keep()
            left -= image.num_bytes


class _Places(NamedTuple):
    """Some pixels of one class in one image."""

    num_px: int
    """Pixels of the class there, of which `places` is a sample."""
    places: npt.NDArray[np.int32]
    """(n, 3): plane, y, x at the training level."""


class ClassIndex:
    """Where each class is: `found[image][class]`, made once from targets at a coarse level."""

    def __init__(self, images: Sequence[LabelledImage], num_classes: int, seed: int = 0) -> None:
        self.num_classes = num_classes
        share = max(64, MAX_POSITIONS // max(1, sum(image.num_planes for image in images)))
        self.found = [self._of_image(image, share, seed) for image in images]
        self.pixels = np.array([[places.num_px for places in row] for row in self.found], dtype=np.float64)
        """(images, classes): usable pixels of each class, scaled up to the training level."""

    def _of_image(self, image: LabelledImage, share: int, seed: int) -> list[_Places]:
        level = image.level
        while level + 1 < image.target.num_levels and np.prod(image.target.shape(level)[-2:]) > MAX_INDEX_PX:
            level += 1
        factor = 2 ** (level - image.level)
        rng = np.random.default_rng((seed, len(image.image_id)))
        rows: list[list[npt.NDArray[np.int32]]] = [[] for _ in range(self.num_classes)]
        pixels = [0] * self.num_classes
        for plane in range(image.num_planes):
            classes = image.read_classes(plane, level)
            for number in range(self.num_classes):
                where = np.flatnonzero(classes == number)
                pixels[number] += len(where) * factor**2
                if len(where) > share:
                    where = np.sort(rng.choice(where, share, replace=False))
                y, x = np.unravel_index(where, classes.shape)
                rows[number].append(
                    np.stack([np.full(len(where), plane), y * factor + factor // 2, x * factor + factor // 2], axis=1)
                    .astype(np.int32)
                )  # fmt: skip
        return [_Places(n, np.concatenate(parts)) for n, parts in zip(pixels, rows, strict=True)]

    @property
    def occurring(self) -> list[int]:
        """Classes that have a pixel anywhere."""
        return [number for number in range(self.num_classes) if self.pixels[:, number].any()]


class Draw(NamedTuple):
    """Which tile: all that decides its pixels."""

    image: int
    plane: int
    window: Window
    """Over (y, x), may reach over the border."""


class Sampler:
    """Draws tiles: tile k of step s is the same in every run with the same seed.

    Args:
        images: to draw from.
        index: of these images.
        tile_px: side of a tile.
        class_share: of the tiles, share that is placed at a pixel of a class drawn evenly, in an image drawn evenly
            among those that have it; the rest lies at any usable pixel, each as likely as the other.
        seed: of the whole run.
    """

    def __init__(
        self, images: Sequence[LabelledImage], index: ClassIndex, tile_px: int, class_share: float, seed: int
    ) -> None:
        self.images, self.tile_px, self.seed = images, tile_px, seed
        self._index, self._class_share = index, class_share
        self._classes = index.occurring
        self._holders = {number: np.flatnonzero(index.pixels[:, number]) for number in self._classes}
        self._flat = index.pixels.ravel() / index.pixels.sum()

    def draw(self, step: int, k: int) -> Draw:
        """The place of tile k of a step."""
        rng = np.random.default_rng((self.seed, step, k))
        if rng.random() < self._class_share:
            number = self._classes[rng.integers(len(self._classes))]
            image = int(rng.choice(self._holders[number]))
        else:
            image, number = divmod(int(rng.choice(len(self._flat), p=self._flat)), self._index.num_classes)
        places = self._index.found[image][number].places
        plane, *centre = (int(value) for value in places[rng.integers(len(places))])
        reach = self.tile_px // 4
        jitter = rng.integers(-reach, reach + 1, 2)
        start = tuple(
            self._start(middle + int(shift) - self.tile_px // 2, size)
            for middle, shift, size in zip(centre, jitter, self.images[image].shape_yx, strict=True)
        )
        return Draw(image, plane, Window(start, (self.tile_px, self.tile_px)))

    def _start(self, wanted: int, size: int) -> int:
        """Mostly inside the image, and a little over its border, as tiles with a halo are in prediction."""
        over = self.tile_px // 8
        low, high = -over, size - self.tile_px + over
        return (size - self.tile_px) // 2 if high < low else min(max(wanted, low), high)

    def tiles(self, step: int, batch: int) -> tuple[Pixels, Int16s]:
        """One batch: pixels (N, C, Y, X) in the images' own dtype, class numbers (N, Y, X)."""
        read = [self._tile(self.draw(step, k)) for k in range(batch)]
        return np.stack([pixels for pixels, _ in read]), np.stack([target for _, target in read])

    def _tile(self, draw: Draw) -> tuple[Pixels, Int16s]:
        return self.images[draw.image].read_reflected(draw.plane, draw.window)


def batches(
    sampler: Sampler, batch: int, first: int = 0, threads: int = 2, ahead: int = 4
) -> Generator[tuple[int, Pixels, Int16s]]:
    """The batches of all steps from `first` on, without end, read ahead by threads; close it to end them.

    Args:
        sampler: draws and reads.
        batch: tiles in each.
        first: the first step.
        threads: that read.
        ahead: batches that are read or waiting at any time: the bound on memory.

    Yields:
        Step, pixels (N, C, Y, X) and class numbers (N, Y, X).
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="segcore-tiles")
    waiting: deque[Future[tuple[Pixels, Int16s]]] = deque()
    try:
        for step in count(first):
            while len(waiting) < ahead:
                waiting.append(pool.submit(sampler.tiles, step + len(waiting), batch))
            yield (step, *waiting.popleft().result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
