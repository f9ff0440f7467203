"""Numbered: masks of object numbers keep every number, and are not taken for class ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segcore.classes import ClassInfo
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import SourceInfo
from segcore.targets import ClassTable, Target, TargetOpening
from segcore.targets.target import open_target

SHAPE = (60, 80)


def image_of(shape: tuple[int, ...]) -> SourceInfo:
    sides = {"axes": ("c", "y", "x"), "shape": (1, *shape), "dtype": "uint8", "channels": ("grey",)}
    return SourceInfo(uri="source.tif", reader="tiff", reader_version="-", num_bytes=1, **sides)


def opened(*uris: str, values: Any = "objects", names: tuple[str, ...] = (), classes: Any = None) -> Target:
    table = ClassTable(classes=classes) if classes else None
    return open_target(uris, image_of(SHAPE), TargetOpening(values=values, table=table), names=names)


def numbers(highest: int, dtype: Any = np.uint16) -> Any:
    """Blocks of 4 x 4 px with the numbers from 1 on, as far as they go, and a last one."""
    found = np.zeros(SHAPE, np.int64)
    for number in range(1, min(highest, 300) + 1):
        y, x = divmod(number - 1, 20)
        found[y * 4 : y * 4 + 3, x * 4 : x * 4 + 3] = number
    found[-1, -1] = highest
    return found.astype(dtype)


def save(path: Path, array: Any) -> str:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "dtype", "highest"),
    [
        ("a.png", np.uint8, 255),
        ("a.png", np.uint16, 65535),
        ("a.tif", np.uint16, 65535),
        ("a.tif", np.uint32, 2**32 - 1),
        ("a.npy", np.uint32, 70000),
        ("a.npy", np.int32, 2**31 - 1),
        ("a.tif", np.float32, 2**24),
    ],
)
def test_every_number_is_kept(tmp_path: Path, name: str, dtype: Any, highest: int) -> None:
    expected = numbers(highest, dtype)
    target = opened(save(tmp_path / name, expected))
    assert (target.kind, target.has_instances, target.dtype) == ("objects", True, np.uint8)
    assert [(info.id, info.name) for info in target.classes] == [(0, "background"), (1, "object")]
    for window in [Window.whole(SHAPE), Window((7, 11), (30, 20)), Window((59, 79), (1, 1))]:
        found = target.read_instances(window)
        assert found.dtype == np.uint32
        np.testing.assert_array_equal(found, expected[window.slices].astype(np.int64))
        np.testing.assert_array_equal(target.read(window), expected[window.slices] > 0)
    target.close()


@pytest.mark.parametrize(
    ("dtype", "wrong"), [(np.int32, -1), (np.float32, 2.5), (np.float32, 2**24 + 2), (np.float64, 2**32)]
)
def test_a_number_that_does_not_fit_is_refused(tmp_path: Path, dtype: Any, wrong: float) -> None:
    array = numbers(3, dtype)
    array[30, 40] = wrong
    target = opened(save(tmp_path / "a.tif", array))
    assert target.read_instances(Window((0, 0), (30, 80))).max() == 3
    with pytest.raises(SourceError, match=r"a\.tif: object numbers of \w+ are whole, from 0 to \d+, the mask holds"):
        target.read_instances(Window.whole(SHAPE))
    target.close()


def test_the_one_class_has_the_name_of_the_table(tmp_path: Path) -> None:
    names = ("ground", "nucleus", "cell")
    classes = tuple(ClassInfo(id=i, name=name, color=(i, 1, 2)) for i, name in enumerate(names))
    uri = save(tmp_path / "a.png", numbers(9))
    target = opened(uri, classes=classes[:2])
    assert target.classes[1].name == "nucleus"
    target.close()
    with pytest.raises(SourceError, match=r"has several \(nucleus, cell\)"):
        opened(uri, classes=classes)
    with pytest.raises(SourceError, match="the class table has 1, 2"):
        opened(uri, classes=classes[1:])


def test_object_numbers_come_in_one_file_of_one_channel(tmp_path: Path) -> None:
    one, two = save(tmp_path / "a.png", numbers(9)), save(tmp_path / "b.png", numbers(9))
    with pytest.raises(SourceError, match="2 files for one image; object numbers come in one file"):
        opened(one, two)
    with pytest.raises(SourceError, match="not in one per class"):
        opened(one, names=("cell",))
    colored = save(tmp_path / "c.png", np.repeat(numbers(9, np.uint8)[..., None], 3, axis=2))
    with pytest.raises(SourceError, match="this mask has three"):
        opened(colored)


@pytest.mark.parametrize(
    ("name", "dtype", "highest"),
    [
        ("a.png", np.uint16, 21),
        ("gap.png", np.uint16, 201),
        ("a.png", np.uint8, 100),
        ("a.tif", np.uint16, 290),
        ("a.tif", np.uint32, 70000),
    ],
)
def test_what_looks_like_object_numbers_is_refused_by_the_options_name(
    tmp_path: Path, name: str, dtype: Any, highest: int
) -> None:
    array = numbers(highest, dtype)
    uri = save(tmp_path / name, np.where(array == 7, 0, array) if name == "gap.png" else array)
    with pytest.raises(SourceError, match="--target-values objects"):
        opened(uri, values=None)


def test_few_ids_are_classes_and_so_are_those_called_classes(tmp_path: Path) -> None:
    for name, array, values in [
        ("few.png", numbers(20), None),
        ("bytes.png", numbers(60, np.uint8), None),
        ("told.png", numbers(40), "classes"),
    ]:
        target = opened(save(tmp_path / name, array), values=values)
        assert target.kind == "index"
        np.testing.assert_array_equal(target.read(Window.whole(SHAPE)), array)
        target.close()


def test_a_table_that_knows_few_of_many_values_names_the_option(tmp_path: Path) -> None:
    classes = tuple(ClassInfo(id=i, name=f"n{i}", color=(i, 1, 2)) for i in range(2))
    with pytest.raises(SourceError, match=r"does not name: .*--target-values objects"):
        opened(save(tmp_path / "a.png", numbers(90)), values=None, classes=classes)
