"""Choice: facts, settings -> *which augmentation at which share, and why*.

A share is that of the tiles which an operation changes. Numbers that nobody gave are what works over many sets, not
tuned on any one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from segcore.augment.facts import ImageFacts
from segcore.config.train import Augment
from segcore.errors import ConfigError

NAMES: tuple[Augment, ...] = get_args(Augment)

ALL_FLIPS = (1, 2, 3, 4, 5, 6, 7)
MIRRORS = (2, 4, 6)
LEFT_RIGHT = (4,)
"""Of the eight symmetries of a square (see `Augmentation.symmetry`)."""

MANY_BANDS = 3
FEW_DEGREES, SOME_DEGREES, ANY_DEGREES = 10.0, 30.0, 180.0
TINY_UNITS, LAND_UNITS = ("micrometer", "nanometer"), ("meter", "kilometer", "degree", "foot")
BENT = 0.25
"""Share of elastic where it suits: enough that shapes vary, few enough that textures stay."""


@dataclass(frozen=True)
class Augments:
    """Operations with their shares, limits and reasons."""

    shares: dict[Augment, float]
    """Of every operation."""
    reasons: dict[Augment, str]
    flips: tuple[int, ...] = ALL_FLIPS
    """The symmetries that `flip` draws from."""
    max_angle: float = ANY_DEGREES
    """Largest rotation either way, in degrees."""

    def __str__(self) -> str:
        """The shares of what is done, in one line."""
        return ", ".join(f"{name} {share:g}" for name, share in self.shares.items() if share) or "none"


OFF = Augments(dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, "augment is off"))


@dataclass(frozen=True)
class _Kind:
    """What one kind of images allows."""

    flips: tuple[int, ...]
    flip_share: float
    max_angle: float
    place: str
    """Why they are turned so."""
    elastic: float
    bend: str
    """Why they are bent, or not."""
    light: float = 1.0
    lamp: str = "lamps, sensors and seasons differ from image to image"


LAND = _Kind(
    ALL_FLIPS, 7 / 8, ANY_DEGREES, "seen from above there is no up", 0.0, "roofs, roads and fields are straight"
)
SPECIMEN = _Kind(ALL_FLIPS, 7 / 8, ANY_DEGREES, "a specimen lies any way round", BENT, "tissue and cells are soft")
PATIENT = _Kind(
    MIRRORS,
    3 / 4,
    SOME_DEGREES,
    "patients lie nearly alike, and one mirrored still teaches shapes; but none lies on the side",
    BENT,
    "organs are soft",
    light=0.3,
    lamp="scanners differ a little; Hounsfield units less",
)
UPRIGHT = _Kind(LEFT_RIGHT, 1 / 2, FEW_DEGREES, "", 0.0, "bent streets and walls are not seen")
PICTURE = _Kind(ALL_FLIPS, 7 / 8, ANY_DEGREES, "no class keeps to the top or the bottom", BENT, "a gentle bend")


def choose_augments(asked: Mapping[Augment, float], facts: ImageFacts) -> Augments:
    """What suits the images, with what was asked for laid over it.

    Args:
        asked: `TrainConfig.augments`.
        facts: of the training images.

    Raises:
        ConfigError: if something was asked for that the images do not allow.
    """
    kind = _kind(facts)
    chosen = _chosen(kind, facts)
    _check_asked(asked, facts)
    chosen |= {name: (share, "asked for") for name, share in asked.items()}
    shares, reasons = {name: chosen[name][0] for name in NAMES}, {name: chosen[name][1] for name in NAMES}
    return Augments(shares, reasons, kind.flips, kind.max_angle)


def _kind(facts: ImageFacts) -> _Kind:
    """By where the images come from; where nothing tells, by whether their targets know up from down."""
    if facts.sided:
        place = f"class {facts.sided} tells left from right: mirrored, it would be wrong"
        return replace(UPRIGHT, flip_share=0.0, place=place, elastic=BENT, bend="a gentle bend")
    if facts.is_georeferenced or facts.unit in LAND_UNITS:
        return LAND
    if facts.is_in_patient or facts.unit in ("millimeter", "centimeter"):
        return PATIENT
    if facts.unit in TINY_UNITS:
        return SPECIMEN
    if facts.high:
        return replace(UPRIGHT, place=f"class {facts.high} keeps to one end: the images have an up")
    return PICTURE


def _chosen(kind: _Kind, facts: ImageFacts) -> dict[Augment, tuple[float, str]]:
    stained = _is_rgb8(facts) and facts.unit in TINY_UNITS and facts.is_bright
    if stained:
        stain = (0.5, "bright RGB at micrometres: a stained slide, and laboratories stain differently")
    else:
        stain = (0.0, "only for bright 8-bit RGB with a pixel size in µm")
    many = facts.num_bands > MANY_BANDS
    return {
        "flip": (kind.flip_share, kind.place),
        "rotate": (0.5, f"up to {kind.max_angle:.0f}° either way: {kind.place}"),
        "scale": (0.5, "objects differ in size; up to 1.3 x, larger ones as a crop"),
        "elastic": (kind.elastic, kind.bend),
        "light": (kind.light, kind.lamp),
        "gamma": (kind.light, kind.lamp),
        "blur": (0.1, "focus differs"),
        "noise": (0.2, "exposure differs"),
        "stain": stain,
        "bands": (0.1, "a band can fail, and no single one may be all that counts") if many else (
            0.0, f"only for more than {MANY_BANDS} bands"
        ),
        "mixup": (0.0, "only where asked for"),
        "cutmix": (0.0, "only where asked for"),
    }  # fmt: skip


def _check_asked(asked: Mapping[Augment, float], facts: ImageFacts) -> None:
    if asked.get("stain") and not _is_rgb8(facts):
        raise ConfigError(
            f"augments: stain expected uint8 images of 3 bands, got {facts.dtype} of {facts.num_bands}; leave it out"
        )
    if asked.get("bands") and facts.num_bands < 2:
        raise ConfigError(
            "augments: bands expected images of 2 or more bands, got 1, which would be empty; leave it out"
        )
    both = asked.get("mixup", 0.0) + asked.get("cutmix", 0.0)
    if both > 1:
        raise ConfigError(f"augments: expected shares of mixup and cutmix of 1 at most together, got {both:g}")


def _is_rgb8(facts: ImageFacts) -> bool:
    return facts.num_bands == 3 and facts.dtype == "uint8"
