"""Settings: two sides -> *by what they are compared*: rules, rulers of the boundaries, and what made each mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segcore import __version__
from segcore.config import ReportConfig, ScoreConfig
from segcore.errors import StoreError
from segcore.publish.provenance import facts, model_of, versions, worth_telling
from segcore.publish.sides import Side
from segcore.report import Fact
from segcore.report.html import distance
from segcore.scoring.boundary import Ruler, common_lengths
from segcore.scoring.document import settings_of
from segcore.scoring.summary import ImageScore
from segcore.store import Label

MOST_TRIED = 20
"""Masks that are opened in search of one that stands as it was scored."""
BOTH_EMPTY = {"undefined": "enters no mean", "one": "counts as perfect"}
"""What becomes of a class that neither target nor mask has."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a comparison says of how it was made."""

    rules: dict[str, Any]
    """Those that the scores of both were made by."""
    sides: tuple[dict[str, Any], dict[str, Any]]
    """Of each side: `boundary` (None where it was not measured), `model`."""
    provenance: dict[str, tuple[Fact, ...]]
    """Heading -> facts."""


def settings(config: ReportConfig, rules: ScoreConfig, sides: Mapping[str, Side]) -> Settings:
    """Of a comparison.

    Args:
        config: what was asked for.
        rules: what the counts become scores by.
        sides: label -> side, the first one first.
    """
    told = {key: value for key, value in settings_of(rules).items() if key != "boundary"}
    asked = config.model_dump(mode="json", include={"images", "split"}, exclude_defaults=True)
    shown = {**told, "both_empty": f"{rules.both_empty}: a class that neither has {BOTH_EMPTY[rules.both_empty]}"}
    found = {"Settings": facts({**shown, **asked, "code_version": __version__})}
    one, other = (_Made.of(side) for side in sides.values())
    for label, side, made in zip(sides, sides.values(), (one, other), strict=True):
        found[f"Mask of {label}"] = made.facts(side)
    found["Versions"] = versions()
    return Settings(told, (one.as_json(), other.as_json()), found)


def ruler_notes(sides: Sequence[Side], paired: Sequence[tuple[ImageScore, ImageScore]]) -> tuple[str, ...]:
    """That boundaries of both are not compared, where they were measured differently.

    Args:
        sides: with what was measured.
        paired: images of both, from which that is left out (`pairs`).
    """
    one, other = ({image.image_id: _ruler(image) for image in side.images} for side in sides)
    both = [(one[first.image_id], other[second.image_id]) for first, second in paired]
    rulers = [pair for pair in both if pair != (None, None)]
    apart = [pair for pair in rulers if pair[0] != pair[1]]
    if not apart:
        return ()
    where = "" if len(apart) == len(rulers) else f" in {len(apart)} of {len(rulers)} images"
    return (f"boundaries were measured differently: {_difference(sides, apart[0])}; they are not compared{where}",)


def _ruler(image: ImageScore) -> Ruler | None:
    return None if image.boundary is None else image.boundary.ruler


def _difference(sides: Sequence[Side], rulers: tuple[Ruler | None, ...]) -> str:
    one, other = ("not at all" if side.boundary is None else f"within {side.boundary['tolerance']}" for side in sides)
    if one != other:
        return f"{one} and {other.removeprefix('within ') if one.startswith('within ') else other}"
    halos = [str(_halo_px(ruler)) for ruler in rulers if ruler is not None]
    return f"up to {' and '.join(halos)} pixels" if len(set(halos)) > 1 else "pixels have another size"


def _halo_px(ruler: Ruler) -> int:
    """How many of the shortest sides of a pixel the cap is."""
    return round(ruler.cap / min(side for side in ruler.sides if side > 0))


@dataclass(frozen=True, slots=True)
class _Made:
    """By what a side's boundaries were measured, and its masks made."""

    boundary: dict[str, Any] | None
    model: str | None
    mask: Label | None
    """One that stands as it was scored."""

    @classmethod
    def of(cls, side: Side) -> "_Made":
        mask = _standing(side)
        model = None if mask is None else (mask.attributes.get("model") or {}).get("id")
        return cls(_boundary(side), model, mask)

    def as_json(self) -> dict[str, Any]:
        return {"boundary": self.boundary, "model": self.model}

    def facts(self, side: Side) -> tuple[Fact, ...]:
        told = {"mask": side.mask, "boundary tolerance": "boundaries were not measured"}
        if self.boundary is not None:
            halo, unit = self.boundary["halo_px"], self.boundary["unit"]
            lengths = {name: _length(self.boundary[name], unit) for name in ("tolerance", "cap")}
            told["boundary tolerance"] = self.boundary["asked"] + lengths["tolerance"]
            told["boundary distances up to"] = ("of several lengths" if halo is None else f"{halo}px") + lengths["cap"]
        if self.mask is None:
            told["model"] = "not known: the masks that were scored stand no more"
        else:
            attributes = self.mask.attributes
            told |= {key: attributes[key] for key in ("model", "ensemble", "code_version") if attributes.get(key)}
        known = [] if self.mask is None else [self.mask.image_id]
        package = worth_telling(model_of(side.workspace, {"per_image": known}, side.mask))
        return facts({**told, **({"package": package} if package else {})})


def _boundary(side: Side) -> dict[str, Any] | None:
    """What was asked for, and the lengths that it became; None of lengths that differ from image to image."""
    rulers = {ruler for ruler in map(_ruler, side.images) if ruler is not None}
    if side.boundary is None or not rulers:
        return None
    halos = set(map(_halo_px, rulers))
    halo_px = halos.pop() if len(halos) == 1 else None
    return {"asked": side.boundary["tolerance"], "halo_px": halo_px, **common_lengths(rulers)}


def _length(value: float | None, unit: str | None) -> str:
    return "" if value is None or unit in (None, "px") else f" ({distance(value, unit)})"


def _standing(side: Side) -> Label | None:
    """The first mask that is still the one that was scored."""
    for image in side.images[:MOST_TRIED]:
        try:
            return side.mask_of(image)
        except StoreError:
            continue
    return None
