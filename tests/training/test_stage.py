"""Train: it learns, and ends in a package that can be loaded; what cannot be is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import save_file

from segcore.augment import Augmented
from segcore.config import PredictConfig, TrainConfig, build_config
from segcore.errors import ConfigError, SegcoreError
from segcore.inference import predict
from segcore.inference.precision import faster_formats
from segcore.models import ModelConfig
from segcore.models.check import verify_package
from segcore.models.package import read_package
from segcore.progress import Silent
from segcore.spatial import Spacing
from segcore.store import Workspace
from segcore.training import learner, loop, train
from segcore.training import settle as settle_module
from segcore.training.parallel import ALONE
from segcore.training.runs import Run
from tests.synthetic import put_discs, put_image, put_label
from tests.training.runs import TINY, files, rows, state


def test_train_learns_and_ends_in_a_package(uri: str) -> None:
    result = train(TrainConfig(workspace=uri, name="discs", **{**TINY, "max_steps": 60}))
    assert result.scores is not None
    assert result.scores["foreground_iou"] > 0.85
    assert result.scores["classes"]["foreground"]["dice"] > 0.9
    package = read_package(Workspace.open(uri), result.details["model"])
    assert package.model_id.startswith("discs-")
    assert result.paths[0] == package.folder
    assert verify_package(None, package.folder) == []
    with Pillow.open(Path(package.folder, "example.png")) as picture:
        assert picture.size == (3 * 96 + 16, 96)
    assert package.contract.bands == ("band 0", "band 1")
    half = {"bfloat16"} & set(faster_formats(torch.device("cpu")))
    assert package.info.training["precision"] == (half.pop() if half else "float32")
    assert (package.contract.tile_px, package.contract.halo_px, package.contract.stride) == (512, 32, 2)
    assert (package.contract.receptive_px, package.contract.global_context) == (8, False)
    assert [info.name for info in package.classes] == ["background", "foreground"]
    pixels = np.zeros((1, 2, 32, 32), np.float32)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (package.contract.mean, package.contract.std))
    pixels[..., 16:] = 140
    pixels[..., :16] = 60
    mask = package.load_weights("cpu")(torch.from_numpy((pixels - mean) / std)).argmax(1)[0]
    assert mask[:-2, 22:-2].float().mean() > 0.9, "but for the border, where zeros are another light"
    assert mask[:, :10].float().mean() < 0.1


def test_same_seed_same_curve_and_same_model(uri: str) -> None:
    first = train(TrainConfig(workspace=uri, run="a", **TINY))
    second = train(TrainConfig(workspace=uri, run="b", **TINY))
    other = train(TrainConfig(workspace=uri, run="c", seed=1, **TINY))
    assert files(uri, "a") == files(uri, "b")
    assert first.scores == second.scores
    assert files(uri, "a")["curve.csv"] != files(uri, "c")["curve.csv"]
    assert other.details["model"] != first.details["model"]
    assert [int(row["step"]) for row in rows(uri, "a")] == list(range(1, 13))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"arguments": {"in_channels": "5"}}, "arguments: in_channels follows from the images"),
        ({"arguments": {"channels": [4, 8]}, "channels": [4, 8]}, "arguments: channels is given twice"),
    ],
)
def test_arguments_that_are_not_to_be_given_are_refused(uri: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        build_config(TrainConfig, {"workspace": uri, **settings})


def test_lists_of_a_config_file_are_taken(uri: str) -> None:
    assert build_config(TrainConfig, {"workspace": uri, "arguments": {"channels": [4, 8]}}).arguments == {
        "channels": "4,8"
    }


def test_every_setting_of_the_network_may_be_an_argument(uri: str) -> None:
    settings = {name: value for name, value in TINY.items() if name != "channels"}
    result = train(TrainConfig(workspace=uri, arguments={"channels": "4,8", "norm": "batch"}, **settings))
    assert read_package(Workspace.open(uri), result.details["model"]).architecture.arguments["channels"] == [4, 8]


@pytest.mark.parametrize(
    ("settings", "named"), [({"patience": 2}, "patience"), ({"schedule": "plateau"}, "schedule plateau")]
)
def test_what_waits_for_scores_needs_held_out_images(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    workspace = Workspace.open(str(tmp_path / "one"), create=True)
    put_discs(workspace, (False,), (96, 80), ((30, 66), (30, 50)), 24, num_bands=2)
    with pytest.raises(ConfigError, match=f"^{named}: it follows the scores of held-out images, and there are none"):
        train(TrainConfig(workspace=workspace.uri, **{**TINY, **settings}))


def test_patience_ends_a_run_that_gets_no_better(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "main_score", lambda counts, classes: 0.5)
    result = train(TrainConfig(workspace=uri, **{**TINY, "validate_every": 2, "patience": 2}))
    assert (result.details["steps"], result.details["best_step"]) == (6, 2)


def test_while_nothing_is_found_the_last_weights_are_the_best(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects come late: the first weights would be kept, which know least."""
    scores = iter([0.0, 0.0, 0.0, 0.25, 0.0, 0.25])
    monkeypatch.setattr(loop, "main_score", lambda tally, classes: next(scores))
    result = train(TrainConfig(workspace=uri, **{**TINY, "validate_every": 2, "max_steps": 6}))
    assert (result.details["steps"], result.details["best_step"]) == (6, 6)
    result = train(TrainConfig(workspace=uri, seed=1, **{**TINY, "validate_every": 2, "max_steps": 6}))
    assert result.details["best_step"] == 2


