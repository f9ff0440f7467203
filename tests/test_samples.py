"""The sample scenes: what they promise to ingest, and that a seed says all."""

import csv
from pathlib import Path

import numpy as np
import rasterio

from segcore.classes import IGNORE
from segcore.samples import CLASSES, EPSG, HOUSE, ROAD, WATER, SceneSpec, draw_scene, write_samples

SHAPE = (320, 384)


def test_draw_scene_is_decided_by_its_seed() -> None:
    first, again, other = draw_scene(7, SHAPE), draw_scene(7, SHAPE), draw_scene(8, SHAPE)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).mean() > 0.1


def test_draw_scene_has_every_class_and_ignores_exactly_where_there_is_no_data() -> None:
    rgb, ids = draw_scene(7, SHAPE)
    assert rgb.shape == (3, *SHAPE)
    assert ids.shape == SHAPE
    assert set(np.unique(ids)) == {info.id for info in CLASSES} | {IGNORE}
    np.testing.assert_array_equal((rgb == 0).all(0), ids == IGNORE)
    assert (rgb[:, ids != IGNORE] > 0).all()


def test_draw_scene_shows_the_classes_it_names() -> None:
    rgb, ids = draw_scene(7, SHAPE)
    water, road = (rgb[:, ids == kind].mean(1) for kind in (WATER, ROAD))
    assert water[2] > water[0]  # bluish
    assert np.ptp(road) < 12  # grey
    assert 40 < (ids == HOUSE).sum() < 0.2 * ids.size


def test_write_samples_gives_georeferenced_pairs_and_keeps_what_is_there(tmp_path: Path) -> None:
    scenes = (SceneSpec("a", (256, 256), 1, "train"), SceneSpec("b", (256, 288), 2, "test"))
    manifest = write_samples(tmp_path, scenes)
    rows = list(csv.DictReader(manifest.read_text(encoding="utf-8").splitlines()))
    assert [(row["source"], row["split"]) for row in rows] == [("a.tif", "train"), ("b.tif", "test")]
    with rasterio.open(tmp_path / "b.tif") as source, rasterio.open(tmp_path / rows[1]["target"]) as target:
        rgb, ids = draw_scene(2, (256, 288))
        np.testing.assert_array_equal(source.read(), rgb)
        np.testing.assert_array_equal(target.read(1), ids)
        assert source.crs.to_epsg() == target.crs.to_epsg() == EPSG
        assert source.transform == target.transform
        assert source.nodata == 0
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tif")}
    write_samples(tmp_path, scenes)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tif")} == written
