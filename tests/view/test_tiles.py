"""Tiles: what a browser gets is what the store holds, pixel by pixel."""

from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest

from segcore.classes import ClassInfo
from segcore.geometry import Window
from segcore.store import PyramidSpec, Staging, Workspace, layer_name
from segcore.view.paint import eight_bit, object_colors
from tests.synthetic import put_image, put_label, put_objects
from tests.view.conftest import Client, Tile

CLASSES = (
    ClassInfo(id=0, name="Background", color=(0, 0, 0)),
    ClassInfo(id=1, name="field", color=(230, 159, 0)),
    ClassInfo(id=2, name="wood", color=(0, 158, 115)),
)
GREY = (200, 200, 200, 255)


def noise(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def regions(side: tuple[int, int], values: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Squares of 8 px of a few ids."""
    cells = np.random.default_rng(seed).choice(values, (-(-side[0] // 8), -(-side[1] // 8)))
    return np.kron(cells, np.ones((8, 8), int))[: side[0], : side[1]].astype(np.uint8)


def put_layer(
    ws: Workspace, image_id: str, mask: str, kind: str, values: npt.NDArray[Any], base_level: int = 0
) -> None:
    spec = PyramidSpec(
        axes=("c", "y", "x"), shape=values.shape, dtype=str(values.dtype), kind="image", shard_px=256,
        nodata=float("nan") if values.dtype.kind == "f" else None, base_level=base_level, num_levels=1,
    )  # fmt: skip
    with Staging.begin(ws, image_id, layer_name(mask, kind), {"layer": kind}, spec) as staging:
        staging.put_all(values)
        staging.finish({"layer": kind, "base_level": base_level}, channels=[f"c{n}" for n in range(len(values))])


def test_tiles_of_an_image_are_its_pixels_at_every_level(workspace: Workspace, tile: Tile) -> None:
    pixels = noise((3, 1100, 530))
    put_image(workspace, "i0", pixels)
    image = workspace.image("i0")
    assert image.num_levels == 3
    for level in range(image.num_levels):
        height, width = image.shape(level)[-2:]
        whole = np.zeros((3, -(-height // 512) * 512, -(-width // 512) * 512), np.uint8)
        for row in range(whole.shape[1] // 512):
            for column in range(whole.shape[2] // 512):
                got = tile(f"i0/image/image/{level}/{row}/{column}", lossless=1)
                assert (got[..., 3] == 255).all()
                y, x = row * 512, column * 512
                whole[:, y : y + 512, x : x + 512] = np.moveaxis(got[..., :3], -1, 0)
        np.testing.assert_array_equal(whole[:, :height, :width], image.read(Window.whole((3, height, width)), level))


def test_what_is_not_lossless_is_close(workspace: Workspace, tile: Tile, client: Client) -> None:
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    put_image(
        workspace,
        "i0",
        np.stack([np.tile(ramp, (512, 1)), np.tile(ramp[:, None], (1, 512)), np.full((512, 512), 99)]).astype(np.uint8),
    )
    assert client.get("/tile/i0/image/image/0/0/0").headers["content-type"] == "image/jpeg"
    sharp, near = tile("i0/image/image/0/0/0", lossless=1).astype(int), tile("i0/image/image/0/0/0").astype(int)
    assert np.abs(sharp - near).max() <= 6


def test_bands_and_limits_are_as_asked(workspace: Workspace, tile: Tile) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(-500, 4000, (6, 60, 70)).astype(np.int16)
    put_image(workspace, "i0", pixels)
    got = tile("i0/image/image/0/0/0", lossless=1, bands="5,0,3", low=100, high=2100)
    expected = np.clip((pixels[[5, 0, 3]].astype(float) - 100) * 255 / 2000 + 0.5, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(np.moveaxis(got[:60, :70, :3], -1, 0), expected)
    grey = tile("i0/image/image/0/0/0", lossless=1, bands="3", low=100, high=2100)
    np.testing.assert_array_equal(grey[:60, :70, 0], expected[2])
    np.testing.assert_array_equal(grey[:60, :70, 1], expected[2])


def test_by_default_all_bands_are_stretched_alike(workspace: Workspace, tile: Tile) -> None:
    pixels = (np.random.default_rng(1).integers(300, 900, (3, 64, 64)) * np.array([1, 2, 3])[:, None, None]).astype(
        np.uint16
    )
    put_image(workspace, "i0", pixels)
    low = min(np.percentile(band, 0.2) for band in pixels)
    high = max(np.percentile(band, 99.8) for band in pixels)
    expected = np.clip((pixels - low) * 255 / (high - low) + 0.5, 0, 255).astype(np.uint8)
    got = tile("i0/image/image/0/0/0", lossless=1)
    np.testing.assert_array_equal(np.moveaxis(got[:64, :64, :3], -1, 0), expected)


def test_pixels_without_a_value_are_see_through(workspace: Workspace, tile: Tile) -> None:
    pixels = noise((3, 40, 50)).astype(np.int16) + 1
    pixels[:, :10] = 0
    pixels[0, 20] = 0  # one band has none, the others do
    put_image(workspace, "i0", pixels, nodata=0)
    alpha = tile("i0/image/image/0/0/0")[..., 3]
    assert (alpha[:10, :50] == 0).all()
    assert (alpha[10:40, :50] == 255).all()
    floats = np.full((1, 40, 50), np.nan, np.float32)
    floats[0, :, :25] = 7
    put_image(workspace, "i1", floats)
    assert (tile("i1/image/image/0/0/0")[:40, :50, 3] == np.where(np.isnan(floats[0]), 0, 255)).all()


def test_the_valid_label_counts(workspace: Workspace, tile: Tile) -> None:
    valid = regions((40, 50), (0, 1))
    put_image(workspace, "i0", noise((3, 40, 50)), has_valid=True)
    put_label(workspace, "i0", "valid", valid)
    np.testing.assert_array_equal(tile("i0/image/image/0/0/0")[:40, :50, 3], valid * 255)
    shown = tile("i0/labels/valid/0/0/0")
    np.testing.assert_array_equal(shown[:40, :50, 3], (1 - valid) * 255)


def test_classes_have_their_colours(workspace: Workspace, tile: Tile) -> None:
    ids = regions((600, 90), (0, 1, 2, 7, 255))
    put_image(workspace, "i0", noise((3, 600, 90)))
    put_label(workspace, "i0", "target", ids, CLASSES)
    colors = np.zeros((256, 4), np.uint8)
    colors[:] = GREY
    colors[0] = 0
    colors[1], colors[2] = (230, 159, 0, 255), (0, 158, 115, 255)
    got = np.concatenate([tile(f"i0/labels/target/0/{row}/0") for row in (0, 1)])
    shown = got[:600, :90].copy()
    shown[shown[..., 3] == 0] = 0
    np.testing.assert_array_equal(shown, colors[ids])
    assert (got[600:, :, 3] == 0).all()
    without = tile("i0/labels/target/0/0/0", hidden="1,7")
    np.testing.assert_array_equal(without[:512, :90, 3] == 0, np.isin(ids[:512], (0, 1, 7)))


def test_a_class_0_that_is_no_background_is_painted(workspace: Workspace, tile: Tile) -> None:
    classes = (ClassInfo(id=0, name="water", color=(1, 2, 3)), ClassInfo(id=1, name="land", color=(4, 5, 6)))
    put_image(workspace, "i0", noise((3, 64, 64)))
    put_label(workspace, "i0", "target", np.zeros((64, 64), np.uint8), classes)
    assert (tile("i0/labels/target/0/0/0")[:64, :64] == (1, 2, 3, 255)).all()


def test_more_colours_than_a_palette_has_do_not_fail(workspace: Workspace, tile: Tile) -> None:
    classes = tuple(ClassInfo(id=n, name=f"c{n}", color=(n % 256, n // 256, 9)) for n in range(300))
    ids = np.arange(300, dtype=np.uint16).reshape(15, 20)
    put_image(workspace, "i0", noise((3, 15, 20)))
    put_label(workspace, "i0", "target", ids, classes)
    got = tile("i0/labels/target/0/0/0")[:15, :20, :3].reshape(-1, 3)
    assert [tuple(color) for color in got[:254]] == [info.color for info in classes[:254]]


def outline_by_hand(ids: npt.NDArray[Any], painted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Painted pixels from which a step of 1 or 2 along an axis leads to another id, or off what is painted."""
    height, width = ids.shape
    line = np.zeros(ids.shape, bool)
    for y, x in np.argwhere(painted):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0), (0, 2), (2, 0), (0, -2), (-2, 0)):
            ny, nx = y + dy, x + dx
            if 0 <= ny < height and 0 <= nx < width and (not painted[ny, nx] or ids[ny, nx] != ids[y, x]):
                line[y, x] = True
    return line


