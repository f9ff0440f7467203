"""Polygons read back by pyogrio, pyarrow and a JSON parser: burnt into pixels again they are the mask."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pyogrio
import pyogrio.raw
import pyproj
import pytest
import rasterio.features
import shapely
from rasterio.crs import CRS
from rasterio.transform import Affine
from scipy import ndimage
from skimage.measure import label

from segcore.classes import ClassInfo
from segcore.config import ExportConfig
from segcore.export import export, features, geojson, table
from segcore.spatial import Georef, Spacing
from segcore.store import Workspace
from tests.export.reading import READERS, Row, qupath_object, read_geojson, read_geopackage, read_geoparquet
from tests.synthetic import put_image, put_label, put_objects, put_probs

SHAPE = (83, 61)
CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=1, name='Gebäude "%s"', color=(230, 159, 0)),
    ClassInfo(id=3, name="water", color=(86, 180, 233)),
)
SQUARE = Affine(0.5, 0, 600000, 0, -0.5, 5300000)
TURNED = Affine(0.28, 0.1, 5e5, 0.1, -0.28, 5e6)
UTM = 32633
MICRONS = Spacing(values={"y": 0.5, "x": 0.25}, unit="micrometer", origin="file")


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "WINDOW_PX", 16)
    monkeypatch.setattr(table, "ROWS", 40)


def _ids(seed: int = 0, share: float = 0.7) -> npt.NDArray[np.uint8]:
    """Ragged regions of two classes, with holes of many sizes and a strip to ignore."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random(SHAPE), 1.2)
    ids = np.where(smooth > np.quantile(smooth, 1 - share), 1, 0)
    ids = np.where(ndimage.gaussian_filter(rng.random(SHAPE), 2) > 0.52, 3, ids)
    ids[rng.random(SHAPE) < 0.05] = 0
    ids[:3] = 255
    return ids.astype(np.uint8)


def _workspace(
    tmp_path: Path, ids: npt.NDArray[np.uint8], transform: Affine | None = None, spacing: Spacing | None = None
) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    wkt = CRS.from_epsg(UTM).to_wkt()
    georef = None if transform is None else Georef(crs_wkt=wkt, epsg=UTM, transform=tuple(transform)[:6])
    put_image(ws, "scene-1", np.ones((1, *SHAPE), np.uint8), georef=georef, spacing=spacing)
    put_label(ws, "scene-1", "m", ids, CLASSES, attributes={"code_version": "0.9", "model": {"id": "net-1"}})
    return ws


def _export(ws: Workspace, folder: Path, file_format: str, **options: Any) -> Path:
    given = {"workspace": ws.uri, "model": "m", "output": str(folder), "format": file_format, **options}
    result = export(ExportConfig.model_validate(given))
    assert [item.state for item in result.items] == ["done"], result.items
    return Path(result.paths[0])


def _burnt(rows: list[Row], transform: Affine, field: str = "class_id") -> npt.NDArray[np.int32]:
    shapes = [(row["geometry"], row[field]) for row in rows]
    return rasterio.features.rasterize(shapes, out_shape=SHAPE, transform=transform, dtype="int32")


