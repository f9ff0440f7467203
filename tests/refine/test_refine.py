"""Refined masks: those of the whole array, bit for bit, wherever shards and cells end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as label_whole
from skimage.morphology import closing, disk, opening

from segcore.components import cells
from segcore.config import RefineConfig, build_config
from segcore.errors import ConfigError
from segcore.refine import refine, work
from segcore.repair import repair
from segcore.results import StageResult
from segcore.selection import select
from segcore.spatial import Georef, Spacing
from segcore.store import Workspace, verify
from segcore.store.pyramid import mode_2x2
from tests.refine.made import put_mask, whole
from tests.refine.whole import blobs, refined_whole

SHAPE = (300, 560)


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Cells of one shard each; what a rule has found does not wait for the next one in memory."""
    monkeypatch.setattr(cells, "CELL_SIDE_PX", 256)
    monkeypatch.setattr(work, "KEPT_CELLS", 0)
    return Workspace.open(str(tmp_path / "w"), create=True)


def run(ws: Workspace, **asked: Any) -> StageResult:
    result = refine(build_config(RefineConfig, {"workspace": ws.uri, "model": "m", **asked}))
    assert [item.error for item in result.items] == [None]
    return result


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize(
    "asked",
    [
        {"open": 2},
        {"close": 3},
        {"fill_holes": 60},
        {"min_size": 80},
        {"keep_largest": True},
        {"open": 1, "close": 2, "fill_holes": 100, "min_size": 120},
        {"open": 1, "fill_holes": 5000, "min_size": 50, "keep_largest": True},
    ],
)
def test_refined_mask_is_that_of_the_whole_array(ws: Workspace, num_classes: int, asked: dict[str, Any]) -> None:
    ids = blobs(SHAPE, num_classes)
    put_mask(ws, ids, num_classes)
    run(ws, **asked)
    found = whole(ws, "m_refined")
    np.testing.assert_array_equal(found, refined_whole(ids, num_classes, **asked))
    assert (found != ids).sum() > 50
    assert verify(ws) == []


def test_without_ignore_it_is_what_skimage_and_scipy_give(ws: Workspace) -> None:
    ids = np.where(blobs(SHAPE, 2) == 1, 1, 0).astype(np.uint8)
    put_mask(ws, ids, 2)
    run(ws, open=2, name="opened")
    np.testing.assert_array_equal(whole(ws, "opened"), opening(ids, disk(2)))
    run(ws, close=2, name="closed")
    np.testing.assert_array_equal(whole(ws, "closed"), closing(ids, disk(2)))
    run(ws, fill_holes=10**6, name="filled")
    np.testing.assert_array_equal(whole(ws, "filled"), ndimage.binary_fill_holes(ids))
    labels, sizes = label_whole(ids, connectivity=1), np.bincount(label_whole(ids, connectivity=1).ravel())
    run(ws, min_size=70, name="large")
    np.testing.assert_array_equal(whole(ws, "large"), (sizes >= 70)[labels] & (ids > 0))
    run(ws, keep_largest=True, name="largest")
    np.testing.assert_array_equal(whole(ws, "largest"), labels == sizes[1:].argmax() + 1)


def test_volume_is_refined_as_a_whole(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "CELL_PX", 4 * 256 * 256)  # cells of 4 planes
    ids = blobs((10, 30, 290), 2, smooth=1.5)
    put_mask(ws, ids, 2, axes=("z", "y", "x"))
    asked = {"open": 1, "close": 1, "fill_holes": 40, "min_size": 60}
    result = run(ws, **asked, objects=True)
    expected = refined_whole(ids, 2, **asked)
    np.testing.assert_array_equal(whole(ws, "m_refined"), expected)
    labels = label_whole(np.where(expected == 1, 1, 0), connectivity=1)
    np.testing.assert_array_equal(whole(ws, "m_refined_instances"), labels)
    assert result.details["objects"] == labels.max() > 3