def test_outlines_go_on_over_the_borders_of_tiles(workspace: Workspace, tile: Tile) -> None:
    ids = regions((60, 540), (0, 1, 2, 255), seed=3)
    put_image(workspace, "i0", noise((3, 60, 540)))
    put_label(workspace, "i0", "target", ids, CLASSES)
    got = np.concatenate([tile(f"i0/labels/target/0/0/{column}", outline=1) for column in (0, 1)], axis=1)
    expected = outline_by_hand(ids, ids != 0)
    np.testing.assert_array_equal(got[:60, :540, 3] > 0, expected)
    assert (got[:60, :540][expected & (ids == 1)] == (230, 159, 0, 255)).all()


def test_touching_objects_have_colours_and_outlines_of_their_own(workspace: Workspace, tile: Tile) -> None:
    ids = np.kron(np.arange(12).reshape(3, 4), np.ones((8, 8))).astype(np.uint32)
    ids[ids == 11] = 70_000_001
    put_image(workspace, "i0", noise((3, 24, 32)))
    put_objects(workspace, "i0", "m_instances", ids)
    got = tile("i0/labels/m_instances/0/0/0")[:24, :32]
    assert (got[..., 3] == np.where(ids == 0, 0, 255)).all()
    colors = {int(n): {tuple(color) for color in got[ids == n]} for n in np.unique(ids) if n}
    assert all(len(found) == 1 for found in colors.values())
    assert len(set.union(*colors.values())) == 11
    line = tile("i0/labels/m_instances/0/0/0", outline=1)[:24, :32, 3] > 0
    np.testing.assert_array_equal(line, outline_by_hand(ids, ids != 0))


