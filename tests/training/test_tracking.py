"""Tracking: what TensorBoard and MLflow read is what the curve holds, once each, and nothing of it ends a run."""

import csv
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segcore.classes import ClassInfo
from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.progress import Silent
from segcore.sampling import IGNORED, LabelledImage
from segcore.store import Workspace
from segcore.training import train
from segcore.training.runs import Run
from segcore.training.tracking import Glimpse, Pace, mlflow
from segcore.training.tracking.glimpse import _places
from segcore.training.tracking.mlflow import without_password
from tests.synthetic import put_image, put_label

TINY: dict[str, Any] = {
    "channels": (4, 8),
    "tile_px": 32,
    "batch": 2,
    "threads": 1,
    "max_steps": 6,
    "validate_every": 3,
    "device": "cpu",
    "picture": False,
}


@pytest.fixture(autouse=True)
def graph() -> None:
    """It is traced here."""


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Two images with a bright half; one is held out."""
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    for number, split in enumerate(("train", "val")):
        target = np.zeros((64, 96), np.uint8)
        target[:, 60:] = 1
        pixels = np.random.default_rng(number).normal(60 + 80 * target, 12, (3, 64, 96)).clip(0, 255)
        put_image(workspace, f"i{number}", pixels.astype(np.uint8), split=split)
        put_label(workspace, f"i{number}", "target", target)
    return workspace.uri


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.told: list[str] = []
        self.curves: list[tuple[str, Sequence[Mapping[str, float]]]] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def status(self, text: str) -> None:
        self.told.append(text)

    def curve(self, name: str, rows: Sequence[Mapping[str, float]]) -> None:
        self.curves.append((name, rows))


def events(uri: str, run: str = "r") -> EventAccumulator:
    read = EventAccumulator(str(Path(uri, "runs", run, "tensorboard")), {"images": 0, "tensors": 0, "scalars": 0})
    return read.Reload()


def rows(uri: str, run: str = "r") -> list[dict[str, str]]:
    return list(csv.DictReader(Path(uri, "runs", run, "curve.csv").read_text().splitlines()))


def column(uri: str, name: str) -> list[tuple[int, float]]:
    """Step and value, to the precision of TensorBoard's numbers."""
    return [(int(row["step"]), np.float32(row[name])) for row in rows(uri) if row[name]]


def interrupted(monkeypatch: pytest.MonkeyPatch, uri: str, **settings: Any) -> None:
    """A run that ends after the curve of its second checkpoint was written, and before the checkpoint was."""
    save, calls = Run.save, []

    def failing(self: Run, name: str, *rest: Any) -> None:
        calls.append(name)
        if calls.count("last") == 2:
            raise KeyboardInterrupt
        save(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", failing)
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(workspace=uri, run="r", **TINY, **settings))


def test_tensorboard_reads_the_curve_pictures_and_the_network(uri: str) -> None:
    train(TrainConfig(workspace=uri, run="r", **TINY))
    read = events(uri)
    for name in ("loss", "learning_rate", "foreground_iou"):
        assert [(event.step, np.float32(event.value)) for event in read.Scalars(name)] == column(uri, name)
    tags = [tag for tag in read.Tags()["images"] if tag.startswith("target and mask/")]
    assert [tag.split()[-1] for tag in tags] == ["i1"] * len(tags)
    assert 1 <= len(tags) <= 4
    assert [event.step for event in read.Images(tags[0])] == [3, 6]
    assert (read.Images(tags[0])[0].height, read.Images(tags[0])[0].width) == (32, 32 + 4 + 32)
    assert [event.step for event in read.Tensors("precision and recall/foreground")] == [3, 6]
    assert "Conv2d" in str(read.Graph()) or "convolution" in str(read.Graph())


