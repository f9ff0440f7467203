"""Search: tiles that are looked at have the very mask of a run without it; the others are neither read nor inferred."""

import itertools
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.warp
import shapely
import tifffile
from skimage.data import immunohistochemistry

from segcore.classes import default_classes
from segcore.config import IngestConfig, PredictConfig
from segcore.geometry import Window
from segcore.inference import coarse, predict, search
from segcore.inference.coarse import CoarseMap, map_of_label, map_of_usable
from segcore.inference.model_grid import ModelGrid
from segcore.ingest import ingest
from segcore.models.package import ModelPackage
from segcore.results import StageResult
from segcore.spatial import Georef, Spacing
from segcore.store import Image, PyramidSpec, Staging, Workspace, verify
from tests.inference.scenes import conv_package, every_level, mask_of, scene, unet_package, volume_package
from tests.inference.test_stage import interrupt_soon
from tests.synthetic import put_image, put_label, put_objects

HEIGHT, WIDTH, TILE_PX = 500, 430, 64
Bools = npt.NDArray[np.bool_]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "a", scene(HEIGHT, WIDTH))
    return ws


@pytest.fixture
def package(ws: Workspace) -> ModelPackage:
    return unet_package(ws, num_classes=2, tile_px=TILE_PX, halo_px=16)


def run(ws: Workspace, package: ModelPackage, name: str, **settings: Any) -> StageResult:
    how = {"precision": "float32", "shard_px": 256, "tile_workers": 2, "images": ("a",), **settings}
    return predict(PredictConfig(workspace=ws.uri, model=package.model_id, name=name, **how))


def masked(ws: Workspace, package: ModelPackage, name: str, **settings: Any) -> npt.NDArray[Any]:
    (item,) = run(ws, package, name, **settings).items
    assert (item.state, item.error) == ("done", None)
    return mask_of(ws, "a", name)