def test_no_two_colours_of_objects_are_alike_that_follow_each_other() -> None:
    colors = np.array(object_colors(), int)
    assert len(set(map(tuple, colors))) == len(colors) == 254
    for step in (1, 2):
        assert np.abs(colors - np.roll(colors, step, axis=0)).sum(axis=1).min() > 60


def test_a_layer_goes_through_the_colour_map(workspace: Workspace, tile: Tile) -> None:
    put_image(workspace, "i0", noise((3, 30, 40)))
    values = np.stack([np.full((30, 40), 51), np.tile(np.linspace(64, 255, 40), (30, 1))]).astype(np.uint8)
    put_layer(workspace, "i0", "m", "probs", values)
    got = tile("i0/layers/m.probs/0/0/0", channel=1)[:30, :40]
    entries = np.rint(values[1].astype(np.float32) / 255 * 254).astype(int)
    table = matplotlib.colormaps["inferno"](np.linspace(0, 1, 255), bytes=True)
    np.testing.assert_array_equal(got[..., :3], table[entries][..., :3])
    assert (got[..., 3] == 255).all()
    low = tile("i0/layers/m.probs/0/0/0", channel=0)[0, 0, 3]
    assert abs(int(low) - 255 * 0.2 / 0.25) <= 1, "a low value lets the image through"


def test_what_a_float_layer_does_not_know_is_see_through(workspace: Workspace, tile: Tile) -> None:
    put_image(workspace, "i0", noise((3, 30, 40)))
    values = np.full((1, 30, 40), 0.5, np.float16)
    values[0, :5] = np.nan
    put_layer(workspace, "i0", "m", "entropy", values)
    alpha = tile("i0/layers/m.entropy/0/0/0")[:30, :40, 3]
    np.testing.assert_array_equal(alpha, np.where(np.isnan(values[0]), 0, 255))


def test_a_coarse_layer_is_asked_for_at_the_images_levels(workspace: Workspace, tile: Tile, client: Client) -> None:
    put_image(workspace, "i0", noise((3, 1030, 64)))
    values = np.arange(515 * 32).reshape(1, 515, 32) % 192 + 64
    put_layer(workspace, "i0", "m", "probs", values.astype(np.uint8), base_level=1)
    got = tile("i0/layers/m.probs/1/1/0")
    assert (got[:3, :32, 3] == 255).all()
    assert (got[3:, :, 3] == 0).all()
    answer = client.get("/tile/i0/layers/m.probs/0/0/0")
    assert (answer.status, answer.json()) == (400, {"error": "tile: expected a level from 1 to 2, got 0"})


@pytest.mark.parametrize("axis", ["z", "t"])
def test_planes_are_told_apart(workspace: Workspace, tile: Tile, client: Client, axis: str) -> None:
    axes = ("c", "z", "y", "x") if axis == "z" else ("t", "c", "y", "x")
    pixels = noise((2, 5, 20, 30))
    pixels = pixels if axis == "z" else np.moveaxis(pixels, 0, 1)
    ids = np.stack([regions((20, 30), (0, 1, 2), seed) for seed in range(5)])
    put_image(workspace, "i0", pixels, axes=axes)
    put_label(workspace, "i0", "target", ids, CLASSES, axes=(axis, "y", "x"))
    for index in range(5):
        got = tile("i0/image/image/0/0/0", **{axis: index}, bands=1, lossless=1, low=0, high=255)
        expected = pixels[1, index] if axis == "z" else pixels[index, 1]
        np.testing.assert_array_equal(got[:20, :30, 0], expected)
        np.testing.assert_array_equal(tile("i0/labels/target/0/0/0", **{axis: index})[:20, :30, 3] > 0, ids[index] > 0)
    answer = client.get("/tile/i0/image/image/0/0/0", **{axis: 5})
    assert (answer.status, answer.json()["error"]) == (400, f"plane: expected {axis} from 0 to 4, got 5")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_eight_bit_is_one_formula_for_every_type(dtype: str) -> None:
    values = np.array([-3, 0, 10, 17, 99, 100, 101, 120]).clip(0 if dtype[0] == "u" else -3).astype(dtype)
    expected = [min(max(int((float(v) - 10) * 255 / 90 + 0.5), 0), 255) if v > 10 else 0 for v in values]
    assert eight_bit(values, 10, 100).tolist() == expected
    assert eight_bit(np.array([np.nan, np.inf, -np.inf], np.float32), 10, 100).tolist() == [0, 255, 0]
