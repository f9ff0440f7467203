"""Validate: the counts are those of the masks that predict writes, over whole images or a spread of their shards."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from segcore.classes import default_classes
from segcore.config import PredictConfig, ScoreConfig, TrainConfig
from segcore.geometry import Window
from segcore.inference import predict
from segcore.inference.run import Answered
from segcore.instances.rule import Rule
from segcore.models import ModelConfig
from segcore.models.package import InputContract, PackageInfo, unwritten, write_package
from segcore.sampling import LabelledImage
from segcore.scoring.counts import Counter
from segcore.scoring.instances import InstanceCounts
from segcore.scoring.score import score
from segcore.store import PyramidSpec, Staging, Workspace
from segcore.training.choice import Choice
from segcore.training.learner import Learner
from segcore.training.validate import HeldOut, main_of, main_score, summary
from tests.inference.scenes import conv_package
from tests.instances.scenes import discs, seen_by
from tests.synthetic import put_image, put_label

Pixels = npt.NDArray[Any]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"), create=True)


def info_and_learner(global_context: bool = False) -> tuple[PackageInfo, Learner]:
    model = ModelConfig(architecture="unet", arguments={"in_channels": 1, "num_classes": 3, "channels": (4, 8)})
    choice = Choice((4, 8), 32, 2, {"ce": 1.0, "dice": 1.0}, 3e-3)
    learner = Learner(model, TrainConfig(workspace="w", amp=False), choice, (100.0,), (50.0,), torch.device("cpu"))
    with torch.no_grad():  # no class wins everywhere
        learner.average.head.weight.copy_(torch.eye(4)[:3, :, None, None])
        learner.average.head.bias.zero_()
    contract = InputContract(
        bands=("band 0",), dtype="uint8", spacing=None, mean=(100.0,), std=(50.0,), tile_px=64, halo_px=8, stride=2,
        global_context=global_context,
    )  # fmt: skip
    info = PackageInfo(name="m", architecture=model, contract=contract, classes=default_classes(3))
    return info, learner


def put(ws: Workspace, image_id: str, shape: tuple[int, ...], seed: int, **more: Any) -> tuple[LabelledImage, Pixels]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 3, shape, dtype=np.uint8)
    ids[..., :9] = 255
    axes = ("c", "y", "x") if len(shape) == 2 else ("c", "z", "y", "x")
    put_image(ws, image_id, rng.integers(0, 255, (1, *shape), dtype=np.uint8), axes=axes, **more)
    spec = PyramidSpec(axes=axes[1:], shape=shape, dtype="uint8", kind="mask")
    with Staging.begin(ws, image_id, "target", {}, spec) as staging:
        staging.put_all(ids)
        staging.finish({}, default_classes(3))
    return LabelledImage(ws.image(image_id), ws.label(image_id, "target")), ids


@pytest.mark.parametrize("global_context", [False, True], ids=["crop", "gaussian"])
def test_counts_are_those_of_the_masks_that_predict_writes(ws: Workspace, global_context: bool) -> None:
    info, learner = info_and_learner(global_context)
    images = [put(ws, "a", (730, 601), 0), put(ws, "b", (3, 130, 90), 1), put(ws, "c", (20, 31), 2, nodata=7.0)]
    held_out = HeldOut.of(info, learner, [image for image, _ in images], 1e9)
    assert held_out.num_px == 730 * 601 + 3 * 130 * 90 + 20 * 31
    weights = learner.average.state_dict()
    package = write_package(ws.objects, "models", info, weights)
    result = predict(PredictConfig(workspace=ws.uri, model=package.model_id, precision="float32", device="cpu"))
    assert result.exit_code == 0
    counter, expected = Counter(range(3), 255), np.zeros((3, 3), int)
    for image, ids in images:
        mask = ws.label(image.image_id, package.model_id).read(Window.whole(ids.shape))
        usable = ws.image(image.image_id).read_valid(Window.whole(ids.shape))
        np.testing.assert_array_equal(mask < 3, usable)
        expected += counter.count(ids, mask.astype(np.uint8)).confusion
    assert expected.min() > 0
    np.testing.assert_array_equal(held_out.count(weights).counts.confusion, expected)


def test_objects_are_those_that_predict_makes_of_the_masks(ws: Workspace) -> None:
    """Of images that fit a shard; of a larger one each shard is held against its part of the target."""
    weights = np.zeros((4, 3, 1, 1), np.float32)
    weights[(1, 2, 3), (0, 1, 2)] = 1 / 20
    package = conv_package(ws, weights, np.array([0, -6.4, -6.4, -5.5]), instances=Rule(depth_px=5, min_px=10))
    state = package.load_weights().state_dict()
    average, cpu = SimpleNamespace(state_dict=lambda: state), torch.device("cpu")
    learner: Any = SimpleNamespace(average=average, device=cpu, precision="float32")
    images, objects = [], {}
    for name, shape, seed in (("a", (300, 280), 0), ("b", (200, 512), 1), ("c", (40, 700), 2)):
        ids = discs(shape, shape[0] * shape[1] // 400, seed, (5, 9))
        put_image(ws, name, seen_by(ids))
        wrong = np.where(ids % 7 == 1, 0, ids // 2)  # pairs are one, and some are not there
        put_label(ws, name, "target", np.where(ids % 11 == 0, 255, wrong > 0).astype(np.uint8))
        put_label(ws, name, "target_instances", wrong.astype(np.uint32))
        images.append(LabelledImage(ws.image(name), ws.label(name, "target")))
        objects[name] = ws.label(name, "target_instances")
    predict(PredictConfig(workspace=ws.uri, model=package.model_id, name="m", precision="float32", device="cpu"))
    for number, few in enumerate((images[:2], images[:1], images[2:])):
        tally = HeldOut.of(package.info, learner, few, 1e9, objects=objects).count(state)
        found = score(ScoreConfig(workspace=ws.uri, model="m", images=tuple(image.image_id for image in few))).scores
        assert found is not None
        expected = {name: pytest.approx(found["instances"][name]) for name in ("pq", "ap50")}
        assert (tally.object_scores == expected) == (number < 2), "the last is cut at 512"
        assert main_of(summary(tally, package.classes)) == ("PQ", tally.object_scores["pq"])
        assert 0.3 < main_score(tally, package.classes) < 0.9


def test_sums_of_objects_do_not_depend_on_which_shard_is_ready_first(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, learner = info_and_learner()
    image, _ = put(ws, "a", (600, 1100), 0)
    weights = learner.average.state_dict()
    held_out = replace(HeldOut.of(info, learner, [image], 1e9), objects={"b": image.target})
    answered: list[Answered] = []
    held_out.trial.run(unwritten(info, weights), held_out.parts, answered.append)
    assert len(answered) == 6
    large = answered[3].shard

    def objects_of(_held_out: HeldOut, shard: Answered, *_: Any) -> InstanceCounts:
        none = InstanceCounts.zeros(3)
        return replace(none, matched_iou=none.matched_iou + (1e16 if shard.shard == large else 1.0))

    monkeypatch.setattr(HeldOut, "_objects_of", objects_of)
    found = set()
    for order in (answered, answered[::-1], answered[3:] + answered[:3]):
        trial: Any = SimpleNamespace(run=lambda _package, _parts, tell, order=order: [*map(tell, order)])
        tally = replace(held_out, trial=trial).count(weights)
        assert tally.objects is not None
        found.add(float(tally.objects.matched_iou[0, 0]))
    assert len(found) == 1


def test_a_limit_takes_a_spread_of_shards(ws: Workspace) -> None:
    info, learner = info_and_learner()
    images = [put(ws, name, (1024, 1024), seed)[0] for seed, name in enumerate("abcd")]
    held_out = HeldOut.of(info, learner, images, 1024 * 1024)
    assert held_out.num_px == 1024 * 1024
    assert [part.run.image.image_id for part in held_out.parts] == list("abcd")
    places = [part.run.staging.shard_window(part.shards[0]).start for part in held_out.parts]
    assert len(set(places)) > 1, "not the same corner of every image"
    seen: list[tuple[str, Window]] = []

    def tell(shard: Answered) -> None:
        seen.append((shard.run.image.image_id, shard.window))

    held_out.trial.run(unwritten(info, learner.average.state_dict()), held_out.parts, tell)
    assert sum(window.num_px for _, window in seen) == 1024 * 1024
    assert {name for name, _ in seen} == set("abcd")
    assert held_out.limited(500).num_px == 512 * 512
    assert held_out.limited(1e9).num_px == 4 * 1024 * 1024
    assert HeldOut.of(info, learner, [], 1e6).parts == ()
