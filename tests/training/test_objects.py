"""Objects in training: border and depth against the definition, whatever a tile cuts; and a run from target to ids."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage

from segcore.augment import Augmenter, choose_augments, facts_of
from segcore.classes import ClassInfo, default_classes
from segcore.config import PredictConfig, TrainConfig, build_config
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.inference import predict
from segcore.instances.rule import Rule
from segcore.models.check import verify_package
from segcore.models.package import read_package
from segcore.sampling import IGNORED, Loader
from segcore.sampling.codes import MAX_CODE, coded
from segcore.store import Workspace
from segcore.training import train
from segcore.training.data import gather, sampler_of
from segcore.training.losses import SegmentationLoss
from segcore.training.objects import ObjectLoss, ObjectTruth, object_truth, parts_of, rim_distances
from tests.instances.scenes import discs, rim_distance, with_snakes
from tests.synthetic import put_image, put_label

TRUTH = ObjectTruth(Rule(depth_px=5), (False, True), "")
SIDES, ALL = ndimage.generate_binary_structure(2, 1), ndimage.generate_binary_structure(2, 2)


def codes_of(ids: npt.NDArray[Any], num_classes: int = 2) -> torch.Tensor:
    """Of objects of class 1, (1, Y, X)."""
    return torch.from_numpy(coded((ids > 0).astype(np.int16), ids, num_classes).astype(np.int64))[None]


def peeled(inside: npt.NDArray[np.bool_], most: int) -> npt.NDArray[np.float64]:
    """How often a mask can be peeled until a pixel is gone; what lies outside never peels."""
    distance = np.zeros(inside.shape)
    for step in range(1, most + 1):
        distance += inside
        inside = ndimage.binary_erosion(inside, SIDES if step % 2 else ALL, border_value=1)
    return distance


def test_distances_are_those_of_each_object_peeled_alone() -> None:
    ids = with_snakes(discs((90, 110), 50, seed=5), 2)
    expected = np.zeros(ids.shape)
    for number in np.unique(ids[ids > 0]):
        expected += peeled(ids == number, 6)
    found, _ = rim_distances(torch.from_numpy(ids)[None], torch.ones((1, *ids.shape), dtype=torch.bool), 6)
    np.testing.assert_array_equal(found[0].numpy()[ids > 0], expected[ids > 0])
    exact = np.minimum(rim_distance(ids), 6)
    assert np.abs(found[0].numpy() - exact)[ids > 0].max() <= 1.0


def test_what_a_tile_says_is_known_is_what_the_whole_plane_says() -> None:
    """Tile cuts and ignored pixels: where the distance may be another, it does not count."""
    ids = with_snakes(discs((150, 150), 90, seed=6), 2)
    codes = codes_of(ids)
    whole = parts_of(codes, TRUTH)
    hidden = np.random.default_rng(0).random(ids.shape) < 0.004
    window = (slice(None), slice(30, 110), slice(41, 121))
    seen = torch.where(torch.from_numpy(hidden), IGNORED, codes)[window]
    parts = parts_of(seen, TRUTH)
    known = parts.known
    assert 0.5 < known.float().mean() < 0.95
    for of_tile, of_whole in zip(parts[1:3], whole[1:3], strict=True):
        torch.testing.assert_close(of_tile[known], of_whole[window][known], rtol=0, atol=0)
    inner = parts_of(codes[window], TRUTH).known[0]
    assert bool(inner[5:-5, 5:-5].all()), "nothing that is at least as deep in the tile as depth_px is in doubt"
    np.testing.assert_array_equal(parts.classes[0], np.where(hidden, IGNORED, ids > 0)[window[1:]])


def test_border_and_depth_by_hand() -> None:
    """Two objects that touch; the right one reaches the tile's end, and its depth is known as far as that is."""
    row = [0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    ids = np.array([row] * 15)
    parts = parts_of(codes_of(ids), ObjectTruth(Rule(depth_px=3), (False, True), ""))
    middle = [values[0, 7].tolist() for values in parts]
    assert middle[0] == [0, 0, *[1] * 12]
    assert middle[1] == [0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    third = pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1, 1, 2 / 3, 1 / 3, 1 / 3, 2 / 3, 1, 1, 1])
    assert middle[2] == third
    assert middle[3] == [True] * 12 + [False, False]


