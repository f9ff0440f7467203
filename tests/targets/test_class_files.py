"""Class files: several masks of one class each become one target."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segcore.classes import ClassInfo
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.targets import ClassTable, TargetOpening
from segcore.targets.target import open_target
from tests.targets.volumes import source_info, whole

YX = ("c", "y", "x")
SHAPE = (60, 80)
IMAGE = source_info((1, *SHAPE), YX)


def save(path: Path, where: Any) -> str:
    Image.fromarray(np.where(where, 255, 0).astype(np.uint8)).save(path)
    return str(path)


@pytest.fixture
def two(tmp_path: Path) -> tuple[list[str], Any, Any]:
    """Files of a ring and of the disc in it, which touch; and what they hold."""
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(y - 30, x - 40)
    disc, ring = distance < 12, (distance > 10) & (distance < 20)
    return [save(tmp_path / "axon.png", disc), save(tmp_path / "myelin.png", ring)], disc, ring


def table(*named: tuple[int, str]) -> ClassTable:
    return ClassTable(classes=tuple(ClassInfo(id=i, name=name, color=(i, 0, 0)) for i, name in named))


def test_ids_follow_the_order_and_the_later_class_wins(two: tuple[list[str], Any, Any]) -> None:
    paths, disc, ring = two
    target = open_target(paths, IMAGE, TargetOpening(), names=("axon", "myelin"))
    assert (target.kind, target.has_instances) == ("classes", False)
    assert [(info.id, info.name) for info in target.classes] == [(0, "background"), (1, "axon"), (2, "myelin")]
    expected = np.where(ring, 2, np.where(disc, 1, 0))
    for window in (Window.whole(SHAPE), Window((20, 31), (17, 9))):
        np.testing.assert_array_equal(target.read(window), expected[window.slices])
    shared = int((disc & ring).sum())
    assert target.notes == (f"'axon' and 'myelin' overlap on {shared} px; 'myelin', the later one, has them",)
    target.close()


def test_a_table_gives_ids_by_name(two: tuple[list[str], Any, Any]) -> None:
    paths, disc, ring = two
    known = table((0, "none"), (2, "Axon"), (5, "myelin"))
    target = open_target(paths, IMAGE, TargetOpening(table=known), names=("axon", "myelin"))
    np.testing.assert_array_equal(whole(target, SHAPE), np.where(ring, 5, np.where(disc, 2, 0)))
    without = table((0, "axon"), (1, "myelin"))
    target = open_target(paths, IMAGE, TargetOpening(table=without), names=("axon", "myelin"))
    np.testing.assert_array_equal(whole(target, SHAPE), np.where(ring, 1, np.where(disc, 0, 255)))
    with pytest.raises(SourceError, match="has no 'nerve'; its classes are none, Axon, myelin"):
        open_target(paths, IMAGE, TargetOpening(table=known), names=("axon", "nerve"))


def test_several_files_may_be_of_one_class(two: tuple[list[str], Any, Any]) -> None:
    paths, disc, ring = two
    target = open_target(paths, IMAGE, TargetOpening(), names=("fibre", "fibre"))
    np.testing.assert_array_equal(whole(target, SHAPE), disc | ring)
    assert target.notes == ()


def test_the_mask_of_one_class_has_two_values(tmp_path: Path, two: tuple[list[str], Any, Any]) -> None:
    ids = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) // 1600
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "ids.png")
    with pytest.raises(SourceError, match=r"ids\.png: the mask of one class holds 0 and 1 or 255, .* up to 2"):
        open_target([*two[0], str(tmp_path / "ids.png")], IMAGE, TargetOpening(), names=("a", "b", "c"))
    grey = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    target = open_target([str(tmp_path / "grey.png")], IMAGE, TargetOpening(threshold=99), names=("a",))
    np.testing.assert_array_equal(whole(target, SHAPE), grey > 99)


def test_real_axons(data_dir: Path) -> None:
    folder = data_dir / "sem_axon/derivatives/labels/sub-rat3/ses-01/micr"
    paths = [next(folder.glob(f"*_seg-{name}-manual.png")) for name in ("axon", "myelin")]
    masks = []
    for path in paths:
        with Image.open(path) as picture:
            masks.append(np.asarray(picture) > 0)
    image = source_info((1, *masks[0].shape), YX)
    target = open_target([str(path) for path in paths], image, TargetOpening(), names=("axon", "myelin"))
    expected = np.where(masks[1], 2, np.where(masks[0], 1, 0))
    np.testing.assert_array_equal(whole(target, expected.shape), expected)
    assert set(np.unique(expected)) == {0, 1, 2}
