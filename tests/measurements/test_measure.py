"""Measurements: those of skimage on the whole image, wherever windows end."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import rasterio.warp
from rasterio.crs import CRS
from skimage.measure import label as label_whole
from skimage.measure import regionprops

from segcore.classes import ClassInfo
from segcore.config import MeasureConfig, RefineConfig
from segcore.measurements import measure, subject
from segcore.refine import refine
from segcore.results import StageResult
from segcore.scoring.ground import row_areas
from segcore.spatial import Georef, Spacing
from segcore.store import PyramidSpec, Staging, Workspace, layer_name
from tests.instances.scenes import discs, with_snakes
from tests.synthetic import put_image, put_label, put_objects, put_probs

SHAPE = (300, 560)
EVIL = "=cmd|' /C calc'!A0"
CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=3, name="cell", color=(9, 0, 0)),
    ClassInfo(id=7, name=EVIL, color=(0, 9, 0)),
)


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(subject, "WINDOW_PX", 128)
    return Workspace.open(str(tmp_path / "w"), create=True)


def put_all(
    ws: Workspace, has_gaps: bool = False, **image: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Image, mask and objects `m`: pixels (2, Y, X), class ids and object ids."""
    rng = np.random.default_rng(0)
    ids = label_whole(with_snakes(discs(SHAPE, 150), 3), connectivity=1)  # some lie behind others in two parts
    turned = np.concatenate([[0], 1 + rng.permutation(int(ids.max()))])
    ids = turned[ids].astype(np.uint32)
    mask = np.where(ids > 0, np.where((ids % 3 == 0) ^ (rng.random(SHAPE) < 0.2), 7, 3), 0).astype(np.uint8)
    pixels = rng.integers(1, 60_000, (2, *SHAPE), dtype=np.uint16)
    if has_gaps:
        pixels[0, ::3] = 0
        pixels[0][ids == 5] = 0
    put_image(ws, "a", pixels, **image)
    put_label(ws, "a", "m", mask, classes=CLASSES)
    put_objects(ws, "a", "m_instances", ids, {"mask": "m", "mask_digest": "m-0", "objects": int(ids.max())})
    return pixels, mask, ids


def run(ws: Workspace, **asked: Any) -> tuple[StageResult, dict[str, npt.NDArray[Any]]]:
    """The result, and the columns of the table by object."""
    result = measure(MeasureConfig(workspace=ws.uri, model="m", run="r", **asked))
    assert [item.error for item in result.items] == [None] * len(result.items)
    table = pq.read_table(result.paths[0])
    assert len(set(zip(table["image"].to_pylist(), table["object"].to_pylist(), strict=True))) == len(table)
    order = np.lexsort((table["object"].to_numpy(), np.array(table["image"].to_pylist())))
    return result, {name: table[name].to_numpy(zero_copy_only=False)[order] for name in table.column_names}


def test_every_object_is_measured_as_skimage_does_on_the_whole_image(ws: Workspace) -> None:
    pixels, mask, ids = put_all(ws, spacing=Spacing(values={"y": 0.5, "x": 0.5}, unit="micrometer", origin="file"))
    result, found = run(ws)
    expected = regionprops(ids, np.moveaxis(pixels, 0, -1))
    assert found["object"].tolist() == [region.label for region in expected]
    assert len(expected) > 100
    columns: dict[str, list[float]] = {
        "area_px": [region.area for region in expected],
        "area_um2": [region.area / 4 for region in expected],
        "area_mm2": [region.area / 4e6 for region in expected],
        "centroid_y_px": [region.centroid[0] for region in expected],
        "centroid_x_px": [region.centroid[1] for region in expected],
        "begin_y_px": [region.bbox[0] for region in expected],
        "begin_x_px": [region.bbox[1] for region in expected],
        "end_y_px": [region.bbox[2] for region in expected],
        "end_x_px": [region.bbox[3] for region in expected],
        "axis_major_px": [region.axis_major_length for region in expected],
        "axis_minor_px": [region.axis_minor_length for region in expected],
        "axis_major_um": [region.axis_major_length / 2 for region in expected],
        "perimeter_px": [region.perimeter for region in expected],
        "perimeter_um": [region.perimeter / 2 for region in expected],
        "mean_band 1": [region.intensity_mean[1] for region in expected],
        "min_band 0": [region.intensity_min[0] for region in expected],
        "max_band 1": [region.intensity_max[1] for region in expected],
    }
    for name, values in columns.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-6, err_msg=name)
    is_long = found["axis_major_px"] > found["axis_minor_px"] * (1 + 1e-6)  # a disc has no direction
    off = np.abs(found["orientation_rad"] - [region.orientation for region in expected])[is_long]
    assert np.minimum(off, math.pi - off).max() < 1e-6
    assert is_long.sum() > 50
    majority = [EVIL if (mask[ids == n] == 7).sum() > (mask[ids == n] == 3).sum() else "cell" for n in found["object"]]
    assert found["class"].tolist() == majority
    own = [n == "cell" for n in majority]
    total = result.details["classes"]["cell"]
    assert (total["objects"], total["area_px"]) == (sum(own), found["area_px"][own].sum())
    assert total["area_um2"] == pytest.approx(found["area_um2"][own].sum())


