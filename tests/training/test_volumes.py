"""Volumes and sequences: a network of several planes learns from stacks of them, and predicts as one of planes does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcore.augment import augment
from segcore.config import PredictConfig, PreviewConfig, TrainConfig
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.inference import predict
from segcore.models.package import read_package
from segcore.preview import preview
from segcore.sampling import IGNORED
from segcore.spatial import Spacing
from segcore.store import Workspace
from segcore.training import loop, settle, train
from segcore.training.choice import choose
from segcore.training.data import gather
from segcore.training.losses import SegmentationLoss
from tests.augment.made import doing_nothing, some_tiles
from tests.synthetic import put_discs, put_image, put_label

TINY: dict[str, Any] = {
    "tile_px": 32,
    "tile_planes": 4,
    "batch": 2,
    "threads": 1,
    "max_steps": 40,
    "device": "cpu",
    "validate_every": 40,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "z": {"architecture": "unet", "arguments": {"dims": "3", "channels": "8,16"}},
    "t": {"architecture": "convlstm_unet", "arguments": {"channels": "8,16"}},
}


def put_balls(workspace: Workspace, axis: str, spacing: Spacing | None = None) -> None:
    """Two stacks, one held out: a bright ball on a dark, noisy ground."""
    z, y, x = np.mgrid[:9, :48, :40]
    for number, split in enumerate(("train", "val")):
        rng = np.random.default_rng(number)
        ball = 16 * (z - 4) ** 2 + (y - rng.integers(20, 28)) ** 2 + (x - rng.integers(18, 22)) ** 2 < 14**2
        pixels = rng.normal(60 + 80 * ball, 12, ball.shape).clip(0, 255).astype(np.uint8)
        put_image(workspace, f"i{number}", pixels[:, None], spacing, split=split, axes=(axis, "c", "y", "x"))
        put_label(workspace, f"i{number}", "target", ball.astype(np.uint8), axes=(axis, "y", "x"))


@pytest.fixture(params=list(NETWORKS))
def axis(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def uri(tmp_path: Path, axis: str) -> str:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_balls(workspace, axis)
    return workspace.uri


def test_a_network_of_several_planes_learns_and_predicts(uri: str, axis: str) -> None:
    result = train(
        TrainConfig(workspace=uri, name="balls", **{**TINY, **NETWORKS[axis], "max_steps": 60, "validate_every": 60})
    )
    assert result.scores is not None
    assert result.scores["foreground_iou"] > 0.75
    workspace = Workspace.open(uri)
    model = result.details["model"]
    contract = read_package(workspace, model).contract
    assert (contract.axes, contract.tile_planes) == ((axis, "y", "x"), 4 if axis == "z" else settle.PREDICT_FRAMES)
    predict(PredictConfig(workspace=uri, model=model, device="cpu"))
    mask, target = (workspace.label("i1", name).read(Window.whole((9, 48, 40))) for name in (model, "target"))
    assert (mask == target).mean() > 0.9


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_undisturbed_one(uri: str, axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**TINY, **NETWORKS[axis], "max_steps": 4, "validate_every": 2}
    train(TrainConfig(workspace=uri, run="whole", **settings))
    keep_best = loop.Training._keep_best

    def stopped(self: loop.Training, score: float) -> None:
        keep_best(self, score)
        raise KeyboardInterrupt  # the best weights are written, the checkpoint is not

    with monkeypatch.context() as patched:
        patched.setattr(loop.Training, "_keep_best", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(workspace=uri, run="stopped", **settings))
    train(TrainConfig(workspace=uri, run="stopped", **settings))
    for name in ("curve.csv", "best.safetensors"):
        assert Path(uri, "runs/whole", name).read_bytes() == Path(uri, "runs/stopped", name).read_bytes()


def test_the_preview_shows_the_middle_plane(uri: str, axis: str) -> None:
    result = preview(PreviewConfig(workspace=uri, tiles=2, **{**TINY, **NETWORKS[axis]}))
    assert "32 px, 4 planes" in Path(result.paths[0]).read_text()


@pytest.mark.parametrize(("z", "stages"), [(5.0, 3), (0.8, 0)])
def test_planes_that_lie_far_apart_are_left_apart(tmp_path: Path, z: float, stages: int) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_balls(workspace, "z", Spacing(values={"z": z, "y": 0.7, "x": 0.7}, unit="millimeter", origin="nifti"))
    settings = {**TINY, "tile_planes": None, "arguments": {"dims": "3"}, "max_steps": 1}
    result = train(TrainConfig(workspace=workspace.uri, **settings))
    assert read_package(workspace, result.details["model"]).architecture.arguments["flat_stages"] == stages
    assert result.details["chosen"]["tile_planes"] == "16: of z, in each tile"


@pytest.mark.parametrize(
    ("z", "settings", "stages"),
    [
        (4.0, {"spacing": "1mm"}, 2),
        (4.0, {"spacing": "1000um"}, 2),
        (4.0, {"level": 0}, 3),
        (4.0, {"level": 2}, 1),
        (0.0, {}, 0),
        (-4.0, {}, 0),
    ],
)
def test_how_far_planes_lie_apart_is_told_by_the_pixels_that_are_read(
    tmp_path: Path, z: float, settings: dict[str, Any], stages: int
) -> None:
    """Resampled, or of a coarser level, pixels are larger; planes stay where they are."""
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    spacing = Spacing(values={"z": z, "y": 0.5, "x": 0.5}, unit="millimeter", origin="nifti")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (3, 1, 1300, 8), dtype=np.uint8)
        put_image(workspace, f"i{number}", pixels, spacing, axes=("z", "c", "y", "x"))
        put_label(workspace, f"i{number}", "target", (pixels[:, 0] > 99).astype(np.uint8), axes=("z", "y", "x"))
    config = TrainConfig(workspace=workspace.uri, augment=False, **{**TINY, **NETWORKS["z"], **settings})
    assert choose(config, gather(workspace, config), torch.device("cpu")).flat_stages == stages


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            NETWORKS["z"],
            r"unet: it takes tiles of z, y, x, and image i0 has the axes c, y, x; give arguments dims=2, wi",
        ),
        (NETWORKS["t"], r"convlstm_unet: it takes tiles of t, y, x, and .* axes c, y, x; choose another network$"),
        (
            {"architecture": "dynunet"},
            r"dynunet: it takes tiles of z, y, x, and image i0 has the axes c, y, x; give arguments dims=2, with which "
            r"it takes planes, or choose another network$",
        ),
        ({"architecture": "unet"}, "tile_planes 4: unet takes single planes; leave it out, or choose a network"),
    ],
)
def test_images_of_other_axes_are_refused(tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_discs(workspace, (False, True), (48, 48), ((20, 26), (20, 26)), 9, num_bands=1)
    with pytest.raises(ConfigError, match=why):
        train(TrainConfig(workspace=workspace.uri, **{**TINY, **settings}))


@pytest.mark.parametrize(
    ("planes", "why"),
    [
        (1, "tile_planes 1: expected several for unet, or a network of single planes"),
        (3, "tile_planes 3: expected a multiple of the model's stride 2; the nearest is 4"),
    ],
)
def test_planes_that_do_not_fit_the_network_are_refused(tmp_path: Path, planes: int, why: str) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_balls(workspace, "z")
    with pytest.raises(ConfigError, match=why):
        train(TrainConfig(workspace=workspace.uri, **{**TINY, **NETWORKS["z"], "tile_planes": planes}))


def test_planes_of_a_tile_are_augmented_alike() -> None:
    """As if each plane were a tile of its own, with the same augmentation."""
    what = doing_nothing(2, 3)
    what.symmetry[:] = (3, 0)
    what.matrix[1] = ((0.9, 0.2, 0.1), (-0.2, 0.9, 0.0))
    what.blur[0] = 1.0  # light and gamma are by the brightness of the whole tile
    what.dropped[1, 2] = True
    planes = [some_tiles(2, 3) for _ in range(4)]
    planes = [(tiles + k, classes.roll(k, dims=-1)) for k, (tiles, classes) in enumerate(planes)]
    tiles, classes = (torch.stack(parts, dim=-3) for parts in zip(*planes, strict=True))
    got = augment(tiles, classes, what, (100.0,) * 3, (30.0,) * 3)
    for k, (own_tiles, own_classes) in enumerate(planes):
        alone = augment(own_tiles, own_classes, what, (100.0,) * 3, (30.0,) * 3)
        torch.testing.assert_close(got.tiles[:, :, k], alone.tiles)
        assert torch.equal(got.classes[:, k], alone.classes)


@pytest.mark.parametrize("is_mixed", [False, True])
def test_in_the_loss_a_plane_counts_as_a_tile(is_mixed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 4, 6, 5), generator=generator)
    classes = torch.randint(IGNORED, 3, (2, 4, 6, 5), generator=generator)
    other, share = (classes.flip(0), torch.tensor([0.7, 1.0])) if is_mixed else (None, None)
    loss = SegmentationLoss({"ce": 1.0, "dice": 1.0})
    flat = [None if values is None else values.reshape(8, 6, 5) for values in (classes, other)]
    shares = None if share is None else torch.tensor([0.7] * 4 + [1.0] * 4)
    expected = loss(logits.transpose(1, 2).reshape(8, 3, 6, 5), flat[0], flat[1], shares)
    torch.testing.assert_close(loss(logits, classes, other, share), expected)


def test_objects_are_told_apart_in_planes_alone(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_balls(workspace, "z")
    for number in range(2):
        ids = np.zeros((9, 48, 40), np.uint32)
        ids[:, 14:34, 10:30] = 1
        put_label(workspace, f"i{number}", "target_instances", ids, axes=("z", "y", "x"))
    with pytest.raises(ConfigError, match="task instances: objects are told apart in planes, and unet takes several"):
        train(TrainConfig(workspace=workspace.uri, task="instances", **{**TINY, **NETWORKS["z"]}))


def test_a_network_with_a_large_stride_gets_as_many_planes(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_balls(workspace, "z")
    config = TrainConfig(workspace=workspace.uri, arguments={"dims": "3", "channels": "4,4,4,4,4,4"}, augment=False)
    assert choose(config, gather(workspace, config), torch.device("cpu")).tile_planes == 32
