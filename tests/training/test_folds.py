"""Folds: groups stay whole, each is held out once, and what is told of all is what is told of each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.models.package import read_package
from segcore.store import Workspace
from segcore.training import train
from segcore.training.data import gather
from segcore.training.folds import fold_of, summarised
from tests.synthetic import put_image, put_label

TINY: dict[str, Any] = {"channels": (4, 8), "tile_px": 32, "batch": 2, "threads": 1, "max_steps": 4, "device": "cpu"}


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (1, 64, 64), dtype=np.uint8)
        split = "test" if number == 5 else "train" if number == 0 else None
        put_image(ws, f"i{number}", pixels, group=f"g{number // 2}", split=split)
        put_label(ws, f"i{number}", "target", (pixels[0] > 127).astype(np.uint8))
    return ws


@pytest.mark.parametrize(("groups", "folds"), [(10, 5), (11, 5), (3, 3), (40, 2)])
def test_groups_are_dealt_out_evenly(groups: int, folds: int) -> None:
    names = [f"g{number}" for number in range(groups)]
    dealt = fold_of(names * 2, folds, seed=3)
    sizes = np.bincount(list(dealt.values()), minlength=folds)
    assert set(dealt) == set(names)
    assert sizes.max() - sizes.min() <= 1
    assert dealt == fold_of(names[::-1], folds, seed=3)
    assert any(dealt != fold_of(names, folds, seed) for seed in range(4, 9))


def test_each_image_is_held_out_once_with_its_group_and_test_images_never(ws: Workspace) -> None:
    config = TrainConfig(workspace=ws.uri, folds=2)
    held: list[str] = []
    for fold in range(2):
        data = gather(ws, config, fold)
        training, validation = ({i.image_id for i in images} for images in (data.training, data.validation))
        assert not training & validation
        assert training | validation == {"i0", "i1", "i2", "i3"}
        assert {i.image.group for i in data.training}.isdisjoint({i.image.group for i in data.validation})
        held += validation
    assert sorted(held) == ["i0", "i1", "i2", "i3"]
    with pytest.raises(ConfigError, match="folds 4: expected as many groups of images, got 2; give folds: 2 or fewer"):
        gather(ws, TrainConfig(workspace=ws.uri, folds=4), 0)


def test_cross_validation_trains_a_model_for_each_fold_and_finds_them_again(ws: Workspace) -> None:
    config = TrainConfig(workspace=ws.uri, folds=2, run="cv", **TINY)
    result = train(config)
    assert len(result.details["models"]) == len(result.paths) == 2
    assert {read_package(ws, model).info.training["fold"] for model in result.details["models"]} == {0, 1}
    assert sorted(ws.objects.folders("runs")) == ["cv-fold1", "cv-fold2"]
    assert result.scores is not None
    each = [scores["foreground_iou"] for scores in result.scores["per_fold"]]
    assert result.scores["foreground_iou"] == pytest.approx(np.mean(each))
    assert result.scores["deviation"]["foreground_iou"] == pytest.approx(np.std(each, ddof=1))
    assert (result.scores["images"], result.scores["pixels"]) == (4, 4 * 64 * 64)
    again = train(config)
    assert (again.paths, again.scores) == (result.paths, result.scores)


def test_a_score_that_a_fold_lacks_enters_no_mean() -> None:
    rare = {"miou": 0.5, "foreground_iou": None, "classes": {"a": {"iou": None}}, "images": 1, "pixels": 10}
    usual = {"miou": 0.7, "foreground_iou": 0.9, "classes": {"a": {"iou": 0.4}}, "images": 2, "pixels": 30}
    found = summarised([rare, usual])
    assert found["miou"] == pytest.approx(0.6)
    assert found["foreground_iou"] == 0.9
    assert found["classes"] == {"a": {"iou": 0.4}}
    assert (found["images"], found["pixels"]) == (3, 40)
    assert found["deviation"]["miou"] == pytest.approx(0.1 * 2**0.5)
