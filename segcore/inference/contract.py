"""Contract: does an image meet what the model package was trained for, and at which level? Before its first tile."""

import math
import re
from dataclasses import dataclass

from segcore.errors import ContractError
from segcore.inference.model_grid import ModelGrid
from segcore.models.info import InputContract
from segcore.models.package import ModelPackage
from segcore.spatial import METERS_PER_UNIT, Spacing
from segcore.store import Image

SAME = 0.02
"""A pixel size that differs by no more than this part is the model's."""
ROUNDING = 1e-9
"""0.51 is within 2 % of 0.5, whatever the quotient of floats says."""


@dataclass(frozen=True)
class Fit:
    """How an image meets a contract."""

    grid: ModelGrid
    """Where its pixels are of the model's size."""
    warnings: tuple[str, ...]
    """One line each: band names or a spacing that one side does not know."""


def check_contract(contract: InputContract, image: Image, tolerance: float | None = None) -> Fit:
    """Refuse an image that the model was not made for, and find where it has the model's pixel size.

    Args:
        contract: the model's.
        image: complete.
        tolerance: of the pixel size, as a part of it; None = the contract's.

    Raises:
        ContractError: naming both sides.
    """
    where = f"image {image.image_id}"
    axes = tuple(axis for axis in image.axes if axis != "c")
    if axes[-len(contract.axes) :] != contract.axes:
        raise ContractError(
            f"{where}: the model sees tiles of the axes {', '.join(contract.axes)}, the image has {', '.join(axes)}"
        )
    warnings = check_bands(contract.bands, image.channels, where)
    if image.dtype.name != contract.dtype:
        raise ContractError(
            f"{where}: the model expects {contract.dtype} pixels, the image has {image.dtype.name}; "
            "use a model trained on such images"
        )
    if contract.spacing is None or image.spacing is None:
        warnings += check_spacing(contract.spacing, image.spacing, 0, where)
        grid = ModelGrid(image, contract.level)
        if contract.level >= image.num_levels:
            raise ContractError(
                f"{where}: the model reads level {contract.level}, the image has the levels 0 to "
                f"{image.num_levels - 1}; use a model trained at its pixel size"
            )
    else:
        grid = sized(image, contract.spacing, contract.spacing_tolerance if tolerance is None else tolerance)
    return Fit(grid, tuple(warnings))


def nearest_level(wanted: Spacing, own: Spacing, num_levels: int, where: str) -> int:
    """The level whose pixels in y and x are nearest in size to those wanted, by ratio; of two as near the finer.

    Args:
        wanted: the model's.
        own: the image's, of level 0.
        num_levels: of the image.
        where: names the image in messages.

    Raises:
        ContractError: if the two cannot be compared.
    """
    finest = _ratios(wanted, own, where)
    return min(range(num_levels), key=lambda level: max(abs(math.log(ratio * 2**level)) for ratio in finest))


def sized(image: Image, wanted: Spacing, tolerance: float) -> ModelGrid:
    """The image's nearest level as pixels of a wanted size: as they are, or resampled.

    Raises:
        ContractError: if no level has such pixels, within the tolerance.
    """
    own, where = image.spacing, f"image {image.image_id}"
    assert own is not None, f"{where} has no pixel size"
    level = nearest_level(wanted, own, image.num_levels, where)
    ratios = _ratios(wanted, own.at_level(level), where)
    if not _is_within(ratios, tolerance):
        sizes = ", ".join(_sides(own.at_level(each)) for each in range(image.num_levels))
        off = max(abs(ratio - 1) for ratio in ratios)
        enough = math.ceil((off - ROUNDING) * 100) / 100
        raise ContractError(
            f"{where}: the model expects {_words(wanted)} within {tolerance:.0%}, the image has {_words(own)}, and its "
            f"levels {sizes}; give spacing_tolerance: {enough:g} to have it resampled, or use a model trained at its "
            "pixel size"
        )
    if _is_within(ratios, SAME):
        return ModelGrid(image, level)
    return ModelGrid(image, level, (1 / ratios[0], 1 / ratios[1]))