def test_planes_of_a_sequence_stand_for_themselves(ws: Workspace) -> None:
    ids = blobs((3, 60, 290), 2, smooth=2.0)
    put_mask(ws, ids, 2, axes=("t", "y", "x"))
    asked = {"close": 1, "fill_holes": 30, "min_size": 40}
    run(ws, **asked)
    expected = np.stack([refined_whole(plane, 2, **asked) for plane in ids])
    np.testing.assert_array_equal(whole(ws, "m_refined"), expected)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_objects_are_the_connected_pixels_of_each_class(ws: Workspace, num_classes: int) -> None:
    ids = blobs(SHAPE, num_classes)
    put_mask(ws, ids, num_classes)
    result = run(ws, objects=True)
    expected = label_whole(np.where(ids == 255, 0, ids), connectivity=1, background=0)
    np.testing.assert_array_equal(whole(ws, "m_instances"), expected)
    assert result.details["objects"] == expected.max() == ws.label("a", "m_instances").attributes["objects"]
    assert result.paths == (ws.describe("images/a.ome.zarr/labels/m_instances"),)
    assert [chosen.error for chosen in select(ws, "m_instances")] == [None]


def test_without_a_background_what_is_small_goes_to_the_class_around(ws: Workspace) -> None:
    ids = np.zeros((40, 300), np.uint8)
    ids[:, 150:] = 1
    ids[5:8, 250:259] = 2  # across cells, in class 1
    ids[5:7, 259:262] = 3  # beside it: both are one region
    ids[20:23, 149:151] = 2  # on the boundary: 3 sides and the ends with each class, the first one has it
    put_mask(ws, ids, 4, has_background=False)
    run(ws, min_size=50)
    expected = np.zeros_like(ids)
    expected[:, 150:] = 1
    expected[20:23, 149:151] = 0
    np.testing.assert_array_equal(whole(ws, "m_refined"), expected)


def test_sizes_may_be_given_in_the_units_of_the_image(ws: Workspace) -> None:
    ids = blobs((60, 290), 2)
    put_mask(ws, ids, 2, spacing=Spacing(values={"y": 0.5, "x": 0.25}, unit="micrometer", origin="file"))
    run(ws, min_size="10um2")  # 80 px
    np.testing.assert_array_equal(whole(ws, "m_refined"), refined_whole(ids, 2, min_size=80))
    result = refine(RefineConfig(workspace=ws.uri, model="m", min_size="1ha"))
    assert result.items[0].error == "image a: --min-size 1ha: expected one of px, um2, mm2, got ha"
    run(ws, open="0.5um", name="opened")  # one px up, two px to the side
    own, unknown = ids == 1, ids == 255
    where = np.array([[0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]])
    core = ndimage.binary_erosion(own | unknown, where, border_value=1) & ~unknown
    np.testing.assert_array_equal(whole(ws, "opened") == 1, own & ndimage.binary_dilation(core, where))


@pytest.mark.parametrize(
    ("option", "in_px"), [("open", "2px"), ("close", "2px"), ("min_size", "50px"), ("fill_holes", "50px")]
)
def test_degrees_are_no_sizes(ws: Workspace, option: str, in_px: str) -> None:
    ids = blobs((60, 290), 2)
    put_mask(ws, ids, 2, georef=Georef(crs_wkt=None, epsg=4326, transform=(0.01, 0, 10.0, 0, -0.01, 62.0)))
    asked = "90m" if in_px == "2px" else "1ha"
    result = refine(build_config(RefineConfig, {"workspace": ws.uri, "model": "m", option: asked}))
    flag = f"--{option.replace('_', '-')}"
    assert result.items[0].error == (
        f"image a: its pixels are measured in degrees, which are no lengths, so that {flag} {asked} means nothing "
        f"there; give it in px ({flag} {in_px}), or warp its file to a CRS in metres first"
    )
    run(ws, **{option: in_px})
    np.testing.assert_array_equal(whole(ws, "m_refined"), refined_whole(ids, 2, **{option: int(in_px[:-2])}))


def test_a_mask_that_was_made_anew_is_refined_anew(ws: Workspace) -> None:
    first, second = blobs((60, 290), 2), blobs((60, 290), 2, seed=1)
    put_mask(ws, first, 2)
    run(ws, min_size=30)
    assert run(ws, min_size=30).items[0].state == "skipped"
    put_mask(ws, second, 2, version=1)
    stale = select(ws, "m_refined")[0].error
    assert stale == "image a: mask m_refined: it was made of an earlier mask m; refine again"
    assert run(ws, min_size=30).items[0].state == "done"
    np.testing.assert_array_equal(whole(ws, "m_refined"), refined_whole(second, 2, min_size=30))
    failed = refine(RefineConfig(workspace=ws.uri, model="m", min_size="31"))
    assert "min_px: 30 -> 31" in str(failed.items[0].error)


