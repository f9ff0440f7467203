"""Targets: what masks of every kind mean, with values; and that nothing nobody named passes in silence."""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from segcore.classes import ClassInfo
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import SourceInfo
from segcore.targets import ClassTable, Target, TargetOpening, load_classes, scan
from segcore.targets.target import open_target, open_valid

RNG = np.random.default_rng(11)
SHAPE = (60, 80)
COLORS = {0: (226, 169, 41), 1: (132, 41, 246), 2: (110, 193, 228), 255: (155, 155, 155)}


def table(ids: Any, colors: Any = None, ignored: tuple[int, ...] = ()) -> ClassTable:
    classes = tuple(ClassInfo(id=i, name=f"n{i}", color=(i % 256, 1, 2)) for i in ids)
    return ClassTable(
        classes=classes, colors=tuple((color, i) for i, color in (colors or {}).items()), ignored_values=ignored
    )


COLORED = table((0, 1, 2), COLORS)


def image_of(shape: tuple[int, ...]) -> SourceInfo:
    """A source of this height and width."""
    sides = {"axes": ("c", "y", "x"), "shape": (1, *shape), "dtype": "uint8", "channels": ("grey",)}
    return SourceInfo(uri="source.tif", reader="tiff", reader_version="-", num_bytes=1, **sides)


def opened(uris: list[str], table: ClassTable | None, shape: tuple[int, ...], **options: Any) -> Target:
    return open_target(uris, image_of(shape), TargetOpening(table=table), **options)


