"""Models without weights: train packages them at once with their scores, and all else takes them as any other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcore.config import PredictConfig, TrainConfig, TuneConfig
from segcore.errors import ConfigError, SegcoreError
from segcore.geometry import Window
from segcore.inference import predict, settle
from segcore.models import ModelConfig, build_model
from segcore.models.check import verify_package
from segcore.models.package import ModelPackage, read_package
from segcore.models.portable import export_model
from segcore.results import StageResult
from segcore.store import Image, Workspace
from segcore.training import learner, train
from segcore.training.parallel import Group
from segcore.tune import tune
from tests.synthetic import put_discs

DISC_PX = 24


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Two images of bright discs on a dark, noisy ground, and one that is held out."""
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_discs(workspace, (False, False, True), (96, 88), ((30, 66), (30, 58)), DISC_PX, num_bands=3)
    return workspace.uri


def trained(uri: str, architecture: str, **settings: Any) -> tuple[StageResult, ModelPackage]:
    result = train(TrainConfig(workspace=uri, name="m", architecture=architecture, device="cpu", **settings))
    return result, read_package(Workspace.open(uri), result.details["model"])


def mask_of(uri: str, package: ModelPackage, image_id: str, **settings: Any) -> np.ndarray:
    settings = {"precision": "float32", "device": "cpu", "name": "mask", "halo": 0, **settings}
    result = predict(PredictConfig(workspace=uri, model=package.model_id, **settings))
    assert {item.error for item in result.items} == {None}
    label = Workspace.open(uri).label(image_id, settings["name"])
    return np.asarray(label.read(whole(Workspace.open(uri).image(image_id), "yx")))


def whole(image: Image, axes: str) -> Window:
    return Window.whole(tuple(n for axis, n in zip(image.axes, image.shape(), strict=True) if axis in axes))


def pixels_of(uri: str, image_id: str) -> np.ndarray:
    image = Workspace.open(uri).image(image_id)
    return np.asarray(image.read(whole(image, "cyx")))


def target_of(uri: str, image_id: str) -> np.ndarray:
    workspace = Workspace.open(uri)
    return np.asarray(workspace.label(image_id, "target").read(whole(workspace.image(image_id), "yx")))


def own(package: ModelPackage, pixels: np.ndarray) -> np.ndarray:
    """What the package's model says of all pixels at once."""
    fractions = torch.from_numpy(pixels.astype(np.float32) / 255)
    return package.load_weights()(fractions[None]).argmax(1)[0].numpy()


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [("otsu", {"min_size": "9"}), ("slic", {"segment_px": "8"}), ("local_threshold", {"window": "71"})],
)
def test_trains_at_once_and_predicts_what_the_method_says(
    uri: str, architecture: str, arguments: dict[str, str]
) -> None:
    result, package = trained(uri, architecture, arguments=arguments)
    assert (result.details["steps"], result.scores and result.scores["images"]) == (0, 1)
    assert verify_package(None, package.folder) == []
    assert (package.contract.mean, package.contract.std) == ((0.0,) * 3, (255.0,) * 3)
    mask = mask_of(uri, package, "i2")
    assert np.array_equal(mask, own(package, pixels_of(uri, "i2")))
    target = target_of(uri, "i2") == 1
    iou = (target & (mask == 1)).sum() / (target | (mask == 1)).sum()
    assert iou > 0.7
    assert result.scores is not None
    assert result.scores["foreground_iou"] == pytest.approx(iou, abs=0.02)  # of a tile with a reflected halo


def test_the_same_again_is_the_same_package(uri: str) -> None:
    first, package = trained(uri, "otsu")
    again, other = trained(uri, "otsu")
    assert (again.details["model"], again.scores, other.digest) == (
        first.details["model"],
        first.scores,
        package.digest,
    )
    assert "learning_rate" not in package.info.training
    assert package.info.training["model"]["arguments"]["sigma"] == 1.0
    changed = trained(uri, "otsu", arguments={"sigma": "2"})[0]
    assert changed.details["model"] != first.details["model"]