def test_a_single_window_gives_the_same(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    put_all(ws)
    _, many = run(ws)
    monkeypatch.setattr(subject, "WINDOW_PX", 2048)
    ws.objects.delete("state/a/m/measure.parquet")
    _, one = run(ws)
    for name, values in many.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, one[name], rtol=1e-12, atol=1e-9, err_msg=name)
        else:
            assert values.tolist() == one[name].tolist(), name


def test_text_in_csv_is_no_formula(ws: Workspace) -> None:
    put_all(ws)
    result, found = run(ws)
    with Path(result.paths[1]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["object"])
    assert {row["class"] for row in rows} == {"cell", f"'{EVIL}"}
    by_id = {int(row["object"]): row for row in rows}
    for number, area, mean in zip(found["object"], found["area_px"], found["mean_band 0"], strict=True):
        assert (int(by_id[number]["area_px"]), float(by_id[number]["mean_band 0"])) == (area, mean)
    document = json.loads(Path(result.paths[2]).read_text())
    assert document["classes"] == result.details["classes"]
    assert document["images"]["a"]["objects"] == len(rows)


def test_without_objects_those_that_refine_makes_are_measured(ws: Workspace) -> None:
    mask = np.where(discs(SHAPE, 60) > 0, 3, 0).astype(np.uint8)
    put_image(ws, "a", np.ones((1, *SHAPE), np.uint8))
    put_label(ws, "a", "m", mask, classes=CLASSES)
    _, found = run(ws, intensity="off")
    expected = regionprops(label_whole(mask, connectivity=1))
    assert found["object"].tolist() == [region.label for region in expected]
    assert found["area_px"].tolist() == [region.area for region in expected]
    assert not [name for name in found if name.startswith("mean_")]
    assert refine(RefineConfig(workspace=ws.uri, model="m", objects=True)).items[0].state == "skipped"


def test_pixels_without_a_value_have_no_intensity(ws: Workspace) -> None:
    pixels, _, ids = put_all(ws, has_gaps=True, nodata=0)
    _, found = run(ws)
    for at, number in enumerate(found["object"]):
        values = pixels[0][(ids == number) & (pixels[0] > 0)].astype(float)
        expected = [values.mean(), values.min()] if values.size else [np.nan, np.nan]
        np.testing.assert_allclose([found["mean_band 0"][at], found["min_band 0"][at]], expected)
    assert np.isnan(found["mean_band 0"][4])


@pytest.mark.parametrize(("level", "dtype"), [(0, "uint8"), (1, "uint8"), (0, "float16")])
def test_confidence_is_the_mean_probability_of_the_objects_class(ws: Workspace, level: int, dtype: str) -> None:
    _, _, ids = put_all(ws)
    sides = tuple(-(-n >> level) if level else n for n in SHAPE)
    rng = np.random.default_rng(2)
    stored = rng.integers(0, 256, (2, *sides)).astype(np.uint8) if dtype == "uint8" else rng.random((2, *sides))
    stored = stored.astype(dtype)
    spec = PyramidSpec(
        axes=("c", "y", "x"), shape=stored.shape, dtype=dtype, kind="image", shard_px=256, base_level=level
    )
    with Staging.begin(ws, "a", layer_name("m", "probs"), {"level": level}, spec) as staging:
        staging.put_all(stored)
        staging.finish({"base_level": level, "digest": "p"}, channels=("cell", EVIL))
    result, found = run(ws)
    probs = stored.astype(np.float64) / (255 if dtype == "uint8" else 1)
    wide = probs.repeat(1 << level, 1).repeat(1 << level, 2)[:, : SHAPE[0], : SHAPE[1]]
    expected = [
        wide[0 if name == "cell" else 1][ids == number].mean()
        for name, number in zip(found["class"], found["object"], strict=True)
    ]
    np.testing.assert_allclose(found["confidence"], expected, rtol=1e-9)
    own = found["class"] == "cell"
    mean = np.average(found["confidence"][own], weights=found["area_px"][own])
    assert result.details["classes"]["cell"]["confidence"] == pytest.approx(mean)


def test_probabilities_of_another_run_give_no_confidence(ws: Workspace) -> None:
    _, mask, _ = put_all(ws)
    put_probs(ws, "a", "m", np.zeros((1, *SHAPE), np.uint8), ("cell",), predict={"model": "net-2"})
    put_label(ws, "a", "m", mask, classes=CLASSES, attributes={"predict": {"model": "net-1"}})
    assert "confidence" not in run(ws)[1]
    put_label(ws, "a", "m", mask, classes=CLASSES, attributes={"predict": {"model": "net-2"}})
    assert "confidence" in run(ws)[1]