@pytest.mark.parametrize("kept_cells", [0, 8])
def test_what_was_kept_of_cells_may_be_lost_in_between(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, kept_cells: int
) -> None:
    """Another process that was quicker deletes it; whoever is late writes the same pixels."""
    monkeypatch.setattr(work, "KEPT_CELLS", kept_cells)
    monkeypatch.setattr(work, "kept", lambda objects, key, make: make())
    ids = blobs(SHAPE, 4)
    put_mask(ws, ids, 4)
    asked = {"open": 1, "fill_holes": 100, "min_size": 120}
    run(ws, **asked)
    np.testing.assert_array_equal(whole(ws, "m_refined"), refined_whole(ids, 4, **asked))


def test_planes_of_a_sequence_have_areas(ws: Workspace) -> None:
    ids = blobs((3, 60, 290), 2, smooth=2.0)
    put_mask(
        ws, ids, 2, axes=("t", "y", "x"), spacing=Spacing(values={"y": 2, "x": 2}, unit="micrometer", origin="file")
    )
    run(ws, min_size="160um2")
    expected = np.stack([refined_whole(plane, 2, min_size=40) for plane in ids])
    np.testing.assert_array_equal(whole(ws, "m_refined"), expected)


def test_pyramid_metadata_and_dry_run_are_those_of_any_mask(ws: Workspace) -> None:
    ids = blobs((60, 1100), 2)
    put_mask(ws, ids, 2)
    planned = run(ws, min_size=30, dry_run=True)
    assert planned.details["shards"] == 5
    assert ws.label_names("a") == ["m"]
    run(ws, min_size=30)
    label = ws.label("a", "m_refined")
    assert label.classes == ws.label("a", "m").classes
    for level in range(1, label.num_levels):
        fine = whole(ws, "m_refined", level - 1)
        even = np.pad(fine, [(0, n % 2) for n in fine.shape], mode="edge")
        np.testing.assert_array_equal(whole(ws, "m_refined", level), mode_2x2(even))
    assert not list(ws.objects.list(f"state/a/m_refined/{label.attributes['plan']}/fragments"))
    assert run(ws, min_size=30, dry_run=True).details["shards"] == 0


def test_repair_makes_lost_shards_again(ws: Workspace) -> None:
    put_mask(ws, blobs(SHAPE, 2), 2)
    run(ws, open=1, fill_holes=60, min_size=50, objects=True)
    before = {name: whole(ws, name) for name in ("m_refined", "m_refined_instances")}
    for name in before:
        ws.objects.delete(f"images/a.ome.zarr/labels/{name}/0/c/0/1")
        ws.objects.delete(f"images/a.ome.zarr/labels/{name}/1/c/0/0")
    found = repair(ws)
    assert len(found) == 4
    assert all(one.fixed for one in found)
    for name, pixels in before.items():
        np.testing.assert_array_equal(whole(ws, name), pixels)
    assert verify(ws) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing to do"),
        ({"min_size": "5 apples"}, "expected a size such as 50"),
        ({"open": "0"}, "expected a length such as"),
        ({"min_size": 5, "name": "target"}, "workspace's own"),
        ({"objects": True, "name": "n"}, "leave the name out"),
    ],
)
def test_what_means_nothing_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(RefineConfig, {"workspace": "w", "model": "m", **asked})


def test_only_the_classes_that_are_asked_for_are_refined(ws: Workspace) -> None:
    ids = np.zeros((40, 300), np.uint8)
    ids[3:8, 250:259], ids[3:8, 20:29], ids[20:35, 240:270] = 1, 2, 2
    ids[25:28, 250:259] = 1  # in class 2
    put_mask(ws, ids, 3)
    run(ws, min_size=50, classes=["class 1"])
    expected = ids.copy()
    expected[3:8, 250:259], expected[25:28, 250:259] = 0, 2
    np.testing.assert_array_equal(whole(ws, "m_refined"), expected)


def test_a_class_that_there_is_not_is_refused(ws: Workspace) -> None:
    put_mask(ws, blobs((20, 30), 2), 2)
    with pytest.raises(ConfigError, match="has the classes background, class 1, got 'tumor'"):
        refine(RefineConfig(workspace=ws.uri, model="m", min_size="5", classes=("tumor",)))