def _foreground(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.where(ids == 255, 0, ids)


@pytest.mark.parametrize("file_format", READERS)
@pytest.mark.parametrize("transform", [SQUARE, TURNED])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_polygons_burn_back_into_the_mask_and_have_its_areas(
    tmp_path: Path, file_format: str, transform: Affine, share: float
) -> None:
    ids = _ids(int(share * 10), share)
    path = _export(_workspace(tmp_path, ids, transform), tmp_path, file_format, coordinates="crs")
    rows = READERS[file_format](path)
    np.testing.assert_array_equal(_burnt(rows, transform), _foreground(ids))
    assert len(rows) == label(_foreground(ids), background=0, connectivity=1).max()
    px = abs(transform.determinant)
    for row in rows:
        assert row["geometry"].is_valid
        assert row["geometry"].exterior.is_ccw
        assert row["geometry"].area == pytest.approx(row["area_px"] * px, rel=1e-6)
        assert row["area_m2"] == pytest.approx(row["area_px"] * px)
    for info in CLASSES[1:]:
        own = [row for row in rows if row["class_id"] == info.id]
        assert sum(row["area_px"] for row in own) == (ids == info.id).sum()
        assert {(row["class"], row["color"]) for row in own} == {(info.name, "#{:02x}{:02x}{:02x}".format(*info.color))}


@pytest.mark.parametrize("file_format", READERS)
def test_lineage_is_in_the_file(tmp_path: Path, file_format: str) -> None:
    ws = _workspace(tmp_path, _ids(), SQUARE)
    path = _export(ws, tmp_path, file_format)
    if file_format == "geojson":
        found = json.loads(path.read_text("utf-8"))["SEGCORE_LINEAGE"]
    elif file_format == "geopackage":
        found = json.loads(pyogrio.read_info(path)["dataset_metadata"]["SEGCORE_LINEAGE"])
    else:
        found = json.loads(pq.read_metadata(path).metadata[b"SEGCORE_LINEAGE"])
    digests = {"plan_digest": ws.label("scene-1", "m").digest, "source_digest": ws.image("scene-1").digest}
    expected = {"mask": "m", "model": "net-1", "code_version": "0.9", **digests}
    assert found == {key: value for key, value in expected.items() if value}


def _numbered(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Objects as the store has them: connected by sides, numbered in the order of their first pixels, with gaps."""
    return (label(ids > 0, background=0, connectivity=1) * 7).astype(np.uint32)


@pytest.mark.parametrize("file_format", READERS)
def test_each_object_is_one_polygon_with_the_class_of_most_of_its_pixels(tmp_path: Path, file_format: str) -> None:
    ids = _foreground(_ids(5, 0.5))
    ws, numbers = _workspace(tmp_path, ids, SQUARE), _numbered(ids)
    put_objects(ws, "scene-1", "m_instances", numbers, {"kind": "instances", "mask": "m", "objects": 1})
    path = _export(ws, tmp_path, file_format, model="m_instances", coordinates="crs")
    rows = READERS[file_format](path)
    if file_format == "geojson":
        document = json.loads(path.read_text("utf-8"))
        for row, feature in zip(rows, document["features"], strict=True):
            row["id"] = feature["id"]
    np.testing.assert_array_equal(_burnt(rows, SQUARE, "id"), numbers)
    for row in rows:
        own = ids[numbers == row["id"]]
        assert row["area_px"] == own.size
        assert row["class_id"] == (3 if (own == 3).sum() > (own == 1).sum() else 1)


def test_geopackage_has_crs_and_an_index(tmp_path: Path) -> None:
    ids = _ids()
    path = _export(_workspace(tmp_path, ids, SQUARE), tmp_path, "geopackage")
    info = pyogrio.read_info(path)
    assert (info["driver"], info["layer_name"], info["geometry_type"]) == ("GPKG", "mask", "Polygon")
    assert pyproj.CRS(info["crs"]) == pyproj.CRS.from_epsg(UTM)
    assert info["capabilities"]["fast_spatial_filter"]
    x, y = SQUARE @ (30, 40)
    everything = read_geopackage(path)
    hit = pyogrio.raw.read(path, bbox=(x, y - 0.2, x + 0.2, y))[2]
    touching = [row for row in everything if row["geometry"].intersects(shapely.box(x, y - 0.2, x + 0.2, y))]
    assert len(hit) == len(touching) > 0


def test_geoparquet_is_as_its_specification_says(tmp_path: Path) -> None:
    path = _export(_workspace(tmp_path, _ids(), SQUARE), tmp_path, "geoparquet")
    metadata = pq.read_metadata(path)
    geo = json.loads(metadata.metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert (geo["version"], column["encoding"], column["geometry_types"]) == ("1.1.0", "WKB", ["Polygon"])
    assert (column["orientation"], column["edges"]) == ("counterclockwise", "planar")
    assert pyproj.CRS.from_json_dict(column["crs"]) == pyproj.CRS.from_epsg(UTM)
    rows = pq.read_table(path).to_pylist()
    outlines = shapely.from_wkb([row["geometry"] for row in rows])
    np.testing.assert_array_equal([list(row["bbox"].values()) for row in rows], shapely.bounds(outlines))
    assert column["covering"]["bbox"] == {side: ["bbox", side] for side in rows[0]["bbox"]}
    np.testing.assert_array_equal(column["bbox"], shapely.total_bounds(outlines))
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sum(sizes) == len(rows) > sizes[0] >= 40


@pytest.mark.parametrize("file_format", ["geopackage", "geoparquet"])
def test_without_a_crs_polygons_are_in_pixels_and_say_so(tmp_path: Path, file_format: str) -> None:
    ids = _ids()
    path = _export(_workspace(tmp_path, ids, spacing=MICRONS), tmp_path, file_format)
    rows = READERS[file_format](path)
    np.testing.assert_array_equal(_burnt(rows, Affine.identity()), _foreground(ids))
    assert all(row["area_um2"] == row["area_px"] * 0.125 for row in rows)
    if file_format == "geoparquet":
        assert json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]["crs"] is None
    refused = ExportConfig(
        workspace=str(tmp_path / "ws"), model="m", output=str(tmp_path / "o"), format=file_format, coordinates="crs"
    )
    assert "has no CRS to write coordinates in" in str(export(refused).items[0].error)


@pytest.mark.parametrize("file_format", READERS)
def test_nothing_but_background_is_a_file_without_rows(tmp_path: Path, file_format: str) -> None:
    path = _export(_workspace(tmp_path, np.zeros(SHAPE, np.uint8), SQUARE), tmp_path, file_format)
    assert READERS[file_format](path) == []


def test_qupath_reads_pixels_of_the_full_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = _ids()
    ws = _workspace(tmp_path, ids, spacing=MICRONS)
    path = _export(ws, tmp_path, "geojson")
    document = json.loads(path.read_text("utf-8"))
    objects = [qupath_object(feature) for feature in document["features"]]
    np.testing.assert_array_equal(_burnt(read_geojson(path), Affine.identity()), _foreground(ids))
    assert {found["class"] for found in objects} == {(info.name, info.color) for info in CLASSES[1:]}
    assert {found["type"] for found in objects} == {"annotation"}
    for found in objects:
        area = found["roi"].area
        assert found["measurements"] == {"Area px^2": area, "Area µm^2": pytest.approx(area * 0.125)}
    own = [found["id"] for found in objects]
    assert len(set(own)) == len(own)
    monkeypatch.setattr(features, "WINDOW_PX", 64)
    monkeypatch.setattr(geojson, "FEW_OBJECTS", len(objects) - 1)
    again = [
        qupath_object(feature) for feature in json.loads(_export(ws, tmp_path / "2", "geojson").read_text())["features"]
    ]
    assert {found["type"] for found in again} == {"detection"}
    assert {(found["id"], found["roi"].normalize()) for found in again} == {
        (found["id"], found["roi"].normalize()) for found in objects
    }


def test_qupath_gets_pixels_of_a_georeferenced_image_where_asked(tmp_path: Path) -> None:
    ids = _ids()
    path = _export(_workspace(tmp_path, ids, SQUARE), tmp_path, "geojson", coordinates="pixels")
    document = json.loads(path.read_text("utf-8"))
    assert "crs" not in document
    assert all(qupath_object(feature)["measurements"]["Area px^2"] > 0 for feature in document["features"])
    np.testing.assert_array_equal(_burnt(read_geojson(path), Affine.identity()), _foreground(ids))


@pytest.mark.parametrize(("level", "dtype"), [(0, np.uint8), (1, np.float16)])
def test_confidence_is_the_mean_probability_of_the_own_class(tmp_path: Path, level: int, dtype: Any) -> None:
    ids = _ids()
    ws = _workspace(tmp_path, ids, SQUARE)
    sides = tuple(-(-side // 2**level) for side in SHAPE)
    probs = np.random.default_rng(1).random((2, *sides))
    probs[:, :20, :] = np.nan if dtype == np.float16 else 0
    stored = (np.nan_to_num(probs) * 255).round().astype(dtype) if dtype == np.uint8 else probs.astype(dtype)
    put_probs(ws, "scene-1", "m", stored, ("water", CLASSES[1].name), level)
    values = stored.astype(float) / (255 if dtype == np.uint8 else 1)
    values = values.repeat(2**level, axis=1).repeat(2**level, axis=2)[:, : SHAPE[0], : SHAPE[1]]
    regions = label(_foreground(ids), background=0, connectivity=1)
    rows = read_geoparquet(_export(ws, tmp_path, "geoparquet", coordinates="pixels"))
    seen = 0
    for row in rows:
        inside = rasterio.features.rasterize([row["geometry"]], out_shape=SHAPE) > 0
        assert len(np.unique(regions[inside])) == 1
        found = values[0 if row["class_id"] == 3 else 1][inside]
        found = found[np.isfinite(found)]
        if found.size:
            assert row["confidence"] == pytest.approx(found.mean(), abs=1e-6)
        else:
            assert np.isnan(row["confidence"])
            seen += 1
    assert bool(seen) == (dtype == np.float16)
    document = json.loads(_export(ws, tmp_path, "geojson", coordinates="pixels").read_text("utf-8"))
    listed = [qupath_object(feature)["measurements"]["Confidence"] for feature in document["features"]]
    np.testing.assert_array_equal(np.sort(listed), np.sort([row["confidence"] for row in rows]))
    in_gis = json.loads(_export(ws, tmp_path / "gis", "geojson").read_text("utf-8"))["features"]
    assert sum(feature["properties"]["confidence"] is None for feature in in_gis) == seen


def test_probabilities_of_another_run_are_left_out(tmp_path: Path) -> None:
    ws = _workspace(tmp_path, _ids(), SQUARE)
    made = {"predict": {"model": "net", "halo_px": 32, "thresholds": [[3, 0.2]]}}
    put_label(ws, "scene-1", "m", _ids(), CLASSES, attributes=made)
    values = np.zeros((1, *SHAPE), np.uint8)
    put_probs(ws, "scene-1", "m", values, ("water",), predict={"model": "net", "halo_px": 64})
    assert "confidence" not in read_geoparquet(_export(ws, tmp_path, "geoparquet"))[0]
    put_probs(ws, "scene-1", "m", values, ("water",), predict={"model": "net", "halo_px": 32})
    assert "confidence" in read_geoparquet(_export(ws, tmp_path / "2", "geoparquet"))[0]


def test_refined_mask_has_the_probabilities_of_the_one_it_was_made_of(tmp_path: Path) -> None:
    ws = _workspace(tmp_path, _ids(), SQUARE)
    put_probs(ws, "scene-1", "m", np.full((1, *SHAPE), 51, np.uint8), ("water",))
    for name, below in (("m_refined", "m"), ("again", "m_refined")):
        own = {"mask": below, "mask_digest": ws.label("scene-1", below).digest, "refine": {}}
        put_label(ws, "scene-1", name, _ids(), CLASSES, attributes=own)
    rows = read_geoparquet(_export(ws, tmp_path, "geoparquet", model="again"))
    found = [row["confidence"] for row in rows if row["class"] == "water"]
    np.testing.assert_allclose(found, 0.2)
    assert len(found) > 3


@pytest.mark.parametrize(("simplify", "tolerance"), [("1px", 0.5), ("1.5m", 1.5), ("0.004km", 4.0)])
@pytest.mark.parametrize("file_format", READERS)
def test_simplified_outlines_stay_within_the_tolerance(
    tmp_path: Path, file_format: str, simplify: str, tolerance: float
) -> None:
    ws = _workspace(tmp_path, _ids(2), SQUARE)
    read = READERS[file_format]
    whole = read(_export(ws, tmp_path, file_format, coordinates="crs"))
    fewer = read(_export(ws, tmp_path / "fewer", file_format, coordinates="crs", simplify=simplify))
    assert sum(len(shapely.get_coordinates(row["geometry"])) for row in fewer) < 0.7 * sum(
        len(shapely.get_coordinates(row["geometry"])) for row in whole
    )
    for exact, row in zip(whole, fewer, strict=True):
        outline, simple = exact["geometry"], row["geometry"]
        assert simple.is_valid
        assert row["area_px"] == exact["area_px"]
        assert shapely.hausdorff_distance(outline.boundary, simple.boundary) <= tolerance + 1e-9
        assert abs(outline.area - simple.area) <= tolerance * outline.length


def test_length_over_pixels_of_unknown_size_is_refused(tmp_path: Path) -> None:
    ws = _workspace(tmp_path, _ids())
    config = ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path), format="geojson", simplify="1um")
    assert "give it in px (--simplify 1px)" in str(export(config).items[0].error)


def test_file_simplified_otherwise_is_another_file(tmp_path: Path) -> None:
    ws = _workspace(tmp_path, _ids(), SQUARE)
    config = ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path / "out"), format="geopackage")
    fewer = config.model_copy(update={"simplify": "0.5m"})
    assert [export(c).items[0].state for c in (fewer, config, fewer)] == ["done", "failed", "skipped"]


def test_polygon_over_the_antimeridian_is_cut_there(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    wkt = CRS.from_epsg(32601).to_wkt()
    georef = Georef(crs_wkt=wkt, epsg=32601, transform=(1000.0, 0, 245000, 0, -1000.0, 5_000_000))
    put_image(ws, "scene-1", np.ones((1, 40, 40), np.uint8), georef=georef)
    put_label(ws, "scene-1", "m", np.ones((40, 40), np.uint8), CLASSES)
    (row,) = read_geojson(_export(ws, tmp_path, "geojson"))
    assert (row["geometry"].geom_type, row["geometry"].is_valid) == ("MultiPolygon", True)
    west, east = sorted(row["geometry"].geoms, key=lambda part: -part.bounds[0])
    assert west.bounds[2] == 180
    assert east.bounds[0] == -180
    assert west.bounds[0] > 179
    assert east.bounds[2] < -179
    assert west.exterior.is_ccw
    assert east.exterior.is_ccw


@pytest.mark.parametrize("file_format", READERS)
def test_areas_in_degrees_are_those_of_an_equal_area_projection(tmp_path: Path, file_format: str) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    crs, step = CRS.from_epsg(4326), 0.25  # 20 degrees from north to south: pixels differ
    georef = Georef(crs_wkt=crs.to_wkt(), epsg=4326, transform=(step, 0, 10, 0, -step, 70))
    put_image(ws, "scene-1", np.ones((1, *SHAPE), np.uint8), georef=georef)
    put_label(ws, "scene-1", "m", _ids(), CLASSES)
    rows = READERS[file_format](_export(ws, tmp_path, file_format))
    project = pyproj.Transformer.from_crs(4326, 6933, always_xy=True).transform
    assert len(rows) > 20
    for row in rows:
        # Between meridians and parallels: straight lines in that projection too.
        in_metres = shapely.transform(row["geometry"], lambda xy: np.column_stack(project(*xy.T)))
        assert row["area_m2"] == pytest.approx(in_metres.area, rel=1e-6)


def _placed_square(tmp_path: Path, epsg: int, transform: tuple[float, ...], has_hole: bool = False) -> Any:
    """The one region of a mask of 40 px, in degrees."""
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    georef = Georef(crs_wkt=CRS.from_epsg(epsg).to_wkt(), epsg=epsg, transform=transform)
    put_image(ws, "scene-1", np.ones((1, 40, 40), np.uint8), georef=georef)
    ids = np.zeros((40, 40), np.uint8)
    ids[2:38, 2:38] = 1
    ids[10:20, 30:34] = 1 - has_hole
    put_label(ws, "scene-1", "m", ids, CLASSES)
    (row,) = read_geojson(_export(ws, tmp_path, "geojson"))
    assert row["geometry"].is_valid
    return row["geometry"]


@pytest.mark.parametrize("epsg", [4326, 4269, 3857])
def test_region_that_spans_most_of_the_earth_stays_whole(tmp_path: Path, epsg: int) -> None:
    """From 162 degrees west to 162 degrees east: no part of it is beyond the antimeridian."""
    side = 9.0 if epsg != 3857 else 9.0 * 111319.49079327358
    found = _placed_square(tmp_path, epsg, (side, 0, -20 * side, 0, -side / 9, 20 * side / 9))
    assert (found.geom_type, found.contains(shapely.Point(0, 0))) == ("Polygon", True)
    assert found.bounds[::2] == pytest.approx((-162, 162))


def test_regions_of_an_image_from_0_to_360_are_where_the_earth_is(tmp_path: Path) -> None:
    found = _placed_square(tmp_path, 4326, (9.0, 0, 0.0, 0, -1.0, 20.0), has_hole=True)  # 18 to 342 degrees
    west, east = sorted(found.geoms, key=lambda part: part.bounds[0])
    assert (west.bounds, east.bounds) == ((-180, -18, -18, 18), (18, -18, 180, 18))
    assert [ring.bounds for ring in west.interiors] == [(-90, 0, -54, 10)]
    assert not east.interiors


def test_image_beyond_the_antimeridian_is_moved(tmp_path: Path) -> None:
    assert _placed_square(tmp_path, 4326, (0.25, 0, 190.0, 0, -0.25, 5.0)).bounds == (-169.5, -4.5, -160.5, 4.5)


def test_hole_beyond_the_antimeridian_stays_in_its_region(tmp_path: Path) -> None:
    found = _placed_square(tmp_path, 32601, (1000.0, 0, 245000, 0, -1000.0, 5_000_000), has_hole=True)
    assert sorted(len(part.interiors) for part in found.geoms) == [0, 1]
    (hole,) = (ring for part in found.geoms for ring in part.interiors)
    assert -180 < hole.bounds[0] < hole.bounds[2] < -179


def test_longitude_comes_first_in_the_crs_that_a_file_in_degrees_names(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    georef = Georef(crs_wkt=CRS.from_epsg(4326).to_wkt(), epsg=4326, transform=(0.1, 0, 20.0, 0, -0.1, 60.0))
    put_image(ws, "scene-1", np.ones((1, 4, 4), np.uint8), georef=georef)
    put_label(ws, "scene-1", "m", np.ones((4, 4), np.uint8), CLASSES)
    path = _export(ws, tmp_path, "geojson", coordinates="crs")
    assert json.loads(path.read_text("utf-8"))["crs"]["properties"]["name"] == "urn:ogc:def:crs:OGC:1.3:CRS84"
    assert tuple(pyogrio.read_info(path)["total_bounds"]) == pytest.approx((20.0, 59.6, 20.4, 60.0))


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = _workspace(tmp_path, _ids())
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    config = ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path / "out"), format="geopackage")
    assert "pip install 'segcore[vector]'" in str(export(config).items[0].error)


def test_id_that_is_no_class_fails_by_name(tmp_path: Path) -> None:
    ids = _ids()
    ids[50, 50] = 2
    ws = _workspace(tmp_path, ids, SQUARE)
    for file_format in READERS:
        config = ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path / "out"), format=file_format)
        assert export(config).items[0].error == "image scene-1: mask m holds 2, which is no class"
