"""Objects whose ids are known, and what a model would say of them."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Ids = npt.NDArray[np.int64]


def discs(shape: tuple[int, int], count: int, seed: int = 0, radii: tuple[int, int] = (5, 14)) -> Ids:
    """Discs anywhere, many of which touch or lie partly behind another; 0 = none."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(shape, np.int64)
    for number in range(1, count + 1):
        (cy, cx), radius = rng.integers(shape), int(rng.integers(*radii))
        top, left = max(0, cy - radius), max(0, cx - radius)
        near = ids[top : cy + radius + 1, left : cx + radius + 1]
        y, x = np.ogrid[: near.shape[0], : near.shape[1]]
        near[((y + top - cy) ** 2 + (x + left - cx) ** 2 < radius**2) & (near == 0)] = number
    return ids


def with_snakes(ids: Ids, count: int) -> Ids:
    """Long objects on top, which cross the whole plane in waves."""
    ids, x, first = ids.copy(), np.arange(ids.shape[1]), int(ids.max()) + 1
    for number in range(count):
        middle = (number + 0.5) * ids.shape[0] / count + 15 * np.sin(x / 20 + number)
        for off in range(-6, 7):
            ids[np.clip(middle + off, 0, len(ids) - 1).astype(int), x] = first + number
    return ids


def rim_distance(ids: Ids) -> npt.NDArray[np.float64]:
    """How far each pixel lies from the nearest one of another object, less than that by up to a pixel; 0 outside."""
    beside = np.pad(ids, 1, mode="edge")
    at_rim = np.zeros(ids.shape, np.bool_)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        at_rim |= beside[dy : dy + ids.shape[0], dx : dx + ids.shape[1]] != ids
    return np.asarray((ndimage.distance_transform_edt(~at_rim) + 1) * (ids > 0))


def depth_of(ids: Ids, depth_px: int, noise: float = 0.0, seed: int = 0) -> npt.NDArray[np.uint8]:
    """The layer that a good model would give, or one that is not so good."""
    depth = 255 * np.clip(rim_distance(ids) / depth_px, 0, 1)
    if noise:
        rng = np.random.default_rng(seed)
        depth = (depth + rng.normal(0, noise, depth.shape)) * (rng.random(depth.shape) > 0.02)
    return np.rint(np.clip(depth, 0, 255)).astype(np.uint8)


def seen_by(ids: npt.NDArray[Any], depth_px: int = 5) -> npt.NDArray[np.uint8]:
    """An image (3, Y, X) that shows objects: foreground, border, depth."""
    depth = depth_of(ids, depth_px, noise=45)
    border = 255 * ((depth < 60) & (ids > 0))
    return np.stack([255 * (ids > 0), border, depth]).astype(np.uint8)


def same_parts(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """True if two id maps cut the plane alike, whatever the numbers."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return bool(len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1])))
