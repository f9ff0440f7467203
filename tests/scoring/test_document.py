"""The document of scores: boundaries, objects, intervals, comparisons and absent classes, from the store to JSON."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as connected

from segcore.classes import ClassInfo, default_classes
from segcore.config import ScoreConfig
from segcore.errors import ConfigError, StoreError
from segcore.geometry import Window
from segcore.progress import Silent
from segcore.scoring import stream as streaming
from segcore.scoring.boundary import BOUNDARY_METRICS, Boundaries, Ruler
from segcore.scoring.instances import Objects, Overlaps, instance_ratios
from segcore.scoring.score import score
from segcore.spatial import Georef, Spacing
from segcore.store import Workspace
from tests.synthetic import put_image, put_label, put_objects

SHAPE = (300, 280)
UM = Spacing(values={"y": 0.5, "x": 0.5}, unit="micrometer", origin="file")


def _discs(seed: int, num: int = 12, shift: int = 0) -> np.ndarray:
    """Discs as classes 0 and 1; `shift` moves them down."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    found = np.zeros(SHAPE, np.uint8)
    for cy, cx, radius in zip(
        rng.integers(0, 300, num), rng.integers(0, 280, num), rng.integers(6, 16, num), strict=True
    ):
        found[(y - cy - shift) ** 2 + (x - cx) ** 2 < radius**2] = 1
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of discs, a part of each to be ignored, with object ids; `m` is near the target, `n` farther off."""
    folder = tmp_path_factory.mktemp("written") / "ws"
    ws = Workspace.open(str(folder), create=True)
    for number in range(4):
        image_id = f"i{number}"
        put_image(ws, image_id, np.ones((1, *SHAPE), np.uint8), spacing=UM, group="g" if number < 2 else None)
        target = _discs(number)
        objects = connected(target)[0].astype(np.uint32)
        target[:40] = 255
        put_label(ws, image_id, "target", target)
        put_objects(ws, image_id, "target_instances", objects)
        for name, shift in (("m", 1), ("n", 4)):
            mask = _discs(number, shift=shift)
            put_label(ws, image_id, name, mask)
            put_objects(ws, image_id, f"{name}_instances", connected(mask)[0].astype(np.uint32))
    return folder


@pytest.fixture
def workspace(written: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(str(shutil.copytree(written, tmp_path / "ws")))


def _whole(ws: Workspace, image_id: str, name: str) -> np.ndarray:
    return ws.label(image_id, name).read(Window.whole(SHAPE))


def _scores(ws: Workspace, **settings: Any) -> dict[str, Any]:
    result = score(ScoreConfig(workspace=ws.uri, **{"model": "m", **settings}))
    assert result.scores is not None
    assert [item.error for item in result.items] == [None] * len(result.items)
    json.dumps(result.scores, allow_nan=False)
    return result.scores


def test_boundaries_are_those_of_the_whole_image_in_its_unit(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "WINDOW_PX", 64)
    scores = _scores(workspace, tolerance="0.75um", boundary_halo_px=20)
    assert scores["boundary"] == {"unit": "um", "tolerance": 0.75, "cap": 10.0}
    ruler, found = Ruler((0.5, 0.5), "um", 0.75, 10.0), []
    for image_id in ("i0", "i1", "i2", "i3"):
        target, mask = _whole(workspace, image_id, "target"), _whole(workspace, image_id, "m")
        boundaries = Boundaries(2, ruler)
        uncounted = target == 255
        boundaries.add(np.where(uncounted, 2, target), np.where(uncounted, 2, mask), Window.whole(SHAPE))
        found.append(boundaries.scores()[1])
        of_image = scores["per_image"][image_id]
        assert of_image["boundary"] == scores["boundary"]
        entry = of_image["per_class"]["foreground"]["boundary"]
        assert {name: entry[name] for name in ("hd95", "assd", "nsd", "boundary_iou")} == pytest.approx(
            {name: found[-1][name] for name in ("hd95", "assd", "nsd", "boundary_iou")}
        )
    row = scores["per_class"]["foreground"]["boundary"]
    for name in ("hd95", "assd", "nsd", "boundary_iou"):
        assert row[name] == pytest.approx(np.mean([part[name] for part in found]))
    assert row["num_images"] == 4
    assert 0.5 <= row["hd95"] <= 2.0


def test_objects_are_those_of_the_whole_images_added_up(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WINDOW_PX", 64)
    scores = _scores(workspace)
    summed = []
    for image_id in ("i0", "i1", "i2", "i3"):
        overlaps = Overlaps(1)
        uncounted = (_whole(workspace, image_id, "target") == 255).astype(np.uint8)
        parts = (_whole(workspace, image_id, name) for name in ("target_instances", "m_instances"))
        overlaps.add(*(Objects(part, uncounted) for part in parts))
        summed.append(overlaps.counts())
        expected = {name: float(values[0]) for name, values in instance_ratios(summed[-1]).items()}
        entry = scores["per_image"][image_id]["instances"]
        assert {name: entry[name] for name in expected} == pytest.approx(expected)
    tp, fp, fn = (sum(getattr(part, name)[0, 0] for part in summed) for name in ("tp", "fp", "fn"))
    found = scores["instances"]
    assert found["ap50"] == pytest.approx(tp / (tp + fp + fn))
    assert found["pq"] == pytest.approx(sum(part.matched_iou[0, 0] for part in summed) / (tp + fp / 2 + fn / 2))
    assert (found["target_objects"], found["mask_objects"], found["num_images"]) == (tp + fn, tp + fp, 4)
    low, high = scores["interval"]["instances"]["pq"]
    assert low <= found["pq"] <= high


@pytest.mark.parametrize("asked", [{"model": "m_instances"}, {"model": "m", "against": "m_instances"}])
def test_objects_are_scored_with_their_mask_only(workspace: Workspace, asked: dict[str, str]) -> None:
    option = "--against" if "against" in asked else "--model"
    with pytest.raises(ConfigError, match=f"^{option} m_instances: these are the objects of m; score m, which"):
        score(ScoreConfig(workspace=workspace.uri, **asked))


class _Notes(Silent):
    def __init__(self) -> None:
        self.found: list[str] = []

    def note(self, message: str) -> None:
        self.found.append(message)


def test_objects_of_an_earlier_mask_are_left_out_with_a_note(workspace: Workspace) -> None:
    ids = _whole(workspace, "i1", "m_instances")
    put_objects(workspace, "i1", "m_instances", ids, {"mask_digest": workspace.label("i1", "m").digest})
    assert _scores(workspace)["instances"]["num_images"] == 4
    put_label(workspace, "i1", "m", _whole(workspace, "i1", "m"), version=1)
    notes = _Notes()
    scores = score(ScoreConfig(workspace=workspace.uri, model="m"), notes).scores
    assert scores is not None
    assert scores["instances"]["num_images"] == 3
    assert "instances" not in scores["per_image"]["i1"]
    assert notes.found == ["image i1: m_instances are the objects of an earlier mask m; they are not scored"]


def test_without_objects_of_both_nothing_is_said_of_them(workspace: Workspace, tmp_path: Path) -> None:
    put_label(workspace, "i0", "alone", _whole(workspace, "i0", "m"))
    scores = _scores(workspace, model="alone")
    assert "instances" not in scores
    assert "instances" not in scores["per_image"]["i0"]
    assert scores["interval"] is None  # one image


def test_intervals_hold_the_scores_and_are_drawn_by_group(workspace: Workspace) -> None:
    scores = _scores(workspace, resamples=300)
    interval = scores["interval"]
    stated = {key: interval[key] for key in ("level", "resamples", "seed", "unit", "num_units")}
    assert stated == {"level": 0.95, "resamples": 300, "seed": 0, "unit": "groups", "num_units": 3}
    assert list(scores["per_group"]) == ["g"]
    both = np.array([scores["per_image"][image_id]["confusion"] for image_id in ("i0", "i1")]).sum(axis=0)
    assert scores["per_group"]["g"]["confusion"] == both.tolist()
    assert scores["per_group"]["g"]["overall"]["pixel_accuracy"] == np.trace(both) / both.sum()
    low, high = interval["overall"]["foreground_iou"]
    assert low < scores["overall"]["foreground_iou"] < high
    for name in ("iou", "dice", "precision", "recall", "hd95", "nsd"):
        row = scores["per_class"]["foreground"]
        low, high = interval["per_class"]["foreground"][name]
        assert low <= (row[name] if name in row else row["boundary"][name]) <= high
    assert _scores(workspace, resamples=300) == scores
    assert _scores(workspace, resamples=0)["interval"] is None


def test_against_compares_the_same_images(workspace: Workspace) -> None:
    put_label(workspace, "i3", "o", _whole(workspace, "i3", "n"))
    scores = _scores(workspace, against="n")
    other = _scores(workspace, model="n")
    against = scores["against"]
    assert (against["mask"], against["num_images"], against["num_units"]) == ("n", 4, 3)
    for name in ("foreground_iou", "miou", "kappa"):
        row = against["overall"][name]
        assert (row["value"], row["other"]) == (scores["overall"][name], other["overall"][name])
        assert row["difference"] == pytest.approx(row["value"] - row["other"])
        assert 0 < row["interval"][0] < row["difference"] < row["interval"][1]
    assert against["per_class"]["foreground"]["hd95"]["difference"] < 0
    assert against["instances"]["pq"]["difference"] > 0
    only = _scores(workspace, against="o")["against"]
    assert only["num_images"] == 1
    assert only["overall"]["miou"]["value"] == scores["per_image"]["i3"]["overall"]["miou"]
    assert only["overall"]["miou"]["interval"] is None


def test_against_other_classes_is_refused(workspace: Workspace) -> None:
    table = (ClassInfo(id=0, name="land", color=(0, 0, 0)), ClassInfo(id=1, name="sea", color=(9, 9, 9)))
    put_label(workspace, "i0", "sea", _whole(workspace, "i0", "m"), table)
    put_label(workspace, "i0", "target", _whole(workspace, "i0", "target"), table, version=1)
    result = score(ScoreConfig(workspace=workspace.uri, model="sea", against="m"))
    assert [item.state for item in result.items] == ["done", "failed"]
    assert (result.items[1].error or "").startswith("against m: image i0: its target has the classes (0 land, 1 sea)")


def test_an_image_that_fails_with_the_other_mask_is_named(workspace: Workspace) -> None:
    put_label(workspace, "i2", "n", np.full(SHAPE, 9, np.uint8), version=1)
    result = score(ScoreConfig(workspace=workspace.uri, model="m", against="n"))
    assert [(item.image, item.state) for item in result.items] == [
        *((f"i{number}", "done") for number in range(4)),
        ("i2", "failed"),
    ]
    assert result.items[4].error == (
        "against n: image i2: the mask holds the value 9, which its class table does not have"
    )
    assert result.exit_code == 3
    assert result.scores is not None
    assert result.scores["against"]["num_images"] == 3


def test_masks_that_no_image_has_both_of_are_refused(workspace: Workspace) -> None:
    put_image(workspace, "apart", np.ones((1, *SHAPE), np.uint8))
    put_label(workspace, "apart", "o", np.zeros(SHAPE, np.uint8))
    with pytest.raises(StoreError, match=r"no image in .* has both masks, m and o$"):
        score(ScoreConfig(workspace=workspace.uri, model="m", against="o"))
    with pytest.raises(ConfigError, match=r"^--against \./no where: expected the name of a mask"):
        score(ScoreConfig(workspace=workspace.uri, model="m", against="./no where"))


def test_class_in_neither_is_not_defined_unless_the_setting_says_so(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for image_id, classes in (("a", (0, 1)), ("b", (0, 0))):
        put_image(ws, image_id, np.ones((1, 40, 40), np.uint8))
        target = np.zeros((40, 40), np.uint8)
        target[10:20, 10:20] = classes[1]
        put_label(ws, image_id, "target", target, default_classes(3))
        put_label(ws, image_id, "m", np.roll(target, 1, 0), default_classes(3))
    plain, as_one = _scores(ws), _scores(ws, both_empty="one")
    assert (plain["settings"]["both_empty"], as_one["settings"]["both_empty"]) == ("undefined", "one")
    of_a = plain["per_image"]["a"]["per_class"]["class 1"]
    row = plain["per_class"]["class 1"]
    assert (row["num_images"], row["boundary"]["num_images"]) == (1, 1)
    assert row["image_mean"]["iou"] == of_a["iou"] == 90 / 110
    assert plain["per_image"]["b"]["per_class"]["class 1"]["iou"] is None
    never = plain["per_class"]["class 2"]
    assert {never[name] for name in ("iou", "dice", "precision", "recall")} == {None}
    assert (never["num_images"], never["boundary"]["nsd"], never["boundary"]["num_images"]) == (0, None, 0)
    assert plain["interval"]["per_class"]["class 2"]["iou"] is None
    mean = as_one["per_class"]["class 1"]
    assert mean["image_mean"]["iou"] == pytest.approx((90 / 110 + 1) / 2)
    assert mean["boundary"]["hd95"] == pytest.approx(row["boundary"]["hd95"] / 2)
    assert mean["iou"] == 90 / 110  # over all pixels the class is there
    assert as_one["per_class"]["class 2"]["dice"] == 1.0
    assert as_one["overall"]["miou"] == pytest.approx((plain["overall"]["miou"] * 2 + 1) / 3)
    assert (row["image_mean"]["num_images"], mean["image_mean"]["num_images"]) == (1, 2)


def test_an_image_in_which_nothing_is_counted_is_not_perfect(workspace: Workspace) -> None:
    put_label(workspace, "i0", "target", np.full(SHAPE, 255, np.uint8), version=1)
    with_it = _scores(workspace, both_empty="one")
    without = _scores(workspace, both_empty="one", images=("i1", "i2", "i3"))
    assert with_it["overall"] == pytest.approx(without["overall"])
    assert (with_it["num_scored"], with_it["interval"]["num_units"]) == (3, 3)
    for key in ("image_mean", "boundary"):
        assert with_it["per_class"]["foreground"][key] == pytest.approx(without["per_class"]["foreground"][key])
    entry = with_it["per_image"]["i0"]
    assert set(entry["overall"].values()) == {None}
    assert {entry["per_class"]["foreground"]["boundary"][name] for name in ("hd95", "nsd")} == {None}
    assert (entry["per_class"]["foreground"]["iou"], entry["instances"]["pq"]) == (None, None)


def test_a_class_that_fills_an_image_and_was_missed_counts_as_the_worst(tmp_path: Path) -> None:
    """Neither has a boundary; left out, the mask that misses it would have the better mean."""
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    found = np.zeros((40, 40), np.uint8)
    found[10:20, 10:20] = 1
    nearly = np.ones((40, 40), np.uint8)
    nearly[:3, :3] = 0
    for image_id, target, missed, right in (
        ("full", np.ones_like(found), np.zeros_like(found), nearly),
        ("some", found, found, found),
    ):
        put_image(ws, image_id, np.ones((1, 40, 40), np.uint8))
        for name, pixels in (("target", target), ("missed", missed), ("right", right)):
            put_label(ws, image_id, name, pixels, default_classes(2))
    scores = _scores(ws, model="right", against="missed")
    of_missed = _scores(ws, model="missed")
    row = of_missed["per_class"]["foreground"]["boundary"]
    assert row["num_images"] == 2
    assert [row[name] for name in ("hd95", "assd", "nsd", "boundary_iou")] == [32.0, 32.0, 0.5, 0.5]
    full = of_missed["per_image"]["full"]["per_class"]
    assert {full[name]["boundary"]["nsd"] for name in ("background", "foreground")} == {0.0}
    compared = scores["against"]["per_class"]["foreground"]
    for name in ("nsd", "boundary_iou"):
        assert compared[name]["difference"] >= 0
    assert compared["hd95"]["difference"] <= 0


def test_sparse_labels_have_no_boundary_where_nobody_drew_one(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    target = np.full((60, 60), 255, np.uint8)
    target[5:20, 5:20] = 1  # between what nobody labelled
    target[30:50, 10:30], target[30:50, 30:50] = 0, 2  # side by side
    mask = np.where(target == 255, 0, target).astype(np.uint8)
    mask[8:12, 8:12] = 0
    put_image(ws, "a", np.ones((1, 60, 60), np.uint8))
    put_label(ws, "a", "target", target, default_classes(3))
    put_label(ws, "a", "m", mask, default_classes(3))
    per_class = _scores(ws)["per_class"]
    row = per_class["class 1"]
    assert row["iou"] == 209 / 225
    assert [row["boundary"][name] for name in (*BOUNDARY_METRICS, "num_images")] == [None, None, None, None, 0]
    assert per_class["class 2"]["boundary"]["nsd"] == 1.0


def test_masks_with_their_classes_in_another_order_are_not_mixed(workspace: Workspace) -> None:
    turned = (ClassInfo(id=1, name="foreground", color=(9, 9, 9)), ClassInfo(id=0, name="background", color=(0, 0, 0)))
    put_label(workspace, "i1", "n", _whole(workspace, "i1", "n"), turned, version=1)
    result = score(ScoreConfig(workspace=workspace.uri, model="m", against="n"))
    (failed,) = (item for item in result.items if item.state == "failed")
    assert failed.error == (
        "against n: image i1: its mask has the classes (1 foreground, 0 background), others have (0 background, "
        "1 foreground); they cannot be scored together"
    )
    assert result.scores is not None
    assert result.scores["against"]["num_images"] == 3


def test_images_in_other_units_have_no_mean_distance(workspace: Workspace) -> None:
    put_image(workspace, "i0", np.ones((1, *SHAPE), np.uint8))
    scores = _scores(workspace)
    row = scores["per_class"]["foreground"]["boundary"]
    assert scores["boundary"] == {"unit": None, "tolerance": None, "cap": None}
    assert (row["hd95"], row["assd"]) == (None, None)
    assert 0 < row["nsd"] <= 1
    assert scores["per_image"]["i0"]["boundary"] == {"unit": "px", "tolerance": 2.0, "cap": 64.0}


def test_tolerance_that_cannot_be_measured_fails_its_image(workspace: Workspace) -> None:
    put_image(workspace, "i0", np.ones((1, *SHAPE), np.uint8))
    result = score(ScoreConfig(workspace=workspace.uri, model="m", tolerance="1um"))
    assert [item.state for item in result.items] == ["failed", "done", "done", "done"]
    assert "its pixel size is not known" in (result.items[0].error or "")
    result = score(ScoreConfig(workspace=workspace.uri, model="m", tolerance="1mm", images=("i1",)))
    assert "is longer than the distances that are measured, 32 um" in (result.items[0].error or "")
    degrees = Georef(crs_wkt=None, epsg=4326, transform=(0.01, 0, 10.0, 0, -0.01, 62.0))
    put_image(workspace, "i0", np.ones((1, *SHAPE), np.uint8), georef=degrees)
    result = score(ScoreConfig(workspace=workspace.uri, model="m", tolerance="90m", images=("i0",)))
    assert result.items[0].error == (
        "image i0: its pixels are measured in degrees, which are no lengths, so that a tolerance of 90m means nothing "
        "there; give it in px (--tolerance 2px), or warp its file to a CRS in metres first"
    )
    result = score(ScoreConfig(workspace=workspace.uri, model="m", tolerance="2px", images=("i0",)))
    assert result.items[0].state == "done"


def test_another_ruler_is_measured_anew_and_off_measures_nothing(workspace: Workspace) -> None:
    config = ScoreConfig(workspace=workspace.uri, model="m")
    reused = [
        score(config.model_copy(update=update)).details["num_reused"]
        for update in ({}, {}, {"boundary": "off"}, {"tolerance": "3px"}, {"boundary": "off"}, {"tolerance": "1.5um"})
    ]
    assert reused == [0, 4, 4, 0, 4, 4]
    scores = _scores(workspace, boundary="off")
    assert scores["settings"]["boundary"] is None
    assert "boundary" not in scores
    assert "boundary" not in scores["per_class"]["foreground"]


def test_volume_is_measured_in_all_its_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "VOLUME_WINDOW", (4, 16, 16))
    shape, rng = (11, 40, 36), np.random.default_rng(0)
    target = (gaussian_filter(rng.normal(size=shape), 3) > 0).astype(np.uint8)
    mask = np.roll(target, (1, 2), (0, 1))
    spacing = Spacing(values={"z": 2.5, "y": 0.5, "x": 0.5}, unit="millimeter", origin="file")
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "i", np.ones((1, *shape), np.uint8), spacing=spacing, axes=("c", "z", "y", "x"))
    put_label(ws, "i", "target", target, axes=("z", "y", "x"))
    put_label(ws, "i", "m", mask, axes=("z", "y", "x"))
    scores = _scores(ws, boundary_halo_px=10)
    assert scores["boundary"] == {"unit": "mm", "tolerance": 1.0, "cap": 5.0}
    boundaries = Boundaries(2, Ruler((2.5, 0.5, 0.5), "mm", 1.0, 5.0))
    boundaries.add(target, mask, Window.whole(shape))
    expected = boundaries.scores()[1]
    found = scores["per_class"]["foreground"]["boundary"]
    for name in ("hd95", "assd", "nsd", "boundary_iou"):
        assert found[name] == pytest.approx(expected[name])
    assert scores["confusion"] == [[int(((target == i) & (mask == j)).sum()) for j in (0, 1)] for i in (0, 1)]


def test_objects_of_several_classes_are_scored_by_class_too(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    table = tuple(ClassInfo(id=n, name=name, color=(n, n, n)) for n, name in enumerate(("background", "cell", "gland")))
    target, mask = np.zeros((60, 60), np.uint8), np.zeros((60, 60), np.uint8)
    target[5:15, 5:15] = mask[5:15, 5:15] = 1  # a cell, right
    target[30:40, 5:15] = 1  # a cell that the mask takes for a gland
    mask[30:40, 5:15] = 2
    target[30:50, 30:50] = mask[30:50, 30:46] = 2  # a gland, right by 0.8
    put_image(ws, "i", np.ones((1, 60, 60), np.uint8))
    put_image(ws, "j", np.ones((1, 60, 60), np.uint8))
    for image_id in ("i", "j"):
        put_label(ws, image_id, "target", target, table)
        put_label(ws, image_id, "m", mask, table)
        put_objects(ws, image_id, "target_instances", connected(target)[0].astype(np.uint32))
        put_objects(ws, image_id, "m_instances", connected(mask)[0].astype(np.uint32))
    scores = _scores(ws)
    assert scores["instances"]["f1"] == 1.0
    assert scores["instances"]["pq"] == pytest.approx((1 + 1 + 0.8) / 3)
    cell, gland = (scores["per_class"][name]["instances"] for name in ("cell", "gland"))
    assert cell["pq"] == pytest.approx(1 / 1.5)
    assert gland["pq"] == pytest.approx(0.8 / 1.5)
    assert (cell["target_objects"], cell["mask_objects"]) == (4, 2)
    assert (gland["target_objects"], gland["mask_objects"]) == (2, 4)
    assert scores["instances"]["mean_pq"] == pytest.approx((cell["pq"] + gland["pq"]) / 2)
    assert scores["interval"]["per_class"]["cell"]["pq"] == pytest.approx([cell["pq"]] * 2)
    assert "instances" not in scores["per_class"]["background"]
