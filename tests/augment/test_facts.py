"""Facts: what images are, read from the store; an up is found where there is one, and nowhere else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.augment import ImageFacts, facts_of
from segcore.augment.facts import class_heights, high_class
from segcore.classes import ClassInfo, default_classes
from segcore.sampling import IGNORED, LabelledImage
from segcore.spatial import Affine, Georef, Spacing
from segcore.store import Workspace
from tests.synthetic import put_image, put_label

GEOREF = Georef(crs_wkt=None, epsg=32632, transform=(10, 0, 0, 0, -10, 0))
AFFINE = Affine(matrix=((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)), orientation="RAS")


def microns(size: float) -> Spacing:
    return Spacing(values={"y": size, "x": size}, unit="micrometer", origin="file")


def images(folder: Path, value: int, classes: tuple[ClassInfo, ...], **known: Any) -> list[LabelledImage]:
    """Four images of one value, of class 1 in their upper third."""
    workspace = Workspace.open(str(folder), create=True)
    target = np.zeros((48, 40), np.uint8)
    target[:16] = 1
    for number in range(4):
        put_image(workspace, f"i{number}", np.full((3, 48, 40), value, np.uint8), **known)
        put_label(workspace, f"i{number}", "target", target, classes)
    return [LabelledImage(workspace.image(name), workspace.label(name, "target")) for name in workspace.image_ids()]


@pytest.mark.parametrize(
    ("value", "known", "expected"),
    [
        (200, {"spacing": microns(0.5)}, ImageFacts(3, "uint8", "micrometer", is_bright=True, high="foreground")),
        (40, {"spacing": microns(0.5)}, ImageFacts(3, "uint8", "micrometer", high="foreground")),
        (40, {"spacing": microns(84.7)}, ImageFacts(3, "uint8", high="foreground")),  # 300 dpi
        (40, {"georef": GEOREF}, ImageFacts(3, "uint8", is_georeferenced=True, high="foreground")),
        (40, {"affine": AFFINE}, ImageFacts(3, "uint8", is_in_patient=True, high="foreground")),
    ],
)
def test_facts_are_those_of_the_store(tmp_path: Path, value: int, known: Any, expected: ImageFacts) -> None:
    classes = default_classes(2)
    assert facts_of(images(tmp_path, value, classes, **known), classes, (value,) * 3) == expected


@pytest.mark.parametrize(
    ("name", "sided"),
    [("kidney_left", True), ("Right hip", True), ("bright", False), ("leftover", False), ("cleft", False)],
)
def test_a_class_that_names_a_side_is_found(tmp_path: Path, name: str, sided: bool) -> None:
    classes = (default_classes(2)[0], default_classes(2)[1].model_copy(update={"name": name}))
    assert facts_of(images(tmp_path, 40, classes), classes, (40,) * 3).sided == (name if sided else None)


def test_class_heights_are_means_over_pixels_that_count() -> None:
    classes = np.array([[0, 0, 1], [1, IGNORED, 1], [IGNORED, 1, 1], [0, 0, 0]])
    heights, pixels = class_heights(classes, 3)
    expected_0 = (2 * 0.125 + 3 * 0.875) / 5 - 0.5
    expected_1 = (0.125 + 2 * 0.375 + 2 * 0.625) / 5 - 0.5
    np.testing.assert_allclose(heights[:2], [expected_0, expected_1])
    assert pixels.tolist() == [5, 5, 0]


def test_high_class_is_one_that_keeps_its_height() -> None:
    rng = np.random.default_rng(0)
    pixels = np.tile([50.0, 45.0, 5.0], (12, 1))
    anywhere = rng.uniform(-0.4, 0.4, (12, 3))
    assert high_class(anywhere, pixels) is None
    sky = anywhere.copy()
    sky[:, 1] = rng.normal(-0.3, 0.05, 12)
    assert high_class(sky, pixels) == 1
    assert high_class(sky[:2], pixels[:2]) is None  # of two images nothing follows
    rare = pixels * [1, 0.01, 1]
    assert high_class(sky, rare) is None


def test_high_class_is_hardly_ever_found_by_chance() -> None:
    """Random places, few images, many classes: below 1 in 20."""
    rng = np.random.default_rng(1)
    found = [high_class(rng.uniform(-0.3, 0.3, (8, 6)), np.ones((8, 6))) for _ in range(400)]
    assert sum(number is not None for number in found) < 20
