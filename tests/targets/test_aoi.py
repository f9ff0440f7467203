"""AOI: inside as the target says, outside ignore."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from segcore.errors import SourceError
from segcore.geometry import Window
from tests.targets.shapes_made import SHAPE, annotation, blobs, covered, image_of, opened, save, whole


@pytest.mark.parametrize("kind", ["shapes", "mask"])
def test_outside_is_ignore_and_no_object(tmp_path: Path, kind: str) -> None:
    areas = blobs(10)
    inside = covered(aoi := shapely.box(20, 10, 90, 70))
    path = save(tmp_path / "t.geojson", [annotation(area, "x") for area in areas])
    if kind == "shapes":
        where = save(tmp_path / "aoi.geojson", [annotation(aoi, "Region*")])
    else:
        where = str(tmp_path / "aoi.png")
        Image.fromarray(inside.astype(np.uint8) * 255).save(where)
    plain, limited = opened(path), opened(path, aoi=where)
    for window in [Window.whole(SHAPE), Window((5, 15), (40, 50))]:
        expected = np.where(inside[window.slices], plain.read(window), 255)
        np.testing.assert_array_equal(limited.read(window), expected)
        assert limited.read(window).dtype == np.uint8
        objects = np.where(inside[window.slices], plain.read_instances(window), 0)
        np.testing.assert_array_equal(limited.read_instances(window), objects)
    assert (limited.kind, limited.classes, limited.has_instances) == (plain.kind, plain.classes, True)
    limited.close()


def test_masks_have_an_aoi_too(tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    Image.fromarray(ids).save(tmp_path / "mask.png")
    where = save(tmp_path / "aoi.geojson", [annotation(shapely.box(0, 0, 60, 90), None)])
    target = opened(str(tmp_path / "mask.png"), aoi=where)
    np.testing.assert_array_equal(whole(target)[:, :60], ids[:, :60])
    assert (whole(target)[:, 60:] == 255).all()
    target.close()


def test_an_aoi_elsewhere_is_refused_with_both_named(tmp_path: Path) -> None:
    path = save(tmp_path / "t.geojson", [annotation(shapely.box(1, 1, 9, 9), "x")])
    where = save(tmp_path / "aoi.geojson", [annotation(shapely.box(900, 900, 999, 999), None)])
    with pytest.raises(
        SourceError, match=r"aoi.geojson: no shape touches the image image.tif: they lie at x 900 to 999"
    ):
        opened(path, aoi=where)
    with pytest.raises(SourceError, match=r"none.geojson: holds no polygon"):
        opened(path, aoi=save(tmp_path / "none.geojson", []))
    Image.fromarray(np.ones((10, 10), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(SourceError, match=r"small.png.*10 x 10"):
        opened(path, image_of(), aoi=str(tmp_path / "small.png"))