def marks() -> npt.NDArray[np.uint8]:
    """A strand one pixel wide, a blob, and lone pixels at a tile's corner and at the image's."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    places = np.arange(60, 260)
    found[places, places // 2 + 9] = 1
    found[330:360, 300:350] = 1
    found[0, WIDTH - 1] = found[6 * TILE_PX, 2 * TILE_PX] = 1
    return found


def grown(marked: Bools, margin: int) -> Bools:
    """By brute force: any marked pixel within a square around each."""
    wide = np.pad(marked, margin)
    return np.lib.stride_tricks.sliding_window_view(wide, (2 * margin + 1,) * 2).any(axis=(2, 3))


def tiles_touching(marked: Bools, core: int) -> Bools:
    """The pixels of all tiles that touch a marked pixel."""
    found = np.zeros_like(marked)
    for y in range(0, marked.shape[0], core):
        for x in range(0, marked.shape[1], core):
            found[y : y + core, x : x + core] = marked[y : y + core, x : x + core].any()
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """What is read of level 0 of images."""
    found: list[Window] = []
    read = Image.read

    def recorded(image: Image, window: Window, level: int = 0) -> npt.NDArray[Any]:
        if level == 0:
            found.append(window)
        return read(image, window, level)

    monkeypatch.setattr(Image, "read", recorded)
    return found


@pytest.mark.parametrize(
    ("blend", "tile_px", "core"), [("crop", TILE_PX, TILE_PX), ("gaussian", 96, 96 - 2 * 12)], ids=["crop", "gaussian"]
)
def test_tiles_that_are_looked_at_are_as_without_skipping(
    ws: Workspace, package: ModelPackage, blend: str, tile_px: int, core: int
) -> None:
    put_label(ws, "a", "tissue", marks())
    looked_at = tiles_touching(marks() == 1, core)
    assert 0.1 < looked_at.mean() < 0.6
    plain = masked(ws, package, "plain", blend=blend, tile_px=tile_px)
    assert np.bincount(plain[looked_at]).min() > 1000
    assert (plain[~looked_at] != 0).any()
    for shard_px in (256, 512):
        mask = masked(ws, package, f"{shard_px}", blend=blend, tile_px=tile_px, foreground="tissue", shard_px=shard_px)
        np.testing.assert_array_equal(mask, np.where(looked_at, plain, 0))


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_an_interrupted_run_gives_the_same_mask(
    ws: Workspace, package: ModelPackage, blend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_label(ws, "a", "tissue", marks())
    how = {"blend": blend, "foreground": "tissue", "layers": ("probs",)}
    masked(ws, package, "once", **how)
    interrupt_soon(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(ws, package, "twice", **how)
    monkeypatch.undo()
    masked(ws, package, "twice", **how)
    for one, two in zip(every_level(ws, "a", "once"), every_level(ws, "a", "twice"), strict=True):
        np.testing.assert_array_equal(one, two)
    one, two = (ws.layer("a", name, "probs").read(Window.whole((2, HEIGHT, WIDTH))) for name in ("once", "twice"))
    np.testing.assert_array_equal(one, two)
    assert verify(ws) == []


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_nothing_is_read_where_nothing_is_looked_at(
    ws: Workspace, package: ModelPackage, blend: str, reads: list[Window]
) -> None:
    nowhere = np.zeros((HEIGHT, WIDTH), np.uint8)
    put_label(ws, "a", "tissue", nowhere)
    (item,) = run(ws, package, "empty", blend=blend, foreground="tissue").items
    assert (reads, item.details["skipped_share"], item.details["skipped_by"]) == ([], 1.0, {"foreground": 1.0})
    assert not mask_of(ws, "a", "empty").any()
    nowhere[:50, :50] = 1
    put_label(ws, "a", "corner", nowhere)
    (item,) = run(ws, package, "m", blend=blend, foreground="corner").items
    assert item.error is None
    assert reads
    assert all(max(window.stop[1:]) <= 3 * TILE_PX for window in reads)
    assert 0.8 < item.details["skipped_share"] < 1


def test_what_is_skipped_becomes_background_or_what_the_user_says(ws: Workspace, package: ModelPackage) -> None:
    valid = np.ones((HEIGHT, WIDTH), np.uint8)
    valid[:40] = valid[:, -35:] = 0
    put_image(ws, "a", scene(HEIGHT, WIDTH), has_valid=True)
    put_label(ws, "a", "valid", valid)
    put_label(ws, "a", "tissue", marks())
    looked_at = tiles_touching(marks() == 1, TILE_PX)
    plain = masked(ws, package, "plain")
    assert ((plain == 255) == (valid == 0)).all()
    for said, index in {"auto": 0, "foreground": 1, "ignore": 255}.items():
        mask = masked(ws, package, f"c-{said}", foreground="tissue", skipped_as=said)
        np.testing.assert_array_equal(mask, np.where(looked_at | (valid == 0), plain, index))
        again = masked(ws, package, f"g-{said}", foreground="tissue", skipped_as=said, blend="gaussian")
        assert (again[valid == 0] == 255).all()
        assert (again[440:, 60:110] == index).all()  # no tissue near
    (item,) = run(ws, package, "wrong", foreground="tissue", skipped_as="glass").items
    assert "skipped_as: expected auto, ignore or a class of the model (background, foreground), got glass" in str(
        item.error
    )


def test_a_model_without_background_leaves_ignore(ws: Workspace) -> None:
    put_label(ws, "a", "tissue", marks())
    package = unet_package(ws, num_classes=3, tile_px=TILE_PX)
    mask = masked(ws, package, "m", foreground="tissue")
    looked_at = tiles_touching(marks() == 1, TILE_PX)
    assert ((mask == 255) == ~looked_at).all()


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_nodata_is_not_read(
    ws: Workspace, package: ModelPackage, blend: str, monkeypatch: pytest.MonkeyPatch, reads: list[Window]
) -> None:
    pixels = np.zeros((3, 600, 560), np.uint8)
    pixels[:, :200, :150] = np.maximum(scene(200, 150), 1)
    pixels[:, 200:250, 101] = 1  # a dim strand
    put_image(ws, "a", pixels, nodata=0.0)
    mask = masked(ws, package, "m", blend=blend)
    found = [window for window in reads if min(window.start[1:]) >= 0]
    assert found
    assert max(window.stop[1] for window in found) <= 4 * TILE_PX + TILE_PX + 32
    monkeypatch.setattr(search, "map_of_usable", lambda image: None)
    np.testing.assert_array_equal(masked(ws, package, "plain", blend=blend), mask)
    assert ((mask == 255) == (pixels == 0).all(axis=0)).all()


def put_marks(ws: Workspace, name: str, ids: npt.NDArray[Any], axes: tuple[str, ...], **levels: int) -> None:
    own = {"axes": axes, "shape": ids.shape, "dtype": "uint8", "kind": "mask", "shard_px": 256}
    spec = PyramidSpec.model_validate({**own, **levels})
    with Staging.begin(ws, "a", name, {}, spec) as staging:
        staging.put_all(ids)
        staging.finish({}, default_classes(2))


@pytest.mark.parametrize("planes", [None, 3])
def test_maps_lose_nothing_however_thin(ws: Workspace, planes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "MAX_MAP_PX", 3000)
    monkeypatch.setattr(coarse, "PIECE_PX", 128)
    shape = (700, 1100) if planes is None else (planes, 700, 1100)
    marked = np.zeros(shape, np.uint8)
    at = np.arange(10, 690)
    marked[(..., at, at * 3 // 2)] = 1
    marked[..., 699, 0] = 1
    if planes:
        marked[1] = 0
    axes = ("c", "y", "x") if planes is None else ("c", "z", "y", "x")
    put_image(ws, "a", marked[None], nodata=0.0, axes=axes)
    put_marks(ws, "strand", marked, axes[1:])
    image = ws.image("a")
    usable = map_of_usable(image)
    assert usable is not None
    of_label = map_of_label(ws.label("a", "strand"), image, lambda ids: ids == 1)
    for found in (usable, of_label):
        assert found.marked.size <= 3000
        assert found.factor >= 16
        for y, x in [(y, x) for y in range(0, 700, 37) for x in range(0, 1100, 41)]:
            window = Window((y, x), (min(37, 700 - y), min(41, 1100 - x)))
            for plane in range(planes or 1):
                inside = marked[window.slices] if planes is None else marked[(plane, *window.slices)]
                asked = window if planes is None else Window((plane, *window.start), (1, *window.shape))
                assert found.touches(asked) or not inside.any()
        squares = np.add.reduceat(marked.astype(int), range(0, 700, found.factor), axis=-2)
        squares = np.add.reduceat(squares, range(0, 1100, found.factor), axis=-1)
        np.testing.assert_array_equal(found.marked, squares > 0)


@pytest.mark.parametrize("level", [0, 1, 4])
def test_a_coarser_level_is_searched_by_the_same_maps(level: int) -> None:
    marked = np.random.default_rng(0).random((2, 30, 41)) < 0.03
    grid = ModelGrid(cast("Image", None), level)  # as it is read, no pixel of it is asked for
    found = search.Search(grid, (("screen", CoarseMap(marked, 4)),))
    fine = marked.repeat(4, axis=1).repeat(4, axis=2)
    for z, y, x in itertools.product(range(2), range(0, 120 >> level, 5), range(0, 164 >> level, 3)):
        inside = fine[z, y << level : (y + 5) << level, x << level : (x + 3) << level]
        assert (found.why_not(Window((z, y, x), (1, 5, 3))) is None) == _in_squares(fine[z], inside, y, x, level)


@pytest.mark.parametrize("size", [1.0, 1.06])
@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_what_is_looked_at_on_another_level_is_as_without_skipping(ws: Workspace, size: float, blend: str) -> None:
    """The model's pixels are those of level 1, or near them and resampled."""
    own, wanted = (Spacing(values={"y": um, "x": um}, unit="micrometer", origin="x") for um in (0.5, size))
    put_image(ws, "a", scene(1100, 900), spacing=own)
    package = unet_package(ws, num_classes=2, tile_px=32, halo_px=16, spacing=wanted)
    corner = np.zeros((1100, 900), np.uint8)
    corner[700:, 500:] = 1
    put_label(ws, "a", "tissue", corner)
    plain = masked(ws, package, "plain", blend=blend)
    (item,) = run(ws, package, "some", blend=blend, foreground="tissue", skipped_as="ignore").items
    assert item.error is None
    assert item.details["skipped_share"] > 0.3
    mask = mask_of(ws, "a", "some")
    assert mask.shape == (550, 450)
    assert (mask[350:, 250:] != 255).all()
    np.testing.assert_array_equal(mask[mask != 255], plain[mask != 255])