def test_without_held_out_images_the_last_weights_are_kept(uri: str, tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "one"), create=True)
    source = Workspace.open(uri).image("i0")
    put_image(workspace, "only", source.read(_whole(source.shape())), split="train")
    put_label(workspace, "only", "target", Workspace.open(uri).label("i0", "target").read(_whole((96, 96))))
    result = train(TrainConfig(workspace=workspace.uri, **TINY))
    assert result.details["best_step"] == 12
    assert result.scores == {}


def _whole(shape: tuple[int, ...]) -> Any:
    from segcore.geometry import Window

    return Window.whole(shape)


@pytest.mark.parametrize("sees_whole_tile", [False, True])
def test_a_network_is_built_once_to_tell_its_shape(
    uri: str, monkeypatch: pytest.MonkeyPatch, sees_whole_tile: bool
) -> None:
    """And once more to tell how far it sees, where that is not known."""
    built: list[str] = []

    def counted(name: str) -> Any:
        build = getattr(settle_module, name)

        def found(model: ModelConfig) -> Any:
            built.append(name)
            network = build(model)
            network.sees_whole_tile = sees_whole_tile
            return network

        return found

    for name in ("weightless", "build_model"):
        monkeypatch.setattr(settle_module, name, counted(name))
    settled = settle_module.settle(TrainConfig(workspace=uri, **TINY), torch.device("cpu"), ALONE)
    assert settled.learns
    assert settled.run_id.startswith("unet-")
    assert settled.info.contract.global_context == sees_whole_tile
    assert built == ["weightless", *(() if sees_whole_tile else ("build_model",))]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "unet"),
        ({"architecture": "otsu"}, "otsu"),
        ({"architecture": "smp.unet"}, "smp_unet"),
        ({"architecture": "timm." + 90 * "x"}, "timm_" + 59 * "x"),
        ({"architecture": "otsu", "name": "nuclei"}, "nuclei"),
    ],
)
def test_a_model_is_called_as_its_architecture_unless_it_is_named(settings: dict[str, Any], name: str) -> None:
    found = TrainConfig(workspace="w", **settings).model_name
    assert found == TrainConfig(workspace="w", name=found).model_name == name


def test_run_and_package_bear_the_name_of_the_architecture(uri: str) -> None:
    found = train(TrainConfig(workspace=uri, architecture="otsu", device="cpu"))
    assert found.details["run"].startswith("otsu-")
    assert found.details["model"].startswith("otsu-")
    info = read_package(Workspace.open(uri), found.details["model"]).info
    assert (info.name, info.training["name"]) == ("otsu", "otsu")
    named = train(TrainConfig(workspace=uri, architecture="otsu", name="otsu", device="cpu"))
    assert named.details["model"] == found.details["model"]