def check_alike(package: ModelPackage, other: ModelPackage) -> None:
    """Refuse to average two models that were not made for the same images and classes.

    Raises:
        ContractError: naming both, and what differs.
    """
    for what in ("axes", "bands", "dtype", "level", "stretch"):
        one, two = getattr(package.contract, what), getattr(other.contract, what)
        if one != two:
            raise ContractError(f"ensemble: {package.model_id} has the {what} {one}, {other.model_id} has {two}")
    one, two = ([info.name for info in each.classes] for each in (package, other))
    if one != two:
        raise ContractError(
            f"ensemble: {package.model_id} has the classes {', '.join(one)}, {other.model_id} has {', '.join(two)}"
        )
    first, second = package.info.instances, other.info.instances
    if first != second:
        told = [
            f"objects by {rule.depth_px} px of depth, and of {rule.min_px} px at least" if rule else "no objects"
            for rule in (first, second)
        ]
        raise ContractError(f"ensemble: {package.model_id} tells {told[0]}, {other.model_id} {told[1]}")
    spacing, tolerance = package.contract.spacing, package.contract.spacing_tolerance
    check_spacing(spacing, other.contract.spacing, tolerance, f"ensemble: {other.model_id}")


def check_bands(expected: tuple[str, ...], got: tuple[str, ...], where: str) -> list[str]:
    """Compare bands by number and name; names that only count ("band 1") say nothing, which is a warning.

    Args:
        expected: the model's.
        got: the image's.
        where: names the image in messages.
    """
    if expected == got:
        return []
    both = f"the model expects the bands {', '.join(expected)} in this order, the image has {', '.join(got)}"
    if len(expected) == len(got) and (_only_count(expected) or _only_count(got)):
        return [f"{where}: {both}; taken as the same"]
    raise ContractError(f"{where}: {both}; use a model trained on such images")


def _only_count(bands: tuple[str, ...]) -> bool:
    return all(re.fullmatch(r"(band|channel) \d+", name) for name in bands)


def check_spacing(expected: Spacing | None, got: Spacing | None, tolerance: float, where: str) -> list[str]:
    """Compare pixel sizes in y and x, in whatever units they are given.

    Args:
        expected: the model's.
        got: the image's.
        tolerance: relative difference that is accepted.
        where: names the image in messages.
    """
    if expected is None and got is None:
        return []
    if expected is None or got is None:
        unknown, known = ("model", got) if expected is None else ("image", expected)
        return [f"{where}: pixel size of the {unknown} is unknown, the other's is {_words(known)}; taken as the same"]
    if not _is_within(_ratios(expected, got, where), tolerance):
        raise ContractError(
            f"{where}: the model expects {_words(expected)} within {tolerance:.0%}, the image has {_words(got)}; "
            "resample it, or use a model trained at its pixel size"
        )
    return []


def _ratios(expected: Spacing, got: Spacing, where: str) -> tuple[float, float]:
    """How many times as large as expected a pixel is, along y and x."""
    factor = _ratio(got.unit, expected.unit)
    if factor is None or any(axis not in spacing.values for axis in "yx" for spacing in (expected, got)):
        raise ContractError(f"{where}: the model expects {_words(expected)}, the image has {_words(got)}")
    if min(spacing.values[axis] for axis in "yx" for spacing in (expected, got)) <= 0:
        raise ContractError(f"{where}: a pixel has no size: the model expects {_words(expected)}, got {_words(got)}")
    y, x = (got.values[axis] * factor / expected.values[axis] for axis in "yx")
    return y, x


def _is_within(ratios: tuple[float, float], tolerance: float) -> bool:
    return all(abs(ratio - 1) <= tolerance + ROUNDING for ratio in ratios)


def _ratio(unit: str, other: str) -> float | None:
    """How many `other` one `unit` is; None if the two cannot be compared."""
    if unit == other:
        return 1.0
    if unit in METERS_PER_UNIT and other in METERS_PER_UNIT:
        return METERS_PER_UNIT[unit] / METERS_PER_UNIT[other]
    return None


def _words(spacing: Spacing | None) -> str:
    if spacing is None:
        return "unknown"
    return f"{_sides(spacing)} {spacing.unit} per pixel"


def _sides(spacing: Spacing) -> str:
    return " x ".join(f"{spacing.values[axis]:g}" for axis in ("y", "x") if axis in spacing.values)