def test_the_package_says_how_far_the_method_sees(uri: str) -> None:
    contract = trained(uri, "local_threshold", arguments={"window": "21", "sigma": "1", "min_size": "4"})[1].contract
    assert (contract.receptive_px, contract.global_context) == (10 + 4 + 2 * 4, False)
    contract = trained(uri, "otsu")[1].contract
    assert (contract.receptive_px, contract.global_context) == (None, True)


def test_an_exact_method_gives_one_mask_however_the_image_is_cut(uri: str) -> None:
    given = {"window": "21", "min_size": "4", "offset": "0.05"}
    package = trained(uri, "local_threshold", arguments=given)[1]
    masks = [
        mask_of(uri, package, "i2", halo="exact", tile_px=side, blend="crop", name=f"m{side}") for side in (16, 31, 96)
    ]
    assert 0.02 < (masks[0] == 1).mean() < 0.98
    assert all(np.array_equal(mask, masks[0]) for mask in masks[1:])
    reach = package.contract.receptive_px
    assert reach is not None
    around = np.pad(pixels_of(uri, "i2"), ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    assert np.array_equal(masks[0], own(package, around)[reach:-reach, reach:-reach])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"minutes": 1, "init": "x"}, "init, minutes"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"tile_px": 64}, "tile_px"),
        ({"tile_planes": 1}, "tile_planes"),
    ],
)
def test_settings_of_how_to_learn_are_refused(uri: str, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named}: otsu has no weights, and nothing to learn; leave it out, and "):
        trained(uri, "otsu", **settings)


def test_without_held_out_images_there_are_no_scores(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "one"), create=True)
    put_discs(workspace, (False,), (64, 64), ((30, 34), (30, 34)), 18, num_bands=3)
    result, package = trained(workspace.uri, "ndvi")
    assert result.scores == {}
    assert verify_package(None, package.folder) == []


def test_tune_searches_the_arguments(uri: str) -> None:
    search = {"arguments.sigma": "0..3", "arguments.foreground": "bright|dark"}
    result = tune(
        TuneConfig(workspace=uri, architecture="otsu", search=search, trials=2, study="s", device="cpu", seed=1)
    )
    assert [row["state"] for row in result.details["trials"]] == ["complete"] * 2
    assert any(row["params"]["arguments.sigma"] % 1 for row in result.details["trials"])
    for row in result.details["trials"]:
        package = read_package(Workspace.open(uri), row["model"])
        found = package.info.architecture.arguments
        assert (found["sigma"], found["foreground"]) == (
            row["params"]["arguments.sigma"],
            row["params"]["arguments.foreground"],
        )
        assert package.info.scores["foreground_iou"] == row["score"]
    assert result.details["best"]["score"] == max(row["score"] for row in result.details["trials"])


def test_tune_searches_its_own_arguments_where_nothing_is_named_and_begins_with_those_of_train(uri: str) -> None:
    given = {"min_size": "20"}
    result = tune(TuneConfig(workspace=uri, architecture="otsu", arguments=given, trials=2, device="cpu"))
    assert [row["state"] for row in result.details["trials"]] == ["complete"] * 2
    first, second = (row["params"] for row in result.details["trials"])
    assert first == {"arguments.foreground": "bright", "arguments.sigma": 1.0}
    assert second.keys() == first.keys()
    score = trained(uri, "otsu", arguments=given)[0].scores
    assert score is not None
    assert result.details["trials"][0]["score"] == score["foreground_iou"]


def test_its_pixels_keep_all_their_bits(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (learner, settle):
        monkeypatch.setattr(module, "faster_formats", lambda device: ["bfloat16"])
    package = trained(uri, "otsu")[1]
    assert package.info.training["precision"] == "float32"
    result = predict(PredictConfig(workspace=uri, model=package.model_id, device="cpu"))
    assert result.details["precision"] == "float32"


def test_several_processes_take_it_as_it_is() -> None:
    model = build_model(ModelConfig(architecture="otsu", arguments={"in_channels": 1, "num_classes": 2}))
    assert Group(rank=0, size=2).synced(model) is model


def test_it_cannot_be_exported_and_says_so(uri: str, tmp_path: Path) -> None:
    package = trained(uri, "otsu")[1]
    with pytest.raises(SegcoreError, match=r"torch\.export cannot trace it"):
        export_model(package, [str(tmp_path / "m.pt2")])
