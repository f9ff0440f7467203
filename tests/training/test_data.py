"""Data: who trains and who validates, what is measured, and what is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.classes import ClassInfo
from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.spatial import Spacing
from segcore.store import Workspace
from segcore.training.data import TrainingData, gather
from tests.synthetic import put_image, put_label


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"), create=True)


def put(workspace: Workspace, image_id: str, seed: int = 0, channels: int = 3, **more: Any) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 200, (channels, 20, 24), dtype=np.uint8)
    put_image(workspace, image_id, pixels, **more)
    put_label(workspace, image_id, "target", (pixels[0] > 99).astype(np.uint8))
    return pixels


def gathered(workspace: Workspace, **settings: Any) -> TrainingData:
    return gather(workspace, TrainConfig(workspace=workspace.uri, **settings))


def ids(images: Any) -> set[str]:
    return {image.image_id for image in images}


def test_split_of_the_images_is_kept_and_test_images_are_never_used(workspace: Workspace) -> None:
    for image_id, split in (("a", "train"), ("b", "val"), ("c", "test"), ("d", None), ("e", "train")):
        put(workspace, image_id, split=split)
    put_image(workspace, "f", np.zeros((3, 20, 24), np.uint8))  # no target
    data = gathered(workspace)
    assert ids(data.training) == {"a", "d", "e"}
    assert ids(data.validation) == {"b"}


def test_images_without_a_split_are_held_out_by_group(workspace: Workspace) -> None:
    for number in range(10):
        put(workspace, f"i{number}", group=f"patient {number // 2}")
    data = gathered(workspace, validation_share=0.4)
    held = ids(data.validation)
    assert len(held) == 4
    assert all((f"i{n}" in held) == (f"i{n + 1}" in held) for n in range(0, 10, 2))
    assert held == ids(gathered(workspace, validation_share=0.4).validation)
    assert any(held != ids(gathered(workspace, validation_share=0.4, seed=seed).validation) for seed in range(1, 5))


def test_images_without_a_split_inherit_their_groups(workspace: Workspace) -> None:
    for group, split in (("p", "test"), ("q", "val"), ("r", "train")):
        put(workspace, f"{group}-told", group=group, split=split)
        put(workspace, f"{group}-open", group=group)
    data = gathered(workspace)
    assert ids(data.training) == {"r-told", "r-open"}
    assert ids(data.validation) == {"q-told", "q-open"}


def test_a_group_with_two_splits_is_refused_with_both_images_named(workspace: Workspace) -> None:
    put(workspace, "a", group="p", split="train")
    put(workspace, "b", group="p", split="test")
    put(workspace, "p", split="val")  # an image called as the group is none of it
    with pytest.raises(ConfigError, match="group p: expected one split, got train of a and test of b"):
        gathered(workspace)


@pytest.mark.parametrize("nodata", [-9999.0, np.nan, None])
def test_statistics_of_floats_leave_out_what_is_missing_band_by_band(
    workspace: Workspace, nodata: float | None
) -> None:
    pixels = np.random.default_rng(0).normal(50, 9, (2, 20, 24)).astype(np.float32)
    truth = pixels.astype(np.float64)
    for where in (np.s_[:, :3], np.s_[0, 3:8], np.s_[1, 12:]):
        pixels[where] = np.nan if nodata is None else nodata
        truth[where] = np.nan
    pixels[0, 19, 23], truth[0, 19, 23] = np.inf, np.nan
    put_image(workspace, "a", pixels, nodata=nodata)
    put_label(workspace, "a", "target", (np.arange(480).reshape(20, 24) % 2).astype(np.uint8))
    data = gathered(workspace)
    assert data.mean == pytest.approx(np.nanmean(truth, (1, 2)))
    assert data.std == pytest.approx(np.nanstd(truth, (1, 2)))
    assert data.index.pixels.sum() == 17 * 24 - 1  # without rows 0..2, and the one pixel that has no band


def test_statistics_are_numpys_without_nodata(workspace: Workspace) -> None:
    pixels = np.random.default_rng(0).integers(1, 200, (3, 20, 24), dtype=np.uint8)
    pixels[:, :10] = 0
    put_image(workspace, "a", pixels, nodata=0)
    put_label(workspace, "a", "target", (pixels[0] > 99).astype(np.uint8))
    data = gathered(workspace)
    assert data.mean == pytest.approx(pixels[:, 10:].mean((1, 2)))
    assert data.std == pytest.approx(pixels[:, 10:].std((1, 2)))
    assert data.index.pixels.sum() == 10 * 24


def test_a_constant_band_is_divided_by_one(workspace: Workspace) -> None:
    pixels = np.random.default_rng(0).integers(1, 200, (2, 20, 24), dtype=np.uint8)
    pixels[1] = 80
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", (pixels[0] > 99).astype(np.uint8))
    assert gathered(workspace).std[1] == 1.0
    assert gathered(workspace).mean[1] == 80.0


def test_spacing_is_given_where_all_images_agree_at_the_level(workspace: Workspace) -> None:
    half = Spacing(values={"y": 0.5, "x": 0.5}, unit="micrometer", origin="file")
    put(workspace, "a", spacing=half, split="train")
    put(workspace, "b", spacing=half, split="train")
    assert gathered(workspace).spacing is not None
    assert gathered(workspace).spacing.values == {"y": 0.5, "x": 0.5}
    put(workspace, "c", spacing=half.model_copy(update={"values": {"y": 0.25, "x": 0.25}}), split="train")
    assert gathered(workspace, level=0).spacing is None


def test_digest_follows_images_targets_and_roles(workspace: Workspace) -> None:
    put(workspace, "a", split="train")
    first = gathered(workspace).digest
    assert gathered(workspace).digest == first
    put_label(workspace, "a", "target", np.tile(np.array([[0, 1]], np.uint8), (20, 12)), version=1)
    second = gathered(workspace).digest
    put(workspace, "b", split="val")
    assert len({first, second, gathered(workspace).digest}) == 3


def test_no_labelled_image_is_refused(workspace: Workspace) -> None:
    put_image(workspace, "a", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="no labelled images to train on"):
        gathered(workspace)


def test_empty_targets_are_refused(workspace: Workspace) -> None:
    put(workspace, "a")
    put_label(workspace, "a", "target", np.full((20, 24), 255, np.uint8), version=1)
    with pytest.raises(ConfigError, match="targets of all 1 training images are empty"):
        gathered(workspace)
    put_label(workspace, "a", "target", np.zeros((20, 24), np.uint8), version=2)
    with pytest.raises(ConfigError, match=r"nothing but class 0 \(background\) in all 1 training images"):
        gathered(workspace)


def test_images_with_other_bands_are_refused_by_name(workspace: Workspace) -> None:
    put(workspace, "a")
    put(workspace, "b", channels=4)
    with pytest.raises(ConfigError, match="a has bands 3, b has 4"):
        gathered(workspace)


def test_class_ids_with_a_gap_are_refused(workspace: Workspace) -> None:
    put(workspace, "a")
    classes = tuple(ClassInfo(id=number, name=f"k{number}", color=(0, 0, 0)) for number in (0, 1, 3))
    put_label(workspace, "a", "target", np.ones((20, 24), np.uint8), classes=classes, version=1)
    with pytest.raises(ConfigError, match=r"without gaps \(two at least\), got \[0, 1, 3\]"):
        gathered(workspace)


def test_targets_with_other_classes_are_refused(workspace: Workspace) -> None:
    put(workspace, "a")
    put(workspace, "b")
    classes = tuple(ClassInfo(id=number, name=f"k{number}", color=(0, 0, 0)) for number in (0, 1))
    put_label(workspace, "b", "target", np.ones((20, 24), np.uint8), classes=classes, version=1)
    with pytest.raises(ConfigError, match=r"targets differ: a has .*background.*, b has .*k0"):
        gathered(workspace)
