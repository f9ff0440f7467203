"""GeoPackages and shapefiles through GDAL, and nothing else through it."""

import sqlite3
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.crs import CRS

from segcore.errors import SourceError
from tests.targets.shapes_made import SHAPE, blobs, covered, geo_image, image_of, opened, whole

pyogrio = pytest.importorskip("pyogrio")
TRANSFORM = (10.0, 0.0, 500000.0, 0.0, -10.0, 4600000.0)
IMAGE = geo_image(32631, TRANSFORM)
AREAS = blobs(8)


def write(path: Path, areas: Any, names: Any, layer: str | None = None, crs: str | None = "EPSG:32631") -> str:
    placed = shapely.transform(np.array(areas, dtype=object), lambda at: at * [10, -10] + [500000, 4600000])
    values, driver = np.array(names, dtype=object), "GPKG" if path.suffix == ".gpkg" else "ESRI Shapefile"
    more = {"layer": layer, "append": path.exists(), "driver": driver, "geometry_type": "Polygon"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # WKT: this GDAL may not find the PROJ data of its package by the side of another one.
        wkt = None if crs is None else CRS.from_string(crs).to_wkt()
        pyogrio.raw.write(str(path), shapely.to_wkb(placed), [values], ["kind"], crs=wkt, **more)
    return str(path)


@pytest.mark.parametrize("suffix", ["gpkg", "shp"])
def test_polygons_classes_and_crs(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", AREAS, ["b", "a"] * 4)
    target = opened(path, IMAGE, class_property="kind")
    expected = np.zeros(SHAPE, np.uint8)
    for area, number in zip(AREAS, [2, 1] * 4, strict=True):
        expected[covered(area)] = number
    np.testing.assert_array_equal(whole(target), expected)
    assert [info.name for info in target.classes] == ["background", "a", "b"]
    assert sorted(found.suffix for found in tmp_path.iterdir()) == sorted(
        [".gpkg"] if suffix == "gpkg" else [".cpg", ".dbf", ".prj", ".shp", ".shx"]
    )
    with pytest.raises(SourceError, match="has no CRS"):
        opened(path, image_of())


def test_a_layer_is_named_or_the_only_one(tmp_path: Path) -> None:
    path = write(tmp_path / "two.gpkg", AREAS[:1], ["x"], "roads")
    assert (whole(opened(path, IMAGE)) > 0).sum() == covered(AREAS[0]).sum()
    write(tmp_path / "two.gpkg", AREAS[1:2], ["x"], "huts")
    np.testing.assert_array_equal(whole(opened(f"{path}::huts", IMAGE)) > 0, covered(AREAS[1]))
    with pytest.raises(SourceError, match=r"got 2 \(roads, huts\); name one: .*two.gpkg::roads"):
        opened(path, IMAGE)
    with pytest.raises(SourceError, match="no layer 'barns'; it has roads, huts"):
        opened(f"{path}::barns", IMAGE)


def test_a_layer_without_a_crs_is_refused_over_an_image_with_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="names no CRS"):
        opened(write(tmp_path / "n.gpkg", AREAS, ["x"] * 8, crs=None), IMAGE)


@pytest.mark.parametrize("missing", [".dbf", ".shx", ".prj"])
def test_a_shapefile_needs_the_files_beside_it(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path / "s.shp", AREAS, ["x"] * 8)
    Path(path).with_suffix(missing).unlink()
    with pytest.raises(SourceError, match=rf"s{missing} cannot be read; put .shp, .shx, .dbf, .prj"):
        opened(path, IMAGE)


def test_other_databases_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "d.gpkg") as database:
        database.execute("CREATE TABLE t (a)")
    database.close()
    with pytest.raises(SourceError, match="no GeoPackage"):
        opened(str(tmp_path / "d.gpkg"), IMAGE)
    path = Path(write(tmp_path / "a.gpkg", AREAS, ["x"] * 8))
    data = path.read_bytes()
    path.write_bytes(data[:5000])
    with pytest.raises(SourceError, match=r"a\.gpkg") as caught:
        opened(str(path), IMAGE)
    assert "\n" not in str(caught.value)


def test_a_database_with_changes_beside_it_is_refused_and_none_is_left_there(tmp_path: Path) -> None:
    path = write(tmp_path / "w.gpkg", AREAS[:1], ["x"])
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE other (a)")
        database.commit()
        with pytest.raises(SourceError, match=r"another program has it open.*w\.gpkg-wal"):
            opened(path, IMAGE)
    database.close()
    assert (whole(opened(path, IMAGE)) > 0).any()
    assert [found.name for found in tmp_path.iterdir()] == ["w.gpkg"]


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.gpkg", AREAS, ["x"] * 8)
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(SourceError, match=r"extra `vector`: pip install 'segcore\[vector\]'"):
        opened(path, IMAGE)


def test_files_are_read_where_they_lie(tmp_path: Path) -> None:
    import fsspec

    write(tmp_path / "m.shp", AREAS, ["x"] * 8)
    system = fsspec.filesystem("memory")
    for found in tmp_path.iterdir():
        system.pipe_file(f"/shapes/{found.name}", found.read_bytes())
    expected = np.any([covered(area) for area in AREAS], axis=0)
    np.testing.assert_array_equal(whole(opened("memory://shapes/m.shp", IMAGE)) > 0, expected)
