"""Choice: what each kind of images gets without being asked, and what may be asked for."""

from typing import Any

import pytest

from segcore.augment import Augments, ImageFacts, choose_augments
from segcore.augment.choice import ALL_FLIPS, LEFT_RIGHT, NAMES
from segcore.config import TrainConfig, build_config
from segcore.errors import ConfigError

SLIDE = ImageFacts(3, "uint8", "micrometer", is_bright=True)
FLUORESCENCE = ImageFacts(3, "uint8", "micrometer")
SATELLITE = ImageFacts(8, "int16", "meter", is_georeferenced=True)
AERIAL = ImageFacts(3, "uint8", is_georeferenced=True, high="sea")
CT = ImageFacts(1, "float32", "millimeter", is_in_patient=True, high="spine")
STREET = ImageFacts(3, "uint8", high="sky")
PICTURE = ImageFacts(3, "uint8")
HIPS = ImageFacts(1, "int16", "millimeter", is_in_patient=True, sided="hip left")


def chosen(facts: ImageFacts, **asked: Any) -> Augments:
    return choose_augments(asked, facts)


@pytest.mark.parametrize("facts", [SLIDE, FLUORESCENCE, SATELLITE, AERIAL, CT, STREET, PICTURE, HIPS])
def test_every_operation_has_a_share_and_a_reason_and_nothing_is_mixed(facts: ImageFacts) -> None:
    found = chosen(facts)
    assert list(found.shares) == list(found.reasons) == list(NAMES)
    assert all(0 <= share <= 1 for share in found.shares.values())
    assert all(reason and "\n" not in reason for reason in found.reasons.values())
    assert (found.shares["mixup"], found.shares["cutmix"]) == (0, 0)


def test_stain_is_for_bright_slides() -> None:
    assert [chosen(facts).shares["stain"] > 0 for facts in (SLIDE, FLUORESCENCE, AERIAL, STREET, CT)] == [
        True, False, False, False, False
    ]  # fmt: skip


def test_bands_are_dropped_where_there_are_many() -> None:
    assert chosen(SATELLITE).shares["bands"] > 0
    assert chosen(AERIAL).shares["bands"] == 0


@pytest.mark.parametrize(
    ("facts", "flips", "max_angle", "bent"),
    [
        (SLIDE, ALL_FLIPS, 180, True),
        (SATELLITE, ALL_FLIPS, 180, False),
        (AERIAL, ALL_FLIPS, 180, False),
        (CT, (2, 4, 6), 30, True),
        (STREET, LEFT_RIGHT, 10, False),
        (PICTURE, ALL_FLIPS, 180, True),
    ],
)
def test_how_images_are_turned_and_bent(
    facts: ImageFacts, flips: tuple[int, ...], max_angle: float, bent: bool
) -> None:
    found = chosen(facts)
    assert (found.flips, found.max_angle, found.shares["elastic"] > 0) == (flips, max_angle, bent)
    assert found.shares["flip"] > 0


def test_classes_that_tell_left_from_right_are_not_mirrored() -> None:
    found = chosen(HIPS)
    assert found.shares["flip"] == 0
    assert "hip left" in found.reasons["flip"]


def test_what_is_asked_for_wins_and_the_rest_stays() -> None:
    found, before = chosen(STREET, flip=0.0, cutmix=0.3), chosen(STREET)
    assert (found.shares["flip"], found.shares["cutmix"]) == (0.0, 0.3)
    assert (found.reasons["flip"], found.reasons["cutmix"]) == ("asked for", "asked for")
    assert all(found.shares[name] == before.shares[name] for name in NAMES if name not in ("flip", "cutmix"))


@pytest.mark.parametrize(
    ("facts", "asked", "message"),
    [
        (CT, {"stain": 0.5}, "stain expected uint8 images of 3 bands, got float32 of 1"),
        (CT, {"bands": 0.5}, "bands expected images of 2 or more bands, got 1"),
        (PICTURE, {"mixup": 0.6, "cutmix": 0.5}, "1 at most together, got 1.1"),
    ],
)
def test_what_the_images_do_not_allow_is_refused(facts: ImageFacts, asked: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen(facts, **asked)


@pytest.mark.parametrize(("asked", "message"), [({"flip": 1.5}, "less than or equal to 1"), ({"flap": 0.5}, "flap")])
def test_shares_are_shares_of_known_operations(asked: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(TrainConfig, {"workspace": "w", "augments": asked})