def test_the_loss_is_that_of_the_classes_and_two_cross_entropies() -> None:
    ids = discs((40, 44), 12, seed=7)
    codes = codes_of(ids)
    codes[0, :6] = IGNORED
    codes[0, 20, 20] = 1  # a pixel of the class that belongs to no object
    parts = parts_of(codes, TRUTH)
    assert not parts.known[0, 20, 20]
    assert int(parts.classes[0, 20, 20]) == 1
    of_classes = SegmentationLoss({"ce": 1.0})
    logits = torch.randn((1, 4, 40, 44), generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = ObjectLoss(of_classes, TRUTH)(logits, codes)
    each = torch.zeros(())
    for channel, truth in ((2, parts.border), (3, parts.depth)):
        p, t = logits[:, channel].sigmoid()[parts.known], truth[parts.known]
        each = each - (t * p.log() + (1 - t) * (1 - p).log()).mean()
    torch.testing.assert_close(found, of_classes(logits[:, :2], parts.classes) + each)
    found.backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, :6].any()
    assert not logits.grad[0, 2:, 20, 20].any()


def test_codes_hold_class_and_object_and_fit_float32() -> None:
    classes = np.array([0, 1, 2, IGNORED, 1], np.int16)
    ids = np.array([0, 7, 2**31, 5, 0], np.uint32)
    found = coded(classes, ids, 3)
    assert found.dtype == np.int32
    assert found[[0, 1, 3, 4]].tolist() == [0, 1 + 3 * 7, IGNORED, 1]
    assert found[2] % 3 == 2
    most = coded(np.full(5, 2, np.int16), np.arange(MAX_CODE // 3 - 3, MAX_CODE // 3 + 2), 3)
    assert most.max() < MAX_CODE
    assert (most // 3 > 0).all()


def put_scene(workspace: Workspace, image_id: str, seed: int, split: str | None = "train", side: int = 128) -> None:
    """Bright discs on a dark, noisy ground; many touch, and a faint line parts them."""
    ids = discs((side, side), side * side // 400, seed, (7, 11))
    rng = np.random.default_rng(seed)
    light = 60 + 90 * (ids > 0) + 40 * np.minimum(rim_distance(ids), 3) / 3
    pixels = rng.normal(light, 8, (2, side, side)).clip(0, 255).astype(np.uint8)
    put_image(workspace, image_id, pixels, split=split)
    put_label(workspace, image_id, "target", (ids > 0).astype(np.uint8))
    put_label(workspace, image_id, "target_instances", ids.astype(np.uint32))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for number in range(4):
        put_scene(ws, f"i{number}", number, "val" if number == 3 else "train")
    return ws


def config_of(workspace: Workspace, **settings: Any) -> TrainConfig:
    return build_config(TrainConfig, {"workspace": workspace.uri, "task": "instances", **settings})


def test_tiles_bring_codes_and_augmentation_mixes_none(workspace: Workspace) -> None:
    data = gather(workspace, config_of(workspace))
    assert data.objects is not None
    assert 3 <= data.objects.rule.depth_px <= 8
    assert 1 <= data.objects.rule.min_px < 100
    image = data.training[0]
    read = image.read(0, Window((0, 0), image.shape_yx))
    assert sum(part.nbytes for part in read) == image.num_bytes == 128 * 128 * image.bytes_per_px
    loader = Loader(sampler_of(config_of(workspace), data, 64), batch=4)
    _, pixels, codes = next(loader)
    loader.close()
    assert (codes.dtype, codes.shape) == (np.int32, (4, 64, 64))
    assert len(np.unique(codes // 2)) > 8
    np.testing.assert_array_equal(codes % 2, codes // 2 > 0)
    augments = choose_augments({"elastic": 1.0, "rotate": 1.0}, facts_of(data.training, data.classes, data.mean))
    augmenter = Augmenter(augments, 0, data.mean, data.std)
    tiles = torch.from_numpy(pixels.astype(np.float32))
    moved = augmenter(tiles, torch.from_numpy(codes.astype(np.int64)), 0).classes.numpy()
    assert (moved != codes).any()
    for before, after in zip(codes, moved, strict=True):
        assert set(np.unique(after)) <= set(np.unique(before))


def test_folds_and_seeds_tell_objects_by_one_rule(workspace: Workspace) -> None:
    """So that their models can be averaged; each fold alone has objects of another size."""
    y, x = np.mgrid[:128, :128] % 32 - 16
    for number, radius in enumerate((5, 7, 10, 14)):
        ids = (y**2 + x**2 < radius**2) * (1 + np.mgrid[:128, :128][0] // 32 * 4 + np.mgrid[:128, :128][1] // 32)
        put_image(workspace, f"i{number}", np.where(ids > 0, 200, 30).astype(np.uint8)[None])
        put_label(workspace, f"i{number}", "target", (ids > 0).astype(np.uint8), version=1)
        put_label(workspace, f"i{number}", "target_instances", ids.astype(np.uint32), version=1)
    found = [gather(workspace, config_of(workspace, folds=2), fold).objects for fold in range(2)]
    found += [gather(workspace, config_of(workspace, seed=seed)).objects for seed in range(3)]
    assert all(truth == found[0] for truth in found)
    alone = [object_truth(gather(workspace, config_of(workspace, folds=2), fold).training, default_classes(2)).rule
             for fold in range(2)]  # fmt: skip
    assert alone[0] != alone[1]


def test_objects_are_found_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a corner, and in a plane that is not the middle one; of many images as many as are to be looked at."""
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    monkeypatch.setattr("segcore.training.objects.MAX_WINDOW_PX", 128)
    monkeypatch.setattr("segcore.training.objects.MAX_IMAGES", 2)
    for number in range(3):
        ids = np.zeros((5, 300, 260), np.uint32)
        ids[4, -64:, :64] = discs((64, 64), 12, number, (6, 9))
        put_image(workspace, f"i{number}", ids[:, None].astype(np.uint8), axes=("z", "c", "y", "x"))
        for name, values in (("target", (ids > 0).astype(np.uint8)), ("target_instances", ids)):
            put_label(workspace, f"i{number}", name, values, axes=("z", "y", "x"))
    objects = gather(workspace, config_of(workspace)).objects
    assert objects is not None
    seen = []
    for number in (0, 2):
        inside = discs((64, 64), 12, number, (6, 9))  # at the plane's rim, which is the window's too
        rims = np.unique(np.concatenate([inside[-1], inside[:, 0]]))
        seen.append(len(np.setdiff1d(inside, [*rims, 0])))
    assert f": {sum(seen)} were looked at" in objects.why


def test_what_cannot_be_learnt_is_refused_in_one_line(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="mixup gives a pixel two truths, of which objects have one"):
        config_of(workspace, augments={"mixup": 0.5})
    with pytest.raises(ConfigError, match=r"^task, max_steps: threshold has no weights, and nothing to learn; leave"):
        train(config_of(workspace, architecture="threshold", max_steps=1, device="cpu"))
    with pytest.raises(ConfigError, match=r"^task: otsu has no weights, and nothing to learn; leave it out"):
        train(config_of(workspace, architecture="otsu", device="cpu"))
    named = tuple(ClassInfo(id=i, name=name, color=(0, 0, i)) for i, name in enumerate(("ground", "cell")))
    for number in range(4):
        put_label(workspace, f"i{number}", "target", np.eye(128, dtype=np.uint8), classes=named, version=1)
    with pytest.raises(ConfigError, match="expected a class called background, which no object has, got ground, cell"):
        gather(workspace, config_of(workspace))
    put_scene(workspace, "i3", 3)
    put_image(workspace, "i4", np.zeros((2, 128, 128), np.uint8), split="train")
    put_label(workspace, "i4", "target", np.eye(128, dtype=np.uint8))
    for number in range(4):
        put_label(workspace, f"i{number}", "target", np.eye(128, dtype=np.uint8), default_classes(2), version=2)
    with pytest.raises(ConfigError, match="expected objects in the target of i4, got classes alone"):
        gather(workspace, config_of(workspace))


def test_a_run_from_targets_to_objects(workspace: Workspace) -> None:
    """Touching discs come out apart: many more of them are found than connected foreground has parts."""
    settings = {"channels": (8, 16), "tile_px": 64, "batch": 4, "threads": 1, "max_steps": 120, "device": "cpu"}
    result = train(config_of(workspace, name="cells", **settings))
    assert result.scores is not None
    assert result.scores["foreground_iou"] > 0.8
    assert result.scores["pq"] > 0.4
    assert result.scores["ap50"] > 0.4
    package = read_package(workspace, result.details["model"])
    assert package.info.instances == gather(workspace, config_of(workspace)).objects.rule  # type: ignore[union-attr]
    assert (package.num_logits, len(package.classes)) == (4, 2)
    assert verify_package(workspace, package.model_id) == []
    put_scene(workspace, "new", 9, None, side=300)
    found = predict(
        PredictConfig(workspace=workspace.uri, model=package.model_id, images=("new",), shard_px=256, device="cpu")
    )
    assert [item.error for item in found.items] == [None]
    mask, objects, target = (
        workspace.label("new", name).read(Window.whole((300, 300)))
        for name in (package.model_id, f"{package.model_id}_instances", "target_instances")
    )
    pairs = np.zeros((target.max() + 1, objects.max() + 1))
    np.add.at(pairs, (target, objects), 1)
    overlap = pairs / (pairs.sum(1)[:, None] + pairs.sum(0) - pairs)
    hit = int((overlap[1:, 1:] > 0.5).sum())
    num_parts = ndimage.label(mask == 1)[1]
    num_objects = len(np.unique(target)) - 1
    assert num_parts < 0.5 * num_objects
    assert hit > 0.75 * num_objects
    assert (objects[mask == 0] == 0).all()