def ids_of(values: tuple[int, ...], shape: tuple[int, int] = SHAPE) -> Any:
    """Random blocks of the given values, every one of them there."""
    blocks = RNG.choice(values, size=(-(-shape[0] // 10), -(-shape[1] // 10)))
    blocks.ravel()[: len(values)] = values
    return np.kron(blocks, np.ones((10, 10), int))[: shape[0], : shape[1]].astype(np.uint16)


def save(path: Path, array: Any) -> str:
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)
    return str(path)


def test_values_of_files_that_are_no_ids(tmp_path: Path) -> None:
    classes = tuple(ClassInfo(id=i, name=f"n{i}", color=(i, 1, 2)) for i in range(3))
    known = ClassTable(classes=classes, values=((3, 0), (7, 1), (255, 2)), ignored_values=(0,))
    values = ids_of((0, 3, 7, 255))
    expected = np.full(SHAPE, 255)
    for value, number in known.values:
        expected[values == value] = number
    with closing(opened([save(tmp_path / "m.tif", values.astype(np.uint8))], known, SHAPE)) as target:
        np.testing.assert_array_equal(target.read(Window((0, 0), SHAPE)), expected)
    with pytest.raises(SourceError, match=r"does not name: 1: 4800 px; its values are 3, 7, 255"):
        opened([save(tmp_path / "n.tif", np.ones(SHAPE, np.uint8))], known, SHAPE)


def palette_picture(path: Path, indices: Any, palette: Any) -> str:
    picture = Image.new("P", indices.shape[::-1])
    picture.putdata(indices.ravel().tolist())
    picture.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
    picture.save(path)
    return str(path)


def check(target: Target, expected: Any) -> None:
    """Values of the whole and of random windows."""
    try:
        for window in [Window.whole(SHAPE), Window((7, 11), (30, 20)), Window((59, 79), (1, 1))]:
            ids = target.read(window)
            assert ids.dtype == target.dtype
            np.testing.assert_array_equal(ids, expected[window.slices])
    finally:
        target.close()


def test_a_palette_with_colours_of_the_table_is_read_by_them_whatever_its_numbers(tmp_path: Path) -> None:
    known = load_classes("cityscapes")
    indices = ids_of(tuple(range(len(known.classes))))
    palette = [info.color for info in known.classes]  # as of trainIds: 0 is road, which is 7 in labelIds
    check(opened([palette_picture(tmp_path / "m.png", indices, palette)], known, SHAPE), indices)
    palette[3] = (1, 2, 3)
    with pytest.raises(SourceError, match=r"does not name: #010203"):
        opened([palette_picture(tmp_path / "n.png", indices, palette)], known, SHAPE)


@pytest.mark.parametrize("suffix", ["png", "tif", "gif"])
@pytest.mark.parametrize("white", [1, 255])
def test_binary(tmp_path: Path, suffix: str, white: int) -> None:
    ids = ids_of((0, 1))
    target = opened([save(tmp_path / f"mask.{suffix}", (ids * white).astype(np.uint8))], None, SHAPE)
    assert target.kind == (
        "binary" if white == 255 and suffix != "gif" else "index"
    )  # a GIF has 0 and 1, with a palette
    assert [found.name for found in target.classes] == ["background", "foreground"]
    assert not target.has_instances
    check(target, ids)


def test_binary_of_booleans_and_of_three_grey_channels(tmp_path: Path) -> None:
    ids = ids_of((0, 1))
    check(opened([save(tmp_path / "bits.png", ids > 0)], None, SHAPE), ids)
    check(opened([save(tmp_path / "bits.tif", ids > 0)], None, SHAPE), ids)
    grey = np.repeat((ids * 255).astype(np.uint8)[..., None], 3, axis=2)
    for known in (None, table((0, 1)), table((0, 1), {0: (9, 9, 9), 1: (200, 1, 1)})):
        check(opened([save(tmp_path / "rgb.png", grey)], known, SHAPE), ids)


def test_an_empty_mask_is_all_background(tmp_path: Path) -> None:
    target = opened([save(tmp_path / "empty.png", np.zeros(SHAPE, np.uint8))], None, SHAPE)
    assert (target.kind, len(target.classes)) == ("index", 2)
    check(target, np.zeros(SHAPE))


def test_binary_takes_the_names_of_a_table(tmp_path: Path) -> None:
    ids = ids_of((0, 1))
    target = opened([save(tmp_path / "m.png", (ids * 255).astype(np.uint8))], table((0, 1)), SHAPE)
    assert (target.kind, target.classes[1].name) == ("binary", "n1")
    check(target, ids)


def test_black_may_be_the_foreground_if_the_colours_say_so(tmp_path: Path) -> None:
    ids = ids_of((0, 1))
    known = table((0, 1), {1: (0, 0, 0), 0: (255, 255, 255)})
    target = opened([save(tmp_path / "m.png", np.where(ids == 1, 0, 255).astype(np.uint8))], known, SHAPE)
    assert target.kind == "rgb"
    check(target, ids)
    black = opened([save(tmp_path / "black.png", np.zeros(SHAPE, np.uint8))], known, SHAPE)
    check(black, np.ones(SHAPE))


def test_index_with_ignore(tmp_path: Path) -> None:
    stored = ids_of((0, 1, 2, 255))
    target = opened([save(tmp_path / "index.png", stored.astype(np.uint8))], None, SHAPE)
    assert (target.kind, len(target.classes), target.ignore) == ("index", 3, 255)
    check(target, stored)
    known = table((0, 1), ignored=(2,))
    check(
        opened([save(tmp_path / "index.png", stored.astype(np.uint8))], known, SHAPE),
        np.where(stored > 1, 255, stored),
    )


def test_index_of_sixteen_bits(tmp_path: Path) -> None:
    stored = ids_of((0, 7, 300, 65535))
    target = opened([save(tmp_path / "index.tif", stored)], table((0, 7, 300)), SHAPE)
    assert (target.dtype, target.ignore) == (np.dtype("uint16"), 65535)
    check(target, stored)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
def test_index_in_other_types(tmp_path: Path, dtype: str) -> None:
    stored = ids_of((0, 1, 2))
    check(opened([save(tmp_path / "index.tif", stored.astype(dtype))], None, SHAPE), stored)


def test_values_that_are_no_ids_are_refused(tmp_path: Path) -> None:
    for wrong in (-1.0, 0.5):
        stored = np.full(SHAPE, wrong, np.float32)
        with pytest.raises(SourceError, match=f"whole numbers from 0 to 65535, the mask holds {wrong}"):
            opened([save(tmp_path / "wrong.tif", stored)], None, SHAPE)


def test_nodata_of_a_geotiff_is_ignored_unless_it_is_zero_or_a_class(tmp_path: Path) -> None:
    stored = ids_of((0, 1, 9)).astype(np.int16)
    stored[stored == 9] = -9999

    def write(nodata: float, pixels: Any) -> str:
        path = tmp_path / f"geo{nodata}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", width=80, height=60, count=1, dtype=pixels.dtype, nodata=nodata,
            crs="EPSG:32631", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 4e6),
        ) as dataset:  # fmt: skip
            dataset.write(pixels, 1)
        return str(path)

    check(opened([write(-9999, stored)], None, SHAPE), np.where(stored < 0, 255, stored))
    plain = ids_of((0, 1, 2)).astype(np.uint8)
    check(opened([write(0, plain)], None, SHAPE), plain)
    check(opened([write(2, plain)], None, SHAPE), np.where(plain == 2, 255, plain))
    check(opened([write(2, plain)], table((0, 1, 2)), SHAPE), plain)


def test_values_that_the_table_does_not_name_are_named_with_counts(tmp_path: Path) -> None:
    stored = np.zeros(SHAPE, np.uint8)
    stored[0, :5], stored[1, :2] = 3, 7
    with pytest.raises(SourceError, match=r"does not name: 3: 5 px, 7: 2 px; its ids are 0, 1"):
        opened([save(tmp_path / "m.png", stored)], table((0, 1)), SHAPE)