def test_dry_run_writes_nothing(uri: str) -> None:
    before = sorted(Path(uri).rglob("*"))
    result = train(TrainConfig(workspace=uri, dry_run=True, **TINY))
    assert sorted(Path(uri).rglob("*")) == before
    assert (result.details["training_images"], result.details["validation_images"]) == (3, 1)
    assert result.details["training_mpx"] == pytest.approx(3 * 96 * 96 / 1e6, abs=1e-3)


def test_tile_that_does_not_fit_the_stride_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="tile_px 33: expected a multiple of the model's stride 2; the nearest is 32"):
        train(TrainConfig(workspace=uri, **{**TINY, "tile_px": 33}))


def test_steps_that_are_not_finite_are_skipped_then_end_the_run_at_the_last_good_one(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**TINY, "max_steps": 60, "validate_every": 1000}
    loss_of, bad = learner.Learner._loss_of, {2, *range(5, 60)}
    calls: list[int] = []

    def sometimes(self: learner.Learner, batch: Augmented) -> torch.Tensor:
        calls.append(len(calls))
        return loss_of(self, batch) * (float("nan") if calls[-1] in bad else 1.0)

    monkeypatch.setattr(learner.Learner, "_loss_of", sometimes)
    with pytest.raises(SegcoreError, match=r"run r: 20 steps in a row gave NaN or Inf; .* step 5: .*--no-amp"):
        train(TrainConfig(workspace=uri, run="r", **settings))
    assert [row["skipped"] for row in rows(uri, "r")[:7]] == ["", "", "1", "", "", "1", "1"]
    assert state(uri, "r")["step"] == 5
    saved = Run(Workspace.open(uri), "r").load("last")
    assert saved is not None
    assert all(bool(value.isfinite().all()) for value in saved[0].values())
    monkeypatch.undo()
    assert train(TrainConfig(workspace=uri, run="r", **settings)).scores, "its own checkpoint is sound"
    assert [row["step"] for row in rows(uri, "r")] == [str(step) for step in range(1, 61)]


