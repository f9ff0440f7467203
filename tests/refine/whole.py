"""What refining makes of a mask that is cut nowhere, by scipy and skimage on the whole array."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.morphology import ball, disk

Codes = npt.NDArray[np.int64]


def blobs(shape: tuple[int, ...], num_classes: int, seed: int = 0, smooth: float = 2.5) -> npt.NDArray[np.uint8]:
    """Specks, holes and large areas of several classes, at every border of shards; 255 = ignore here and there."""
    rng = np.random.default_rng(seed)
    sigma = [smooth if n > 8 else 0.7 for n in shape]
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), sigma) for _ in range(num_classes)]
    fields[0] += 0.3 * fields[0].std()
    ids = np.argmax(fields, axis=0).astype(np.uint8)
    ids[rng.random(shape) < 0.004] = 0
    ids[ndimage.gaussian_filter(rng.normal(size=shape), sigma) > 3.2 * fields[0].std()] = 255
    return ids


def footprint(radius: int, ndim: int) -> npt.NDArray[np.bool_]:
    return np.asarray((disk if ndim == 2 else ball)(radius), np.bool_)


def opened_whole(codes: Codes, classes: list[int], radius: int, instead: int) -> Codes:
    """-1 is ignore."""
    where, out = footprint(radius, codes.ndim), codes.copy()
    for code in classes:
        own = codes == code
        core = ndimage.binary_erosion(own | (codes == -1), where, border_value=1) & (codes != -1)
        out[own & ~ndimage.binary_dilation(core, where)] = instead
    return out


def closed_whole(codes: Codes, classes: list[int], radius: int, free: list[int]) -> Codes:
    where, out = footprint(radius, codes.ndim), codes.copy()
    for code in reversed(classes):  # the first class is written last
        wide = ndimage.binary_dilation(codes == code, where) | (codes == -1)
        out[ndimage.binary_erosion(wide, where, border_value=1) & np.isin(codes, free)] = code
    return out


def components(codes: Codes, code: int) -> list[tuple[tuple[slice, ...], npt.NDArray[np.bool_], list[int]]]:
    """Every component of a code: its box, its pixels there, the codes beside its sides; -1 = ignore, or no array."""
    padded, found = np.pad(codes, 1, constant_values=-1), []
    labels, _ = ndimage.label(padded == code)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        wide = tuple(slice(side.start - 1, side.stop + 1) for side in box)
        own, near, beside = labels[wide] == number, padded[wide], []
        for axis in range(codes.ndim):
            for side in (-1, 1):
                beside += [int(v) for v in near[np.roll(own, side, axis)] if v != code]
        found.append((tuple(slice(side.start - 1, side.stop - 1) for side in box), labels[box] == number, beside))
    return found


def most(values: list[int], otherwise: int) -> int:
    known = [v for v in values if v >= 0]
    return int(np.bincount(known).argmax()) if known else otherwise


def settled_whole(codes: Codes, undecided: int, otherwise: int) -> Codes:
    out = codes.copy()
    for box, own, beside in components(codes, undecided):
        out[box][own] = most(beside, otherwise)
    return out


def filled_whole(codes: Codes, background: int, max_px: int) -> Codes:
    out = codes.copy()
    for box, own, beside in components(codes, background):
        if own.sum() <= max_px and -1 not in beside and beside:
            out[box][own] = most(beside, background)
    return out


def dropped_whole(codes: Codes, classes: list[int], min_px: int, keep_largest: bool, instead: int) -> Codes:
    out = codes.copy()
    for code in classes:
        found = components(codes, code)
        largest = max((own.sum() for _, own, _ in found), default=0)
        first = next((own for _, own, _ in found if own.sum() == largest), None)
        for box, own, _ in found:
            if own.sum() < min_px or (keep_largest and own is not first):
                out[box][own] = instead
    return out


def refined_whole(ids: npt.NDArray[np.uint8], num_classes: int, **asked: Any) -> npt.NDArray[np.uint8]:
    """Of a mask whose class 0 is the background."""
    codes = np.where(ids == 255, -1, ids.astype(np.int64))
    classes, undecided = list(range(1, num_classes)), 99
    instead = 0 if num_classes == 2 else undecided
    if "open" in asked:
        codes = opened_whole(codes, classes, asked["open"], instead)
    if "close" in asked:
        codes = closed_whole(codes, classes, asked["close"], [0, undecided])
    codes = settled_whole(codes, undecided, 0)
    if "fill_holes" in asked:
        codes = filled_whole(codes, 0, asked["fill_holes"])
    if "min_size" in asked or "keep_largest" in asked:
        codes = dropped_whole(codes, classes, asked.get("min_size", 0), asked.get("keep_largest", False), instead)
    return np.where(codes == -1, 255, settled_whole(codes, undecided, 0)).astype(np.uint8)