def test_a_picture_is_no_mask(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, SHAPE, dtype=np.uint8)
    with pytest.raises(SourceError, match="do not look like class ids"):
        opened([save(tmp_path / "grey.png", grey)], None, SHAPE)


def test_rgb(tmp_path: Path) -> None:
    ids = ids_of((0, 1, 2, 255))
    rgb = np.zeros((*SHAPE, 3), np.uint8)
    for number, color in COLORS.items():
        rgb[ids == number] = color
    target = opened([save(tmp_path / "rgb.png", rgb)], COLORED, SHAPE)
    assert (target.kind, target.dtype) == ("rgb", np.dtype("uint8"))
    check(target, ids)
    with pytest.raises(SourceError, match="coded by 4 colours; give a class table"):
        opened([save(tmp_path / "rgb.png", rgb)], None, SHAPE)


def test_colours_that_the_table_does_not_name_are_named_with_counts(tmp_path: Path) -> None:
    rgb = np.full((*SHAPE, 3), COLORS[0], np.uint8)
    rgb[0, :4], rgb[1, :9] = (1, 2, 3), (0, 0, 0)
    with pytest.raises(SourceError, match=r"does not name: #000000: 9 px, #010203: 4 px; add them"):
        opened([save(tmp_path / "rgb.png", rgb)], COLORED, SHAPE)
    all_black = save(tmp_path / "black.png", np.zeros((*SHAPE, 3), np.uint8))
    with pytest.raises(SourceError, match=r"does not name: #000000: 4800 px"):
        opened([all_black], COLORED, SHAPE)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_of_the_tables_colours_is_colour_coded(tmp_path: Path, suffix: str) -> None:
    ids = ids_of((0, 1, 2, 255))
    order = {1: 0, 255: 1, 0: 2, 2: 3}
    indices = np.vectorize(order.get)(ids)
    palette = [COLORS[number] for number in order] + [(255, 255, 255)]
    target = opened([palette_picture(tmp_path / f"p.{suffix}", indices, palette)], COLORED, SHAPE)
    assert target.kind == "rgb"
    check(target, ids)


def test_a_palette_that_is_half_the_tables_is_refused_rather_than_read_as_ids(tmp_path: Path) -> None:
    indices = ids_of((0, 1))
    path = palette_picture(tmp_path / "p.png", indices, [COLORS[1], (27, 179, 245)])
    with pytest.raises(SourceError, match=r"does not name: #1BB3F5"):
        opened([path], COLORED, SHAPE)