def test_a_run_that_goes_on_has_no_step_twice_in_tensorboard(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, uri)
    assert [event.step for event in events(uri).Scalars("loss")] == [1, 2, 3, 4, 5, 6], "as far as it had come"
    train(TrainConfig(workspace=uri, run="r", **TINY))
    folder = Path(uri, "runs", "r", "tensorboard")
    assert sorted(path.name[-9:] for path in folder.iterdir()) == ["000000000", "000000003"]
    read = events(uri)
    assert [(event.step, np.float32(event.value)) for event in read.Scalars("loss")] == column(uri, "loss")
    assert [event.step for event in read.Scalars("miou")] == [3, 6]
    assert read.Graph()


def test_a_network_that_cannot_be_traced_is_noted_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no\nway")

    monkeypatch.setattr(torch.jit, "trace", refuse)
    listener = Listener()
    train(TrainConfig(workspace=uri, run="r", **TINY), listener)
    assert [note for note in listener.notes if "graph" in note] == [
        "TensorBoard will lack the graph of the network, which cannot be traced: no way"
    ]
    assert len(events(uri).Scalars("loss")) == 6


def test_the_listener_hears_the_curve_and_how_it_goes(uri: str) -> None:
    listener = Listener()
    train(TrainConfig(workspace=uri, run="r", **TINY), listener)
    assert [(name, len(found)) for name, found in listener.curves] == [("r", 3), ("r", 6)]
    loss = np.mean([float(row["loss"]) for row in rows(uri)])
    last = listener.told[-1].split(" · ")
    assert last[0] == f"loss {loss:.4f}"
    assert last[1].endswith("tiles/s")
    assert last[2].endswith(" % waiting for data")
    assert last[3] == f"IoU {float(rows(uri)[-1]['foreground_iou']):.2f}"


def test_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace(tiles_per_step=8)
    assert (pace.tiles_per_s, pace.waiting_share) == (0.0, 0.0)
    for _ in range(100):
        pace.add(1.0, 0.5)
    for _ in range(20):
        pace.add(0.5, 0.01)
    assert pace.tiles_per_s == pytest.approx(16)
    assert pace.waiting_share == pytest.approx(0.02)
    assert pace.told(0.21339, 0.8149) == "loss 0.2134 · 16 tiles/s · 2 % waiting for data · IoU 0.81"
    slow = Pace(tiles_per_step=1)
    slow.add(40.0, 10.0)
    assert slow.told(1.0, None) == "loss 1.0000 · 0.0 tiles/s · 25 % waiting for data"


class Bright:
    """A stand-in for a learner, whose model takes what is bright for foreground."""

    def average(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(tiles[:, 0]), tiles[:, 0] - 100], dim=1)

    def to_input(self, pixels: Any) -> torch.Tensor:
        return torch.from_numpy(pixels.astype(np.float32))