def test_what_is_left_open_is_chosen_and_told(uri: str) -> None:
    notes: list[str] = []

    class Listener(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    asked = {"workspace": uri, "max_steps": 2, "device": "cpu", "threads": 1}
    result = train(TrainConfig(**asked), Listener())
    chosen = result.details["chosen"]
    assert set(chosen) == {*("tile_px", "channels", "norm", "batch", "loss", "learning_rate", "schedule", "augments")}
    assert chosen["tile_px"].startswith("128: for images of 96 px")
    assert all(f"chosen: {name} {reason}" in notes for name, reason in chosen.items())
    config = json.loads(Path(uri, result.paths[1], "config.json").read_text())
    assert (config["tile_px"], config["batch"], config["loss"]) == (128, 8, {"ce": 1.0, "dice": 1.0})
    assert config["channels"] == [8, 16, 32, 64, 128]
    given = {"tile_px": 32, "batch": 2, "channels": (4, 8), "loss": {"ce": 1.0}, "learning_rate": 0.01,
             "arguments": {"norm": "batch"}}  # fmt: skip
    assert "chosen" not in train(TrainConfig(**asked, **given, schedule="poly", augment=False)).details


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": {"ce": 0.0}}, "loss: expected weights of 0 or more, one of them above 0"),
        ({"loss": {"ce": 1.0, "dice": -1.0}}, "loss: expected weights of 0 or more"),
        ({"loss": {"dice": 1.0}, "label_smoothing": 0.1}, "label_smoothing: it is of the cross-entropy"),
        ({"augment": False, "augments": {"flip": 1.0}}, "augments: nothing is augmented with augment off"),
        ({"freeze": 0.5}, "freeze: an encoder that begins with random weights would stay random"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(TrainConfig, {"workspace": "w", **settings})


def test_a_level_that_images_do_not_have_is_refused_at_once(uri: str) -> None:
    with pytest.raises(ConfigError, match="image i0: expected a pyramid level below 1, got level 1"):
        train(TrainConfig(workspace=uri, level=1, **TINY))
    assert not Path(uri, "runs").exists()


def test_a_model_of_a_level_predicts_on_pixels_of_its_size(tmp_path: Path) -> None:
    """Half the spacing, one level further up."""
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    rng = np.random.default_rng(0)
    for image_id, size in (("a", 0.5), ("b", 0.5), ("finer", 0.25), ("unknown", None)):
        spacing = Spacing(values={"y": size, "x": size}, unit="micrometer", origin="file") if size else None
        target = np.broadcast_to(np.arange(520) // 40 % 2, (1200, 520))
        pixels = (rng.normal(60 + 80 * target, 12, (2, 1200, 520))).clip(0, 255).astype(np.uint8)
        put_image(workspace, image_id, pixels, spacing=spacing)
        if image_id in "ab":
            put_label(workspace, image_id, "target", target.astype(np.uint8))
    model = train(TrainConfig(workspace=workspace.uri, level=1, **{**TINY, "max_steps": 3})).details["model"]
    contract = read_package(workspace, model).contract
    assert contract.level == 1
    assert contract.spacing is not None
    assert contract.spacing.values == {"y": 1.0, "x": 1.0}
    predict(PredictConfig(workspace=workspace.uri, model=model, shard_px=256))
    levels = [workspace.label(image_id, model).base_level for image_id in ("a", "finer", "unknown")]
    assert levels == [1, 2, 1]


def test_a_run_id_that_leads_out_of_the_workspace_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^the options: run: expected up to 128 letters, digits and \. _ -, a letter or digit first, got ",
    ):
        build_config(TrainConfig, {"workspace": uri, "run": "../x"})


def test_a_validation_of_less_than_a_tile_looks_at_one(uri: str) -> None:
    result = train(TrainConfig(workspace=uri, validation_mpx=0.0005, **TINY))
    assert result.scores is not None
    assert result.scores["pixels"] == 96 * 96


def test_a_run_begins_with_weights_that_it_is_given_and_goes_on_from_its_own(uri: str) -> None:
    notes: list[str] = []

    class Listener(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    first = train(TrainConfig(workspace=uri, run="first", **TINY))
    settings = {**TINY, "max_steps": 2, "learning_rate": 1e-9, "ema": 0.0}
    second = train(TrainConfig(workspace=uri, run="second", init=first.details["model"], **settings), Listener())
    assert any(note.startswith(f"begins with {first.details['model']}: ") for note in notes)
    weights = [dict(read_package(Workspace.open(uri), r.details["model"]).load_weights().named_parameters())
               for r in (first, second)]  # fmt: skip
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, msg=name)
    config = json.loads(Path(uri, "runs", "second", "config.json").read_text())
    assert config["init_digest"] == read_package(Workspace.open(uri), first.details["model"]).digest
    notes.clear()
    again = train(TrainConfig(workspace=uri, run="second", init=first.details["model"], **settings), Listener())
    assert again.paths == second.paths
    assert not any(note.startswith("begins with") for note in notes)


@pytest.mark.parametrize("given", ["missing", "shapes", "names", "nan"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    uri: str, tmp_path: Path, given: str, dry_run: bool
) -> None:
    path = tmp_path / "w.safetensors"
    values = {
        "shapes": {"head.weight": torch.zeros(7, 7)},
        "names": {"other": torch.zeros(2, 4, 1, 1)},
        "nan": {"head.weight": torch.full((2, 4, 1, 1), torch.nan)},
    }
    if given != "missing":
        save_file(values[given], path)
    why = {"missing": "w.safetensors", "nan": "head.weight holds NaN"}.get(given, "expected weights that fit")
    with pytest.raises(SegcoreError, match=why):
        train(TrainConfig(workspace=uri, run="r", init=str(path), dry_run=dry_run, **TINY))
    assert not list(Workspace.open(uri).objects.list("runs"))


def test_a_frozen_encoder_is_that_of_the_weights_it_began_with(uri: str) -> None:
    first = train(TrainConfig(workspace=uri, run="first", **TINY))
    settings = {**TINY, "freeze": 1.0, "ema": 0.0}
    second = train(TrainConfig(workspace=uri, run="second", init=first.details["model"], **settings))
    old, new = (read_package(Workspace.open(uri), r.details["model"]).load_weights() for r in (first, second))
    same = {n for n, value in new.state_dict().items() if torch.equal(value, old.state_dict()[n])}
    assert same == {n for n in old.state_dict() if n.startswith("down.")}