def test_a_palette_of_other_colours_is_index_coded(tmp_path: Path) -> None:
    indices = ids_of((0, 1, 2))
    path = palette_picture(tmp_path / "p.png", indices, [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
    target = opened([path], COLORED, SHAPE)
    assert target.kind == "index"
    check(target, indices)
    unnamed = opened([path], None, SHAPE)
    assert [found.color for found in unnamed.classes] == [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    check(unnamed, indices)


def test_transparent_pixels_of_a_mask_are_ignored(tmp_path: Path) -> None:
    ids = ids_of((0, 1))
    rgba = np.dstack([np.repeat((ids * 255).astype(np.uint8)[..., None], 3, axis=2), np.full(SHAPE, 255, np.uint8)])
    rgba[:10, :, 3] = 0
    expected = ids.copy()
    expected[:10] = 255
    check(opened([save(tmp_path / "m.png", rgba)], None, SHAPE), expected)


def test_one_file_per_object(tmp_path: Path) -> None:
    masks = []
    for number, (y, x) in enumerate([(0, 0), (5, 5), (40, 60)]):
        mask = np.zeros(SHAPE, np.uint8)
        mask[y : y + 10, x : x + 10] = 255
        masks.append(save(tmp_path / f"{number}.png", mask))
    objects = np.zeros(SHAPE, np.uint32)
    objects[40:50, 60:70], objects[5:15, 5:15], objects[0:10, 0:10] = 3, 2, 1
    target = opened(masks[::-1], None, SHAPE)
    assert (target.kind, target.has_instances) == ("instances", True)
    window = Window((3, 4), (50, 70))
    found = target.read_instances(window)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, objects[window.slices])
    check(target, objects > 0)
    single = opened(masks[:1], None, SHAPE, instances=True)
    assert single.has_instances
    check(single, objects == 1)


def test_the_table_of_objects_has_both_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.zeros(SHAPE, np.uint8))
    with pytest.raises(SourceError, match="gives the classes 0 and 1, the class table has 0, 2"):
        opened([path, path], table((0, 2)), SHAPE)


def test_another_size_than_the_source_is_refused_with_both(data_dir: Path) -> None:
    folder = data_dir / "corrupt" / "size_mismatch_pair"
    with pytest.raises(SourceError, match=r"the mask has 622 x 1068 px .*, its source 793 x 1361"):
        opened([str(folder / "image_jewar_003.png")], None, (793, 1361))
    with pytest.raises(SourceError, match="622 x 1068"):
        open_valid(str(folder / "image_jewar_003.png"), image_of((793, 1361)))


def test_too_many_channels_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "many.tif")
    tifffile.imwrite(path, np.zeros((*SHAPE, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(SourceError, match="one channel of values or three of colour, this file has c 5"):
        opened([path], None, SHAPE)


def test_a_valid_mask_is_what_is_not_black(tmp_path: Path) -> None:
    usable = ids_of((0, 1)).astype(bool)
    palette = palette_picture(tmp_path / "p.png", (~usable).astype(int), [(9, 0, 0), (0, 0, 0)])
    paths = [save(tmp_path / "v.png", usable.astype(np.uint8)), save(tmp_path / "v.tif", usable), palette]
    window = Window((7, 11), (30, 20))
    for path in paths:
        with open_valid(path, image_of(SHAPE)) as valid:
            found = valid.read(window)
            assert found.dtype == np.bool_
            np.testing.assert_array_equal(found, usable[window.slices])


def test_real_masks(data_dir: Path) -> None:
    drive = data_dir / "drive/training/1st_manual/21_manual1.gif"
    with Image.open(drive) as picture:
        vessels = np.asarray(picture.convert("L")) > 0
    target = opened([str(drive)], None, (584, 565))
    np.testing.assert_array_equal(target.read(Window.whole((584, 565))), vessels)
    target.close()
    view = data_dir / "drive/training/mask/21_training_mask.gif"
    with open_valid(str(view), image_of((584, 565))) as valid, Image.open(view) as picture:
        np.testing.assert_array_equal(valid.read(Window.whole((584, 565))), np.asarray(picture.convert("L")) > 0)


def test_real_aerial_masks_rgb_and_palette(data_dir: Path, tmp_path: Path) -> None:
    """The table as it comes with the data has the wrong road colour: it must be refused, whatever the encoding."""
    masks = data_dir / "dubai_aerial" / "mask"
    wrong = load_classes(str(data_dir / "dubai_aerial" / "classes.json"))
    path = tmp_path / "classes.csv"
    path.write_text(
        "name,color,ignore\nwater,E2A929,\nland,8429F6,\nroad,6EC1E4,\nbuilding,3C1098,\nvegetation,FEDD3A,\n"
        "unlabelled,9B9B9B,1\nnever,#000000,1\n"
    )
    right = load_classes(str(path))
    for name in ("image_part_001t2.png", "image_part_003t5.png"):
        with Image.open(masks / name) as picture:
            rgb = np.asarray(picture.convert("RGB")).astype(int)
        expected = np.full(rgb.shape[:2], 255)
        for number, code in enumerate((0xE2A929, 0x8429F6, 0x6EC1E4, 0x3C1098, 0xFEDD3A)):
            expected[(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]) == code] = number
        target = opened([str(masks / name)], right, expected.shape)
        np.testing.assert_array_equal(target.read(Window.whole(expected.shape)), expected)
        target.close()
        with pytest.raises(SourceError, match="#6EC1E4"):
            opened([str(masks / name)], wrong, expected.shape)


def test_real_objects(data_dir: Path) -> None:
    folder = sorted((data_dir / "dsb2018/stage1_train").iterdir())[0]
    paths = sorted(str(path) for path in (folder / "masks").iterdir())
    with Image.open(paths[0]) as picture:
        shape = picture.size[::-1]
    expected = np.zeros(shape, np.uint32)
    for number in range(len(paths), 0, -1):
        with Image.open(paths[number - 1]) as picture:
            expected[np.asarray(picture.convert("L")) > 0] = number
    target = opened(paths, None, shape)
    np.testing.assert_array_equal(target.read_instances(Window.whole(shape)), expected)


def test_so_many_colours_are_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_COLORS", 1000)
    picture = save(tmp_path / "picture.png", RNG.integers(0, 256, (*SHAPE, 3), np.uint8))
    for known in (None, COLORED):
        with pytest.raises(SourceError, match=r"picture\.png: holds over 1000 colours, as a picture does"):
            opened([picture], known, SHAPE)


def test_probabilities_and_negative_ids_are_refused_with_what_to_do(tmp_path: Path) -> None:
    for value in (0.25, -1):
        path = save(tmp_path / "mask.tif", np.full(SHAPE, value, np.float32))
        with pytest.raises(SourceError, match=rf"holds {value}.*; grey levels and probabilities need --threshold"):
            opened([path], None, SHAPE)
