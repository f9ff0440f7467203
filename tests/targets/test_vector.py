"""Vector targets: GeoJSON of QuPath and of GIS programs, against pixels found one by one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from rasterio.transform import Affine
from rasterio.warp import transform_geom
from shapely.geometry import mapping, shape

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, open_source
from segcore.sources.base import Opening
from segcore.spatial import Spacing
from segcore.targets import Target
from tests.targets.shapes_made import (
    SHAPE,
    annotation,
    blobs,
    covered,
    feature,
    geo_image,
    image_of,
    opened,
    save,
    whole,
)

UTM = (0.5, 0.0, 733601.0, 0.0, -0.5, 3725139.0)
"""Half-metre pixels in zone 16 north (EPSG:32616)."""


def in_utm(area: Any) -> Any:
    return shapely.transform(area, lambda at: at * [UTM[0], UTM[4]] + [UTM[2], UTM[5]])


def expected_of(areas: list[Any], ids: list[int]) -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    for area, number in zip(areas, ids, strict=True):
        found[covered(area)] = number
    return found


def check(target: Target, expected: np.ndarray) -> None:
    for window in [Window.whole(SHAPE), Window((7, 11), (30, 20)), Window((89, 119), (1, 1))]:
        ids = target.read(window)
        assert ids.dtype == target.dtype == np.uint8
        np.testing.assert_array_equal(ids, expected[window.slices])


@pytest.mark.parametrize("wrapped", ["collection", "list", "older"])
def test_qupath_annotations(tmp_path: Path, wrapped: str) -> None:
    areas = blobs(12)
    names = ["Tumor", "Stroma", "Immune cells"] * 4
    features = [annotation(area, name, [200, 0, 7]) for area, name in zip(areas, names, strict=True)]
    if wrapped == "older":
        for one in features:
            one["id"] = "PathAnnotationObject"
            one["properties"] = {
                "classification": {"name": one["properties"]["classification"]["name"], "colorRGB": -3670009}
            }
    found = {"type": "FeatureCollection", "features": features} if wrapped == "collection" else features
    path = tmp_path / "a.geojson"
    path.write_text("\ufeff" + json.dumps(found), encoding="utf-8")
    target = opened(str(path))
    assert [(info.id, info.name) for info in target.classes] == [
        (0, "background"), (1, "Immune cells"), (2, "Stroma"), (3, "Tumor"),
    ]  # fmt: skip
    assert target.classes[3].color == (200, 0, 7)
    check(target, expected_of(areas, [3, 2, 1] * 4))
    numbers = np.zeros(SHAPE, np.uint32)
    for number, area in enumerate(areas, 1):
        numbers[covered(area)] = number
    np.testing.assert_array_equal(target.read_instances(Window.whole(SHAPE)), numbers)
    assert target.kind == "shapes"


def test_a_single_feature_and_a_bare_geometry(tmp_path: Path) -> None:
    area = blobs(1)[0]
    for found in (annotation(area, None), mapping(area)):
        path = tmp_path / "one.geojson"
        path.write_text(json.dumps(found))
        target = opened(str(path))
        assert [info.name for info in target.classes] == ["background", "foreground"]
        check(target, expected_of([area], [1]))


def test_collections_and_several_polygons_are_one_feature(tmp_path: Path) -> None:
    box, other, third = shapely.box(3, 4, 9, 11), shapely.box(20, 20, 30, 33), shapely.box(60, 50, 80, 70)
    features = [
        annotation(shapely.MultiPolygon([box, other]), "a"),
        annotation(shapely.GeometryCollection([third, shapely.GeometryCollection([shapely.box(90, 1, 99, 2)])]), "b"),
    ]
    target = opened(save(tmp_path / "c.json", features))
    check(target, expected_of([box, other, third, shapely.box(90, 1, 99, 2)], [1, 1, 2, 2]))
    assert set(np.unique(target.read_instances(Window.whole(SHAPE)))) == {0, 1, 2}


def test_starred_classes_are_ignored_and_no_objects(tmp_path: Path) -> None:
    tumor, ignored = shapely.box(2, 2, 50, 50), shapely.box(30, 30, 60, 60)
    target = opened(save(tmp_path / "i.geojson", [annotation(tumor, "Tumor"), annotation(ignored, "Ignore*")]))
    check(target, expected_of([tumor, ignored], [1, 255]))
    assert [info.name for info in target.classes] == ["background", "Tumor"]
    assert target.read_instances(Window((40, 40), (1, 1))) == 0
    assert "1 features are to be ignored" in target.notes


def test_cells_are_drawn_by_their_outline(tmp_path: Path) -> None:
    cell, nucleus, lone = shapely.box(10, 10, 40, 40), shapely.box(20, 20, 30, 30), shapely.box(60, 60, 66, 66)
    features = [annotation(cell, "x", nucleusGeometry=mapping(nucleus)), annotation(cell, "x")]
    features[1] |= {"geometry": None, "nucleusGeometry": mapping(lone)}
    target = opened(save(tmp_path / "cells.geojson", features))
    check(target, expected_of([cell, lone], [1, 1]))
    assert target.notes == ("1 cells have a nucleus too; their outer outline is what counts",)


def test_lon_lat_is_the_default_over_an_image_with_a_crs(tmp_path: Path) -> None:
    areas = blobs(15)
    degrees = [
        transform_geom("EPSG:32616", "EPSG:4326", mapping(in_utm(area.segmentize(1))), precision=12) for area in areas
    ]
    target = opened(
        save(tmp_path / "gis.geojson", [feature(shape(found), "b") for found in degrees]), geo_image(32616, UTM)
    )
    assert "coordinates taken as longitude and latitude, as GeoJSON has them where it names no CRS" in target.notes
    check(target, expected_of(areas, [1] * 15))


def test_long_edges_are_bent_by_the_projection(tmp_path: Path) -> None:
    """A straight edge in degrees is a curve in UTM: 60 km away from its ends it is many pixels off the chord."""
    big = (1000.0, 0.0, 200000.0, 0.0, -1000.0, 6100000.0)
    south = 54.6
    box = shapely.box(-1.5, south, 7.5, 60)
    target = opened(save(tmp_path / "big.geojson", [feature(box)]), geo_image(32631, big, (120, 600)))
    inside = target.read(Window((0, 0), (120, 600))) > 0
    to_crs = Affine(*big)
    columns = np.arange(20, 520, 50)
    for column in columns:
        edge = np.flatnonzero(inside[:, column])[-1] + 1
        x, y = to_crs * (column + 0.5, edge)
        (_, latitude) = transform_geom("EPSG:32631", "EPSG:4326", {"type": "Point", "coordinates": (x, y)})[
            "coordinates"
        ]
        assert latitude == pytest.approx(south, abs=0.0055)  # half a pixel


def test_shapes_far_larger_than_the_image_are_cut_before_they_are_reprojected(tmp_path: Path) -> None:
    """Most of the world has no place in a zone of UTM."""
    world = shapely.box(-180, -90, 180, 90)
    small = shape(transform_geom("EPSG:32616", "EPSG:4326", mapping(in_utm(shapely.box(10, 10, 30, 30)))))
    path = save(tmp_path / "world.geojson", [feature(world, "land"), feature(small, "hut")])
    target = opened(path, geo_image(32616, UTM))
    check(target, expected_of([shapely.box(0, 0, 120, 90), shapely.box(10, 10, 30, 30)], [2, 1]))
    assert "1 features cut by the image's border" in target.notes


@pytest.mark.parametrize("name", ["urn:ogc:def:crs:EPSG::32616", "EPSG:32616", "urn:ogc:def:crs:OGC:1.3:CRS84"])
def test_the_crs_member_of_geojson_2008_is_honoured(tmp_path: Path, name: str) -> None:
    areas = blobs(9)
    placed = [mapping(in_utm(area.segmentize(1))) for area in areas]
    if "CRS84" in name:
        placed = [transform_geom("EPSG:32616", "EPSG:4326", found, precision=12) for found in placed]
    crs = {"type": "name", "properties": {"name": name}}
    path = save(tmp_path / "crs.geojson", [annotation(shape(found), "x") for found in placed], crs=crs)
    check(opened(path, geo_image(32616, UTM)), expected_of(areas, [1] * 9))


def test_qupath_over_a_georeferenced_image_is_in_pixels(tmp_path: Path) -> None:
    areas = blobs(4)
    path = save(tmp_path / "q.geojson", [annotation(area, "x") for area in areas])
    check(opened(path, geo_image(32616, UTM)), expected_of(areas, [1] * 4))


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    box = shapely.box(1, 2, 3, 4)
    named = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    utm = geo_image(32616, UTM)
    line, far = shapely.LineString([(1, 1), (50, 50)]), shapely.box(500, 500, 600, 600)
    wrong = {"type": "name", "properties": {"name": "/etc/hosts"}}
    cases: list[tuple[str, Any, str]] = [
        (save(tmp_path / "1.json", [feature(in_utm(box))], crs=named), image_of(), r"EPSG::32616, but .* has no CRS"),
        (save(tmp_path / "2.json", [feature(in_utm(box))]), utm, r"no latitudes.*'crs'"),
        (save(tmp_path / "3.json", [feature(box)]), utm, r"x -?[\d.e+]+ to .*the image at x 733601 to 733661.*32616"),
        (save(tmp_path / "4.json", [annotation(far, "x")]), utm, r"x 500 to 600.*\(pixels\)"),
        (save(tmp_path / "5.json", [feature(box)], crs={"type": "link"}), utm, "names no CRS"),
        (save(tmp_path / "6.json", [feature(box)], crs=wrong), utm, "cannot be understood"),
        (save(tmp_path / "7.json", [feature(line)]), image_of(), r"--buffer.*in px"),
    ]
    for path, image, message in cases:
        with pytest.raises(SourceError, match=message) as caught:
            opened(path, image)
        assert "\n" not in str(caught.value)
        assert Path(path).name in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "as JSON"),
        ('{"a": NaN}', "as JSON"),
        ("[" * 100_000, "as JSON"),
        ('{"type": "Topology"}', "no GeoJSON"),
        ("[1]", "feature 1"),
        ('[{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[1, 2]]}}]', "feature 1.*Polygon"),
        ('[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1e999, 2]}}]', "feature 1.*finite"),
        ('[{"type": "Feature", "geometry": {"type": "Moebius"}}]', "feature 1"),
        ('[{"type": "Feature", "geometry": {"type": ["Point"], "coordinates": [1, 2]}}]', "feature 1"),
        ('[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1%s, 2]}}]' % ("0" * 400), "feature 1"),
    ],
)
def test_broken_files_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    with pytest.raises(SourceError, match=message) as caught:
        opened(str(path))
    assert "bad.geojson" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_large_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = save(tmp_path / "large.geojson", [annotation(shapely.box(1, 1, 2, 2), "x")])
    with pytest.raises(SourceError, match="max_shapes_bytes = 100"):
        opened(path, opening=Opening(limits=Limits(max_shapes_bytes=100)))


def test_lines_and_points_are_widened_in_the_unit_of_the_spacing(tmp_path: Path) -> None:
    line, point = shapely.LineString([(10, 20), (100, 20)]), shapely.Point(60, 60)
    path = save(tmp_path / "lines.geojson", [annotation(line, "road"), annotation(point, "well")])
    target = opened(path, buffer=5.0)
    check(target, expected_of([line.buffer(5), point.buffer(5)], [1, 2]))
    spacing = Spacing(values={"y": 0.5, "x": 0.25}, unit="micrometer", origin="file")
    ids = whole(opened(path, image_of(spacing=spacing), buffer=5.0))
    assert np.flatnonzero((ids == 1)[:, 50]).tolist() == list(range(10, 30))  # 5 um = 10 px in y
    assert np.flatnonzero((ids == 2)[60]).tolist() == list(range(40, 80))  # = 20 px in x


def test_pixels_of_the_source_lie_right_on_a_resampled_image(tmp_path: Path) -> None:
    areas = blobs(6)
    path = save(tmp_path / "r.geojson", [annotation(area, "x") for area in areas])
    halved = opened(path, image_of((45, 30), details={"resampled": {"step": [2.0, 4.0]}}))
    expected = np.any([covered(shapely.transform(area, lambda at: at / [4, 2]), (45, 30)) for area in areas], axis=0)
    np.testing.assert_array_equal(whole(halved, (45, 30)) > 0, expected)
    with pytest.raises(SourceError, match="is resampled"):
        opened(path, image_of((45, 30), details={"resampled": {}}))


def test_notes_name_what_is_outside_cut_crossed_mended_and_empty(tmp_path: Path) -> None:
    bow_tie = shapely.Polygon([(40, 40), (60, 60), (60, 40), (40, 60)])
    features = [
        annotation(shapely.box(-10, -10, 20, 20), "a"),
        annotation(shapely.box(10, 10, 30, 30), "b"),
        annotation(shapely.box(500, 500, 510, 510), "a"),
        annotation(bow_tie, "a"),
        annotation(bow_tie, "a") | {"geometry": None},
    ]
    target = opened(save(tmp_path / "n.geojson", features))
    assert target.notes == (
        "1 features without a geometry",
        "1 invalid geometries (edges that cross), mended",
        "1 features outside the image",
        "1 features cut by the image's border",
        "shapes of different classes overlap, the later one in the file wins: a and b by 100 px (1 pairs)",
    )
    lobes = [shapely.Polygon([(40, 40), (50, 50), (40, 60)]), shapely.Polygon([(60, 60), (60, 40), (50, 50)])]
    ids = whole(target)
    for lobe in lobes:
        assert (ids[covered(lobe.buffer(-0.01))] == 1).all()


def test_a_file_without_features_is_an_empty_target(tmp_path: Path) -> None:
    target = opened(save(tmp_path / "none.geojson", []))
    check(target, np.zeros(SHAPE, np.uint8))
    assert [info.name for info in target.classes] == ["background"]
    assert target.notes == ("the file has no features: nothing in this image is an object",)


def test_real_buildings_equal_rasterio(data_dir: Path) -> None:
    """The chip's own `sample_fp_mask.tif` is of other buildings; these polygons lie on those in the picture."""
    folder = data_dir / "geotiff/spacenet_atlanta_buildings"
    with open_source(str(folder / "sample_geotiff.tif")) as source:
        image = source.info
    target = opened(str(folder / "geotiff_labels.geojson"), image)
    found = json.loads((folder / "geotiff_labels.geojson").read_text())["features"]
    assert image.georef is not None
    pairs = [(one["geometry"], number) for number, one in enumerate(found, 1)]
    expected = rasterio.features.rasterize(pairs, out_shape=(900, 900), transform=Affine(*image.georef.transform))
    np.testing.assert_array_equal(target.read_instances(Window.whole((900, 900))), expected)
    np.testing.assert_array_equal(whole(target, (900, 900)), expected > 0)
    assert int((expected > 0).sum()) == 33818


def test_a_real_shapefile_equals_its_burnt_raster(data_dir: Path) -> None:
    folder = data_dir / "geotiff/landsat7_labelled"
    with open_source(str(folder / "LE70220491999322EDC01_stack.gtif")) as source:
        image = source.info
    target = opened(str(folder / "training_data.shp"), image)
    ids = whole(target, (250, 250))
    names = np.array([info.name for info in target.classes])[ids]
    with rasterio.open(folder / "training_data.gtif") as burnt:
        told = np.array(["background", "forest", "water", "herbaceous", "barren", "urban"])[burnt.read(1)]
    np.testing.assert_array_equal(names != "background", told != "background")
    # Two of the 30 polygons were given another class after the raster was made.
    same = ~np.isin(target.read_instances(Window.whole((250, 250))), (7, 9))
    np.testing.assert_array_equal(names[same], told[same])
    assert {(a, b) for a, b in zip(names[~same], told[~same], strict=True)} == {
        ("barren", "urban"),
        ("urban", "barren"),
    }
