"""Contract: does an image meet what the model package was trained for? Checked before its first tile."""

import re

from segcore.errors import ContractError
from segcore.models.info import InputContract
from segcore.models.package import ModelPackage
from segcore.spatial import METERS_PER_UNIT, Spacing
from segcore.store import Image


def check_contract(contract: InputContract, image: Image) -> list[str]:
    """Refuse an image that the model was not made for.

    Returns:
        Warnings, one line each: band names or a spacing that one side does not know.

    Raises:
        ContractError: naming both sides.
    """
    where = f"image {image.image_id}"
    if contract.level != 0:
        raise ContractError(f"{where}: the model reads level {contract.level}; expected a model of level 0")
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
    return warnings + check_spacing(contract.spacing, image.spacing, contract.spacing_tolerance, where)


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
    for axis in ("y", "x"):
        factor = _ratio(got.unit, expected.unit)
        if factor is None or axis not in expected.values or axis not in got.values:
            raise ContractError(f"{where}: the model expects {_words(expected)}, the image has {_words(got)}")
        ratio = got.values[axis] * factor / expected.values[axis]
        if abs(ratio - 1) > tolerance:
            raise ContractError(
                f"{where}: the model expects {_words(expected)} within {tolerance:.0%}, the image has {_words(got)}; "
                "resample it, or use a model trained at its pixel size"
            )
    return []


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
    sides = " x ".join(f"{spacing.values[axis]:g}" for axis in ("y", "x") if axis in spacing.values)
    return f"{sides} {spacing.unit} per pixel"