def _in_squares(plane: Bools, inside: Bools, y: int, x: int, level: int) -> bool:
    """True if a pixel is marked in the squares of 4 px that a window of a level touches."""
    top, left = (y << level) // 4 * 4, (x << level) // 4 * 4
    bottom, right = -(-((y + 5) << level) // 4) * 4, -(-((x + 3) << level) // 4) * 4
    touched = bool(plane[top:bottom, left:right].any())
    assert touched or not inside.any()
    return touched


def test_a_map_grows_by_squares() -> None:
    marked = np.random.default_rng(0).random((30, 41)) < 0.01
    for margin in (0, 1, 3, 50):
        np.testing.assert_array_equal(CoarseMap(marked, 4).grown(margin).marked, grown(marked, margin))


def test_no_map_of_nodata_where_a_coarser_level_does_not_tell(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert map_of_usable(ws.image("a")) is None  # no nodata, and one level
    put_image(ws, "a", scene(600, 600), nodata=0.0, has_valid=True)
    assert map_of_usable(ws.image("a")) is None
    put_image(ws, "a", scene(601, 600), nodata=0.0)
    assert map_of_usable(ws.image("a")) is not None
    monkeypatch.setattr(Image, "is_linked", True)  # its coarser levels are the source's
    assert map_of_usable(ws.image("a")) is None


def test_labels_of_a_coarser_level_count_their_own_pixels(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    put_image(ws, "a", scene(701, 533))
    marked = np.zeros((351, 267), np.uint8)
    marked[100, 200], marked[350, 3] = 2, 1
    put_marks(ws, "m.screen", marked, ("y", "x"), base_level=1, num_levels=2)
    label, image = ws.label("a", "m.screen"), ws.image("a")
    found = search._map_of_screen(label, image, [2], margin_px=3)
    assert found.factor == 2
    np.testing.assert_array_equal(found.marked, grown(marked == 2, 3))
    monkeypatch.setattr(coarse, "MAX_MAP_PX", 10_000)
    found = search._map_of_screen(label, image, [2], margin_px=3)
    assert found.factor == 8
    np.testing.assert_array_equal(np.argwhere(found.marked).min(axis=0), [100 // 4 - 1, 200 // 4 - 1])
    np.testing.assert_array_equal(np.argwhere(found.marked).max(axis=0), [100 // 4 + 1, 200 // 4 + 1])


def test_every_number_of_an_object_is_a_place_to_look(ws: Workspace) -> None:
    ids = np.array([[0, 1, 65535, 7]], np.uint16)
    put_objects(ws, "a", "cells_instances", ids)
    put_label(ws, "a", "cells", ids)
    for name, expected in (("cells_instances", [False, True, True, True]), ("cells", [False, True, False, True])):
        assert search._marked(ws.label("a", name), ids).tolist() == [expected]


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
@pytest.mark.parametrize("shard_px", [256, 512])
def test_volumes_are_looked_at_where_their_label_says(ws: Workspace, blend: str, shard_px: int) -> None:
    shape = (9, 300, 280)
    rng = np.random.default_rng(1)
    put_image(ws, "a", rng.integers(0, 255, (2, *shape), dtype=np.uint8), axes=("c", "z", "y", "x"))
    marked = np.zeros(shape, np.uint8)
    marked[2, 20:30, 100] = marked[8, 299, 279] = 1
    put_marks(ws, "nodule", marked, ("z", "y", "x"))
    package = volume_package(ws, num_channels=2, kernel_px=5, kernel_planes=3, axes=("z", "y", "x"))
    how = {"blend": blend, "tile_px": 64, "halo": 8, "tile_planes": 4, "halo_planes": 1, "shard_px": shard_px}
    plain, mask = masked(ws, package, "plain", **how), masked(ws, package, "m", foreground="nodule", **how)
    planes, core = (4, 64) if blend == "crop" else (2, 48)
    looked_at = np.zeros(shape, bool)
    for z, y, x in itertools.product(range(0, 9, planes), range(0, 300, core), range(0, 280, core)):
        tile = slice(z, z + planes), slice(y, y + core), slice(x, x + core)
        looked_at[tile] = marked[tile].any()
    np.testing.assert_array_equal(mask, np.where(looked_at, plain, 255))


# A scene and its AOI in other coordinates


def put_scene(ws: Workspace) -> Georef:
    georef = Georef(crs_wkt=None, epsg=32632, transform=(10.0, 0.0, 500000.0, 0.0, -10.0, 5200000.0))
    spacing = Spacing(values={"y": 10.0, "x": 10.0}, unit="meter", origin="file")
    put_image(ws, "a", scene(HEIGHT, WIDTH), spacing=spacing, georef=georef)
    return georef


def save_aoi(path: Path, area: shapely.Polygon, georef: Georef | None = None) -> str:
    """A polygon in pixels, as GeoJSON in longitude and latitude where there is a georef."""
    ring = np.asarray(area.exterior.coords)
    if georef is not None:
        a, _, c, _, e, f = georef.transform
        ring = np.stack(
            rasterio.warp.transform("EPSG:32632", "EPSG:4326", a * ring[:, 0] + c, e * ring[:, 1] + f), axis=1
        )
    geometry = {"type": "Polygon", "coordinates": [ring.tolist()]}
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": geometry}))
    return str(path)


def test_only_tiles_that_touch_the_aoi_are_looked_at(ws: Workspace, package: ModelPackage, tmp_path: Path) -> None:
    georef = put_scene(ws)
    area = shapely.Polygon([(70.5, 100), (200, 140), (180, 310), (90, 250)])
    aoi = save_aoi(tmp_path / "a-aoi.geojson", area, georef)
    plain = masked(ws, package, "plain")
    (item,) = run(ws, package, "m", aoi=str(tmp_path / "{stem}-aoi.geojson")).items
    assert item.error is None
    mask = mask_of(ws, "a", "m")
    touched = np.zeros((HEIGHT, WIDTH), bool)
    near = touched.copy()
    for y in range(0, HEIGHT, TILE_PX):
        for x in range(0, WIDTH, TILE_PX):
            tile = shapely.box(x, y, x + TILE_PX, y + TILE_PX)
            touched[y : y + TILE_PX, x : x + TILE_PX] = tile.intersects(area)
            near[y : y + TILE_PX, x : x + TILE_PX] = tile.distance(area) < 3
    assert (mask[touched] == plain[touched]).all()
    assert (mask[~near] == 255).all()
    assert 0.05 < touched.mean() <= near.mean() < 0.5
    assert set(item.details["skipped_by"]) == {"aoi"}
    assert run(ws, package, "m", aoi=aoi).items[0].state == "skipped"
    save_aoi(tmp_path / "a-aoi.geojson", shapely.box(300, 300, 400, 400), georef)
    assert "plan.search.aoi" in str(run(ws, package, "m", aoi=aoi).items[0].error)


def test_an_aoi_that_does_not_fit_fails_its_image_alone(ws: Workspace, package: ModelPackage, tmp_path: Path) -> None:
    put_image(ws, "b", scene(100, 100))
    aoi = save_aoi(tmp_path / "aoi.geojson", shapely.box(200, 200, 300, 300))
    here, elsewhere = run(ws, package, "m", aoi=aoi, images=("a", "b")).items
    assert here.state == "done"
    assert "no shape touches the image" in str(elsewhere.error)
    tifffile.imwrite(tmp_path / "aoi.tif", np.ones((HEIGHT, WIDTH), np.uint8))
    assert "expected polygons as AOI" in str(run(ws, package, "n", aoi=str(tmp_path / "aoi.tif")).items[0].error)
    lines = shapely.LineString([(10, 10), (90, 80)])
    (tmp_path / "lines.geojson").write_text(shapely.to_geojson(lines))
    where = str(tmp_path / "lines.geojson")
    assert "1 features are lines or points" in str(run(ws, package, "n", aoi=where).items[0].error)
    assert "none.geojson" in str(run(ws, package, "n", aoi=str(tmp_path / "none.geojson")).items[0].error)


# Labels and screens


def test_a_label_that_is_not_there_or_of_another_size_is_named(ws: Workspace, package: ModelPackage) -> None:
    assert "no tissue of image a" in str(run(ws, package, "m", foreground="tissue").items[0].error)
    put_label(ws, "a", "tissue", np.zeros((77, 66), np.uint8))
    assert "(77, 66) px, which no level" in str(run(ws, package, "m", foreground="tissue").items[0].error)


def test_a_mask_does_not_take_the_place_of_the_label_that_it_is_made_by(ws: Workspace, package: ModelPackage) -> None:
    put_label(ws, "a", "tissue", marks())
    (item,) = run(ws, package, "tissue", foreground="tissue").items
    assert "foreground tissue: the mask is to have the same name" in str(item.error)
    assert (mask_of(ws, "a", "tissue") == marks()).all()


def test_a_screen_decides_where_to_look_closely(ws: Workspace, package: ModelPackage) -> None:
    pixels = scene(HEIGHT, WIDTH + 6) // 2
    pixels[:, 150:190, 100:260] += 120
    put_image(ws, "a", pixels)
    weights = np.zeros((2, 3, 1, 1))
    weights[1] = 1
    screen = conv_package(ws, weights, np.array([0.0, -390.0]))
    bright = pixels.sum(axis=0, dtype=int) > 390
    assert 0.001 < bright.mean() < 0.1
    plain = masked(ws, package, "plain")
    result = run(ws, package, "m", screen=screen.model_id, screen_margin_px=3)
    assert result.details["screen"]["model"] == screen.model_id
    assert (mask_of(ws, "a", "m.screen") == bright).all()
    looked_at = tiles_touching(grown(bright, 3), TILE_PX)
    assert 0.05 < looked_at.mean() < 0.5
    np.testing.assert_array_equal(mask_of(ws, "a", "m"), np.where(looked_at, plain, 0))
    assert set(result.items[0].details["skipped_by"]) == {"screen"}
    plan = ws.label("a", "m").attributes["predict"]["search"]
    assert plan["screen"] == {"digest": ws.label("a", "m.screen").digest, "ids": [1], "margin_px": 3}
    assert run(ws, package, "m", screen=screen.model_id, screen_margin_px=3).items[0].state == "skipped"
    other = run(ws, package, "n", screen=screen.model_id, screen_classes=("bright",)).items[0]
    assert "screen_classes: the screen has the classes background, foreground, got 'bright'" in str(other.error)


def test_an_image_that_the_screen_refuses_fails_with_its_reason(ws: Workspace, package: ModelPackage) -> None:
    screen = conv_package(ws, np.ones((2, 5, 1, 1)), np.zeros(2))
    (item,) = run(ws, package, "m", screen=screen.model_id).items
    assert "screen: image a: the model expects the bands" in str(item.error)


# The plan, and what is told before


def test_the_plan_says_what_decided_where_to_look(ws: Workspace, package: ModelPackage) -> None:
    put_label(ws, "a", "tissue", marks())
    masked(ws, package, "plain")
    assert "search" not in ws.label("a", "plain").attributes["predict"]
    assert "plan.search" in str(run(ws, package, "plain", foreground="tissue").items[0].error)
    masked(ws, package, "m", foreground="tissue")
    assert ws.label("a", "m").attributes["predict"]["search"] == {
        "foreground": {"label": "tissue", "plan": 0, "digest": "tissue-0"},
        "skipped_as": 0,
    }
    put_label(ws, "a", "tissue", marks(), version=1)
    assert "plan.search.foreground" in str(run(ws, package, "m", foreground="tissue").items[0].error)


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_a_dry_run_knows_what_will_be_skipped(ws: Workspace, package: ModelPackage, blend: str) -> None:
    put_label(ws, "a", "tissue", marks())
    (told,) = run(ws, package, "m", foreground="tissue", blend=blend, dry_run=True).items
    result = run(ws, package, "m", foreground="tissue", blend=blend, shard_px=512)
    (item,) = result.items
    assert result.details["skipped_share"] == item.details["skipped_share"]
    for key in ("tiles", "skipped_share", "skipped_by"):
        assert told.details[key] == item.details[key]
    assert told.details["skipped_share"] > 0.3


# A slide, as a user has it


def test_a_slide_of_three_quarters_glass(tmp_path: Path) -> None:
    slide = np.full((1024, 1024, 3), 243, np.uint8)
    slide[300:812, 260:772] = immunohistochemistry()
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "s.tif", slide, photometric="rgb", tile=(256, 256), **resolution)
    config = IngestConfig(workspace=str(tmp_path / "w"), sources=(str(tmp_path / "s.tif"),), processes=1)
    assert ingest(config).exit_code == 0
    ws = Workspace.open(str(tmp_path / "w"))
    package = unet_package(ws, num_classes=2, tile_px=64, halo_px=16)
    images = tuple(ws.image_ids())
    (item,) = run(ws, package, "m", images=images).items
    (whole,) = run(ws, package, "whole", images=images, foreground="off").items
    assert 0.6 < item.details["skipped_share"] <= 0.75
    assert whole.details["skipped_share"] == 0
    mask, plain = mask_of(ws, images[0], "m"), mask_of(ws, images[0], "whole")
    label = ws.label(images[0], "foreground")
    factor = 1024 // label.shape()[0]
    tissue = label.read(Window.whole(label.shape())).repeat(factor, axis=0).repeat(factor, axis=1) == 1
    assert np.bincount(plain[tissue]).min() > 1000
    np.testing.assert_array_equal(mask[tissue], plain[tissue])
    assert (mask[~tiles_touching(grown(tissue, factor), 64)] == 0).all()
