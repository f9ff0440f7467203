"""Pictures against hand-made pixels, and read back from their data URIs."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from segcore.classes import ClassInfo
from segcore.report import pictures

CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=1, name="a", color=(200, 100, 0)),
    ClassInfo(id=5, name="b", color=(0, 0, 250)),
)


def _decoded(uri: str) -> npt.NDArray[np.uint8]:
    head, data = uri.split(",", 1)
    assert head in ("data:image/png;base64", "data:image/webp;base64")
    return np.asarray(Pillow.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_to_rgb_keeps_an_8_bit_picture_that_uses_its_range() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 9, 7), dtype=np.uint8)
    np.testing.assert_array_equal(pictures.to_rgb(pixels), np.moveaxis(pixels[:3], 0, -1))


def test_to_rgb_finds_colours_by_name() -> None:
    pixels = np.stack([np.full((2, 2), value, np.uint8) for value in (10, 20, 200, 250)])
    picture = pictures.to_rgb(pixels, ("Blue", "green", "RED", "nir"))
    assert picture[0, 0].tolist() == [200, 20, 10]


def test_to_rgb_brightens_what_is_dark_and_scales_other_types() -> None:
    dark = np.linspace(0, 50, 101).astype(np.uint8).reshape(1, 1, 101)
    assert pictures.to_rgb(dark).max() == 255
    ramp = np.linspace(-3000, 3000, 1001, dtype=np.float32).reshape(1, 1, 1001)
    picture = pictures.to_rgb(ramp)[0, :, 0].astype(int)
    assert (picture[0], picture[-1]) == (0, 255)
    assert abs(picture[500] - 127.5) <= 1


def test_to_rgb_stretches_what_is_usable_and_greys_the_rest() -> None:
    grey = list(pictures.OUT_OF_SCORE)
    scene = np.linspace(100, 200, 1001, dtype=np.float32).reshape(1, 1, 1001)
    alone = pictures.to_rgb(scene)
    with_nodata = np.concatenate([np.full((1, 1, 3000), -9999, np.float32), scene], axis=2)
    with_nodata[0, 0, :2] = np.nan, np.inf
    picture = pictures.to_rgb(with_nodata, (), with_nodata[0] > 0)
    np.testing.assert_array_equal(picture[:, 3000:], alone)
    assert np.unique(picture[0, :3000], axis=0).tolist() == [grey]
    assert np.unique(pictures.to_rgb(with_nodata)[0, :2], axis=0).tolist() == [grey]
    assert pictures.to_rgb(scene, (), np.zeros((1, 1001), bool))[0, 7].tolist() == grey
    eight = np.array([[[255, 20, 40]]], np.uint8)
    assert pictures.to_rgb(eight, (), eight[0] < 255)[0, :, 0].tolist() == [grey[0], 128, 255]


def test_ids_uri_gives_class_colours_back() -> None:
    ids = np.array([[0, 1, 5], [255, 5, 1]], np.uint8)
    picture = _decoded(pictures.ids_uri(ids, CLASSES))
    grey = list(pictures.OUT_OF_SCORE)
    expected = [[[0, 0, 0], [200, 100, 0], [0, 0, 250]], [grey, [0, 0, 250], [200, 100, 0]]]
    assert picture.tolist() == expected
    np.testing.assert_array_equal(pictures.colored(ids, CLASSES), picture)
    many = tuple(ClassInfo(id=i, name=str(i), color=(i % 256, i // 256, 0)) for i in range(300))
    wide = np.array([[0, 299, 65535]], np.uint16)
    assert _decoded(pictures.ids_uri(wide, many)).tolist() == [[[0, 0, 0], [43, 1, 0], grey]]


def test_overlay_tints_the_foreground_only_and_lines_its_border() -> None:
    picture = np.full((5, 5, 3), 100, np.uint8)
    ids = np.zeros((5, 5), np.uint8)
    ids[1:4, 1:4] = 1
    out = pictures.overlay(picture, ids, CLASSES, [1, 2])
    assert out[0, 0].tolist() == [100, 100, 100]
    assert out[1, 1].tolist() == [200, 100, 0]
    assert out[2, 2].tolist() == [150, 100, 50]


def test_errors_are_red_where_counted_only() -> None:
    picture = np.full((1, 3, 3), 255, np.uint8)
    target, mask = np.array([[0, 1, 1]]), np.array([[0, 0, 0]])
    out = pictures.errors(picture, target, mask, np.array([[True, True, False]]))
    assert out[0].tolist() == [[255, 255, 255], list(pictures.WRONG), [127, 127, 127]]


def test_shrunk_and_sampled_have_the_same_sides() -> None:
    picture = np.zeros((300, 101, 3), np.uint8)
    small = pictures.shrunk(picture, 100)
    assert small.shape == (100, 34, 3)
    ids = np.arange(300 * 101).reshape(300, 101)
    sampled = pictures.sampled(ids, small.shape[:2])
    assert sampled.shape == (100, 34)
    assert sampled[0, 0] == ids[1, 1]
    assert sampled[-1, -1] == ids[298, 99]
    np.testing.assert_array_equal(pictures.sampled(ids, ids.shape), ids)


def test_outlined_draws_the_class_inside_and_dark_outside_and_nothing_else() -> None:
    ids = np.zeros((9, 9), np.uint8)
    ids[3:6, 3:6] = 1
    picture = np.full((9, 9, 3), 200, np.uint8)
    found = pictures.outlined(picture, ids, CLASSES, [1])
    inside, outside = found[3:6, 3:6].reshape(-1, 3).tolist(), found[2, 3:6].tolist()
    assert inside.count(list(CLASSES[1].color)) == 8  # all but the middle
    assert outside == [[pictures.CASING] * 3] * 3
    assert (found[4, 4] == 200).all()
    assert (found[0] == 200).all()


def test_hatched_changes_only_what_is_asked() -> None:
    picture = np.full((28, 28, 3), 120, np.uint8)
    where = np.zeros((28, 28), bool)
    where[:, 14:] = True
    found = pictures.hatched(picture, where)
    assert (found[:, :14] == 120).all()
    values, counts = np.unique(found[:, 14:, 0], return_counts=True)
    assert dict(zip(values.tolist(), (counts / 14 / 28).round(3).tolist(), strict=True)) == {
        pictures.CASING: 0.143, 120: 0.714, 255: 0.143
    }  # fmt: skip


def test_reddened_is_grey_where_there_is_nothing_and_red_where_there_is_most() -> None:
    picture = np.array([[[0, 0, 0], [255, 255, 255], [30, 60, 90]]], np.uint8)
    found = pictures.reddened(picture, np.array([[0.0, 0.0, 1.0]], np.float32))
    assert found[0].tolist() == [[150] * 3, [255] * 3, list(pictures.WRONG)]


def test_photos_are_small_and_like_what_they_show() -> None:
    y, x = np.mgrid[:200, :300]
    picture = np.stack([y, x * 255 // 300, 255 - y], -1).astype(np.uint8)
    uri = pictures.photo_uri(picture)
    assert len(uri) < 6000
    assert np.abs(_decoded(uri).astype(int) - picture).mean() < 3


def test_changes_tell_who_is_right() -> None:
    picture = np.full((1, 6, 3), 255, np.uint8)
    one, other, target = np.array([[0, 1, 0, 1, 5, 1]]), np.array([[0, 0, 1, 5, 1, 0]]), np.array([[1, 1, 1, 0, 1, 1]])
    counted = np.array([[True] * 5 + [False]])
    right, wrong, neither = (list(color) for color in (pictures.RIGHT, pictures.WRONG, pictures.NEITHER))
    found = pictures.changes(picture, (one, other), target, counted)
    assert found[0].tolist() == [[255] * 3, right, wrong, neither, wrong, [127] * 3]
    found = pictures.changes(picture, (one, other), None, counted)
    assert found[0].tolist() == [[255] * 3, *[neither] * 4, [127] * 3]