def test_volumes_have_volumes_and_axes_in_space(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "VOLUME_PX", 3 * 128 * 128)
    rng = np.random.default_rng(0)
    mask = np.where(np.add.outer(np.add.outer(rng.random(8), rng.random(30)), rng.random(140)) > 1.7, 3, 0).astype(
        np.uint8
    )
    put_image(ws, "a", np.ones((1, *mask.shape), np.uint8), axes=("c", "z", "y", "x"),
              spacing=Spacing(values={"z": 2.0, "y": 0.5, "x": 0.5}, unit="millimeter", origin="file"))  # fmt: skip
    put_label(ws, "a", "m", mask, classes=CLASSES, axes=("z", "y", "x"))
    _, found = run(ws)
    labels = label_whole(mask, connectivity=1)
    plain, scaled = regionprops(labels), regionprops(labels, spacing=(2.0, 0.5, 0.5))
    assert found["volume_px"].tolist() == [region.area for region in plain]
    assert len(plain) > 20
    np.testing.assert_allclose(found["volume_ml"], [region.area * 5e-4 for region in plain])
    np.testing.assert_allclose(found["centroid_z_px"], [region.centroid[0] for region in plain])
    np.testing.assert_allclose(found["axis_major_mm"], [r.axis_major_length for r in scaled], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["axis_minor_px"], [r.axis_minor_length for r in plain], rtol=1e-6, atol=1e-6)
    assert "perimeter_px" not in found


def test_areas_of_degrees_are_those_of_an_equal_area_projection(ws: Workspace) -> None:
    georef = Georef(crs_wkt=None, epsg=4326, transform=(0.01, 0, 10.0, 0, -0.01, 62.0))
    _, _, ids = put_all(ws, georef=georef)
    result, found = run(ws)
    edges = 62.0 - 0.01 * np.arange(SHAPE[0] + 1)
    _, north = rasterio.warp.transform(CRS.from_epsg(4326), CRS.from_epsg(6933), [10.0] * len(edges), edges.tolist())
    (west, east), _ = rasterio.warp.transform(CRS.from_epsg(4326), CRS.from_epsg(6933), [10.0, 10.01], [0.0, 0.0])
    of_row = -np.diff(north) * (east - west)
    expected = [(of_row[:, None] * (ids == number)).sum() for number in found["object"]]
    np.testing.assert_allclose(found["area_m2"], expected, rtol=1e-7)
    np.testing.assert_allclose(found["area_ha"] * 1e4, found["area_m2"])
    assert 1 < of_row.max() / of_row.min() < 1.1
    np.testing.assert_allclose(found["centroid_x"], 10.0 + 0.01 * (found["centroid_x_px"] + 0.5))
    assert "perimeter_m" not in found
    assert result.details["classes"]["cell"]["area_ha"] > 0
    assert row_areas(Georef(crs_wkt=None, epsg=32633, transform=(1, 0, 0, 0, -1, 0)), 0, 3) is None


def test_what_was_measured_is_read_back_until_something_changes(ws: Workspace) -> None:
    put_all(ws)
    first, before = run(ws)
    second, after = run(ws)
    assert [r.items[0].details["reused"] for r in (first, second)] == [False, True]
    assert first.details == second.details
    assert {name: values.tolist() for name, values in before.items()}.keys() == after.keys()
    assert run(ws, intensity="off")[0].items[0].details["reused"] is False
    key = "state/a/m/measure.parquet"
    data = bytearray(ws.objects.get(key) or b"")
    data[200] ^= 255
    ws.objects.put(key, bytes(data))
    assert run(ws, intensity="off")[0].items[0].details["reused"] is False


def test_objects_of_an_earlier_mask_are_named_and_not_measured(ws: Workspace) -> None:
    _, mask, _ = put_all(ws)
    put_label(ws, "a", "m", mask, classes=CLASSES, version=1)
    result = measure(MeasureConfig(workspace=ws.uri, model="m", run="r"))
    stale = "m_instances are the objects of an earlier mask m; predict again"
    assert (result.exit_code, result.items[0].error) == (1, f"image a: {stale}")
    assert result.paths == ()


def test_images_of_other_bands_and_units_share_a_table(ws: Workspace) -> None:
    put_all(ws)
    spacing = Spacing(values={"y": 1.0, "x": 1.0}, unit="meter", origin="file")
    put_image(ws, "b", np.full((1, 14, 15), 9, np.uint8), spacing=spacing)
    put_label(ws, "b", "m", np.pad(np.full((4, 5), 3, np.uint8), 5), classes=CLASSES)
    result, found = run(ws)
    own = found["image"] == "b"
    assert found["area_m2"][own].tolist() == [20.0]
    assert np.isnan(found["area_m2"][~own]).all()
    assert np.isnan(found["mean_band 1"][own]).all()
    assert found["mean_band 0"][own].tolist() == [9.0]
    assert result.details["objects"] == len(found["object"])
    is_cell = found["class"] == "cell"
    total = {"objects": is_cell.sum(), "area_px": found["area_px"][is_cell].sum()}
    assert result.details["classes"]["cell"] == total  # in m2 it would be that of one image
    document = json.loads(Path(result.paths[2]).read_text())
    assert document["images"]["b"]["classes"] == {
        "cell": {"objects": 1, "area_px": 20, "area_m2": 20.0, "area_ha": 0.002},
        EVIL: {"objects": 0, "area_px": 0, "area_m2": 0.0, "area_ha": 0.0},
    }