def test_glimpse_shows_target_and_mask_of_tiles_that_lie_on_foreground(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    target = np.zeros((200, 300), np.uint8)
    target[150:170, 250:270] = 1
    target[150:155, 200:260] = 255
    pixels = np.where(target == 1, 200, 50).astype(np.uint8)
    pixels[160:164, 250:270] = 50  # missed by the model
    put_image(workspace, "a", np.stack([pixels] * 3))
    put_label(workspace, "a", "target", target)
    image = LabelledImage(workspace.image("a"), workspace.label("a", "target"))
    classes = (ClassInfo(id=0, name="background", color=(0, 0, 0)), ClassInfo(id=1, name="spot", color=(250, 0, 0)))
    shown = Glimpse([image], classes, 32).look(Bright())  # type: ignore[arg-type]
    assert set(shown.names) == {"a"}
    assert all(picture.shape == (32, 68, 3) for picture in shown.pictures)
    for picture in shown.pictures:
        left, right = (half[..., 0] > half[..., 1] for half in (picture[:, :32], picture[:, 36:]))
        assert left.sum() > right.sum() > 0, "the mask misses a stripe of the target"
    is_spot, probs = shown.per_class["spot"]
    tiles = [image.read_reflected(0, window)[1] for window in _windows(image, [1])]
    assert len(is_spot) == len(probs) == sum(int((tile != IGNORED).sum()) for tile in tiles)
    assert set(np.unique(probs[is_spot] > 0.5)) == {False, True}
    assert not (probs[~is_spot] > 0.5).any()


def _windows(image: LabelledImage, foreground: list[int]) -> list[Window]:
    return list(dict.fromkeys(window for _, _, window in _places([image], foreground, 32)))


def test_glimpse_shows_the_rarest_classes_first(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    target = np.ones((128, 128), np.uint8)
    target[10:14, 100:104] = 2
    target[90:110, 10:30] = 3
    classes = tuple(ClassInfo(id=n, name=name, color=(n, 0, 0)) for n, name in enumerate(("background", *"abc")))
    put_image(workspace, "a", np.zeros((3, 128, 128), np.uint8))
    put_label(workspace, "a", "target", target, classes=classes)
    image = LabelledImage(workspace.image("a"), workspace.label("a", "target"))
    targets = [image.read_reflected(0, window)[1] for window in _windows(image, [1, 2, 3])]
    assert [(tile == number).sum() for tile, number in zip(targets[:2], (2, 3), strict=True)] == [16, 400]


def test_glimpse_of_images_smaller_than_a_tile_mirrors_them_once(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(workspace, "a", np.full((3, 20, 24), 9, np.uint8))
    put_label(workspace, "a", "target", np.zeros((20, 24), np.uint8))
    image = LabelledImage(workspace.image("a"), workspace.label("a", "target"))
    classes = (ClassInfo(id=0, name="background", color=(0, 0, 0)), ClassInfo(id=1, name="spot", color=(250, 0, 0)))
    shown = Glimpse([image], classes, 32).look(Bright())  # type: ignore[arg-type]
    assert (len(shown.pictures), shown.per_class) == (1, {})
    assert Glimpse([], classes, 32).look(Bright()).names == ()  # type: ignore[arg-type]


@pytest.fixture
def client() -> Any:
    """MLflow's own, for what stands on a server."""
    return pytest.importorskip("mlflow").MlflowClient


def test_mlflow_has_each_number_once_over_an_interruption(
    uri: str, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = str(tmp_path / "ml")
    interrupted(monkeypatch, uri, mlflow=server)
    train(TrainConfig(workspace=uri, run="r", **TINY, mlflow=server))
    read = client(tracking_uri=server)
    found = read.search_runs([read.get_experiment_by_name("segcore").experiment_id])
    assert [(run.info.run_name, run.info.status) for run in found] == [("r", "FINISHED")]
    assert found[0].data.params["tile_px"] == "32"
    for name in ("loss", "learning_rate", "miou"):
        history = read.get_metric_history(found[0].info.run_id, name)
        assert [(number.step, np.float32(number.value)) for number in history] == column(uri, name)


def test_mlflow_that_is_down_is_noted_once_and_the_run_goes_on(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setattr(mlflow, "CLOSE_S", 60.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = f"http://me:secret@127.0.0.1:{free.getsockname()[1]}"
        listener = Listener()
        result = train(TrainConfig(workspace=uri, run="r", **TINY, mlflow=server), listener)
    assert result.details["steps"] == 6
    noted = [note for note in listener.notes if note.startswith("mlflow")]
    assert len(noted) == 2
    assert "not reached, the training goes on without it" in noted[0]
    assert "it lacks some of the curve" in noted[1]
    assert "secret" not in Path(uri, "runs", "r", "log.txt").read_text()
    assert not any(thread.name == "segcore-mlflow" for thread in threading.enumerate())


def test_mlflow_without_the_extra_is_refused_in_one_line(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"mlflow here: needs the extra `mlflow`: pip install 'segcore\[mlflow\]'"):
        train(TrainConfig(workspace=uri, run="r", **TINY, mlflow="here"))


def test_passwords_are_left_out_of_what_is_told() -> None:
    assert without_password("https://me:pw@host:5000/a") == "https://host:5000/a"
    assert without_password("runs/ml") == "runs/ml"
    assert without_password("sqlite:///ml.db") == "sqlite:///ml.db"
