"""Thresholds, tolerances and regions: masks that were saved as pictures."""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segcore.classes import ClassInfo
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import open_source
from segcore.targets import ClassTable, Target, TargetOpening, load_classes
from segcore.targets.target import open_target
from tests.targets.volumes import source_info, whole

YX = ("c", "y", "x")
SHAPE = (60, 80)
COLORS = {0: (226, 169, 41), 1: (132, 41, 246), 2: (60, 16, 152), 255: (155, 155, 155)}


def opened(path: Path, **how: Any) -> Target:
    return open_target([str(path)], source_info((1, *SHAPE), YX), TargetOpening(**how))


def blocks(rng: np.random.Generator, values: Any) -> Any:
    found = rng.choice(np.asarray(values), size=(6, 8))
    found.ravel()[: len(values)] = values
    return np.kron(found, np.ones((10, 10), int))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_above_the_threshold_is_class_1(tmp_path: Path, rng: np.random.Generator, dtype: str) -> None:
    values = rng.integers(0, 256, SHAPE).astype(dtype)
    if dtype == "int16":
        values -= 128
    tifffile.imwrite(tmp_path / "m.tif", values)
    target = opened(tmp_path / "m.tif", threshold=50)
    assert (target.kind, [info.name for info in target.classes]) == ("binary", ["background", "foreground"])
    np.testing.assert_array_equal(whole(target, SHAPE), values > 50)


def test_objects_have_a_threshold_too(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path, found in zip(paths, grey, strict=True):
        Image.fromarray(found).save(path)
    with closing(open_target(paths, source_info((1, *SHAPE), YX), TargetOpening(threshold=200))) as target:
        expected = np.where(grey[0] > 200, 1, np.where(grey[1] > 200, 2, 0))
        np.testing.assert_array_equal(target.read_instances(Window.whole(SHAPE)), expected)


def test_missing_values_are_ignored_under_a_threshold(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.random(SHAPE, dtype=np.float32)
    values[:5] = np.nan
    tifffile.imwrite(tmp_path / "m.tif", values)
    expected = np.where(np.isnan(values), 255, values > 0.5)
    np.testing.assert_array_equal(whole(opened(tmp_path / "m.tif", threshold=0.5), SHAPE), expected)


def test_a_threshold_is_for_greys_of_any_encoding(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, SHAPE, dtype=np.uint8)
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "rgb.png")
    Image.fromarray(grey).save(tmp_path / "grey.gif")
    picture = Image.fromarray(255 - grey)
    picture = picture.convert("P")
    picture.putpalette(np.repeat(np.arange(255, -1, -1, dtype=np.uint8), 3).tolist())
    picture.save(tmp_path / "palette.png")
    tifffile.imwrite(tmp_path / "white.tif", 255 - grey, photometric="miniswhite")
    for name in ("rgb.png", "grey.gif", "palette.png", "white.tif"):
        np.testing.assert_array_equal(whole(opened(tmp_path / name, threshold=127), SHAPE), grey > 127, err_msg=name)
    Image.fromarray(rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(SourceError, match="a threshold is for grey values, this mask has colours"):
        whole(opened(tmp_path / "photo.png", threshold=127), SHAPE)


def test_the_table_of_a_threshold_has_both_classes(tmp_path: Path) -> None:
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "m.png")
    table = ClassTable(
        classes=(ClassInfo(id=0, name="sound", color=(0, 0, 0)), ClassInfo(id=1, name="crack", color=(9, 9, 9)))
    )
    with closing(opened(tmp_path / "m.png", threshold=127, table=table)) as target:
        assert target.classes[1].name == "crack"
    numbered_from_7 = ClassTable(classes=(ClassInfo(id=7, name="crack", color=(0, 0, 0)),))
    with pytest.raises(SourceError, match="gives the classes 0 and 1"):
        opened(tmp_path / "m.png", threshold=127, table=numbered_from_7)


def colored(rng: np.random.Generator, noise: int) -> tuple[Any, Any, ClassTable]:
    """Ids, their colours with noise, and the table."""
    ids = blocks(rng, list(COLORS))
    rgb = np.zeros((*SHAPE, 3), int)
    for number, color in COLORS.items():
        rgb[ids == number] = color
    rgb = np.clip(rgb + rng.integers(-noise, noise + 1, rgb.shape), 0, 255).astype(np.uint8)
    classes = tuple(ClassInfo(id=i, name=f"n{i}", color=COLORS[i]) for i in (0, 1, 2))
    return ids, rgb, ClassTable(classes=classes, colors=tuple((color, i) for i, color in COLORS.items()))


def test_colours_within_the_tolerance_are_their_class(tmp_path: Path, rng: np.random.Generator) -> None:
    ids, rgb, table = colored(rng, 8)
    Image.fromarray(rgb).save(tmp_path / "m.png")
    target = opened(tmp_path / "m.png", table=table, tolerance=8)
    assert target.kind == "rgb"
    np.testing.assert_array_equal(whole(target, SHAPE), ids)
    rgb[3, 5:9] = (0, 255, 0)
    Image.fromarray(rgb).save(tmp_path / "m.png")
    with pytest.raises(SourceError, match=r"does not name: #00FF00: 4 px; add them"):
        opened(tmp_path / "m.png", table=table, tolerance=8)
    with pytest.raises(SourceError, match="does not name"):
        opened(tmp_path / "m.png", table=table, tolerance=7)


def test_a_jpeg_of_colours(tmp_path: Path, rng: np.random.Generator) -> None:
    ids, rgb, table = colored(rng, 0)
    Image.fromarray(rgb).save(tmp_path / "m.jpg", quality=95, subsampling=0)
    found = whole(opened(tmp_path / "m.jpg", table=table, tolerance=45), SHAPE)
    assert (found == ids).mean() > 0.999


def test_grey_levels_and_palettes_have_a_tolerance_too(tmp_path: Path, rng: np.random.Generator) -> None:
    ids = blocks(rng, [0, 1, 2])
    classes = tuple(ClassInfo(id=i, name=f"n{i}", color=(i * 100,) * 3) for i in range(3))
    table = ClassTable(classes=classes, colors=tuple((info.color, info.id) for info in classes))
    noisy = np.clip(ids * 100 + rng.integers(-6, 7, SHAPE), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "m.png")
    np.testing.assert_array_equal(whole(opened(tmp_path / "m.png", table=table, tolerance=6), SHAPE), ids)


def test_many_ids_are_taken_where_they_form_regions(tmp_path: Path, rng: np.random.Generator) -> None:
    ids = blocks(rng, [0, 3, 50, 117, 99])
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "m.png")
    target = opened(tmp_path / "m.png")
    assert (target.kind, len(target.classes)) == ("index", 118)
    np.testing.assert_array_equal(whole(target, SHAPE), ids)


def test_a_mask_with_noise_at_its_edges_is_told_the_threshold(tmp_path: Path, rng: np.random.Generator) -> None:
    white = blocks(rng, [0, 1]).astype(np.uint8) * 255
    Image.fromarray(white).save(tmp_path / "m.jpg", quality=60)
    with pytest.raises(SourceError, match=r"do not look like class ids; .* \(--threshold 127\)"):
        opened(tmp_path / "m.jpg")
    np.testing.assert_array_equal(whole(opened(tmp_path / "m.jpg", threshold=127), SHAPE), white > 0)


@pytest.mark.parametrize("border", [True, False])
def test_palette_masks_of_pascal_voc(tmp_path: Path, rng: np.random.Generator, border: bool) -> None:
    table = load_classes("pascal-voc")
    ids = blocks(rng, [0, 1, 15, 20, *([255] if border else [])])
    picture = Image.new("P", SHAPE[::-1])
    picture.putdata(ids.ravel().tolist())
    colors = {number: color for color, number in table.colors}
    picture.putpalette(np.array([colors.get(i, (0, 0, 0)) for i in range(256)], np.uint8).ravel().tolist())
    picture.save(tmp_path / "m.png")
    named = opened(tmp_path / "m.png", table=table)
    assert (named.kind, named.classes[15].name) == ("rgb", "person")
    np.testing.assert_array_equal(whole(named, SHAPE), ids)
    unnamed = opened(tmp_path / "m.png")
    assert (unnamed.kind, len(unnamed.classes), unnamed.classes[15].color) == ("index", 21, (192, 128, 128))
    np.testing.assert_array_equal(whole(unnamed, SHAPE), ids)


def test_real_magnetic_tiles(data_dir: Path) -> None:
    refused = 0
    for path in sorted((data_dir / "magnetic_tile").glob("MT_*/*.png")):
        with open_source(str(path.with_suffix(".jpg"))) as source:
            image = source.info
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert("L"))
        target = open_target([str(path)], image, TargetOpening(threshold=127))
        np.testing.assert_array_equal(whole(target, grey.shape), grey > 127)
        if set(np.unique(grey)) <= {0, 255}:
            continue
        refused += 1
        with pytest.raises(SourceError, match="--threshold"):
            open_target([str(path)], image, TargetOpening())
    assert refused > 20


def test_sparse_labels_of_a_real_scene(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "geotiff/landsat7_labelled"
    (tmp_path / "t.csv").write_text(
        "value,name,ignore\n0,unlabelled,true\n1,forest,\n2,water,\n3,herbaceous,\n4,barren,\n5,urban,\n"
    )
    with open_source(str(next(folder.glob("LE7*.gtif")))) as source:
        how = TargetOpening(table=load_classes(str(tmp_path / "t.csv")))
        target = open_target([str(folder / "training_data.gtif")], source.info, how)
    labels = tifffile.imread(folder / "training_data.gtif")
    found = whole(target, labels.shape)
    assert (labels == 0).mean() > 0.98
    np.testing.assert_array_equal(found, np.where(labels == 0, 255, labels - 1))
    assert [info.id for info in target.classes] == [0, 1, 2, 3, 4], "so that train takes them"


def test_real_frames_of_camvid(data_dir: Path) -> None:
    path = sorted((data_dir / "camvid/trainannot").glob("*.png"))[0]
    with Image.open(path) as picture:
        ids = np.asarray(picture)
    image = source_info((3, *ids.shape), YX)
    target = open_target([str(path)], image, TargetOpening(table=load_classes("camvid")))
    assert (ids == 11).any()
    np.testing.assert_array_equal(whole(target, ids.shape), np.where(ids == 11, 255, ids))
