"""Labelled: what is read are the store's own pixels, or those of the grid that they are resampled to."""

import numpy as np
import numpy.typing as npt
import pytest

from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.inference.model_grid import ModelGrid
from segcore.sampling import IGNORED, LabelledImage
from segcore.store import Workspace
from tests.sampling.scenes import labelled, random_image, rare
from tests.synthetic import put_image, put_label


def test_read_reflected_equals_numpy_reflect_over_every_border(workspace: Workspace) -> None:
    pixels, ids = random_image(0, (40, 50))
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    got, target = labelled(workspace).read_reflected(0, Window((-60, -7), (200, 70)))
    pad = ((60, 100), (7, 13))
    assert np.array_equal(got, np.pad(pixels, ((0, 0), *pad), mode="reflect"))
    assert np.array_equal(target, np.pad(ids, pad, mode="reflect"))


def test_ignored_where_the_target_says_so_or_the_pixel_is_not_usable(workspace: Workspace) -> None:
    pixels = np.full((3, 4, 4), 7, np.uint8)
    pixels[:, 0] = 0  # nodata in all bands
    pixels[0, 1] = 0  # in one band only: usable
    ids = np.ones((4, 4), np.uint8)
    ids[3, 3] = 255
    put_image(workspace, "a", pixels, nodata=0)
    put_label(workspace, "a", "target", ids)
    _, target = labelled(workspace).read(0, Window.whole((4, 4)))
    expected = np.ones((4, 4))
    expected[3, 3] = IGNORED
    expected[0] = IGNORED
    assert np.array_equal(target, expected)


@pytest.mark.parametrize("nodata", [-3.4e38, np.nan, None])
def test_missing_floats_are_read_as_nan_so_that_no_value_reaches_a_neighbour(
    workspace: Workspace, nodata: float | None
) -> None:
    hole = np.nan if nodata is None else nodata
    pixels = np.ones((2, 4, 4), np.float32)
    pixels[:, 0] = hole
    pixels[0, 1] = hole  # in one band only: usable
    pixels[1, 2] = np.inf
    put_image(workspace, "a", pixels, nodata=nodata)
    put_label(workspace, "a", "target", np.ones((4, 4), np.uint8))
    got, target = labelled(workspace).read(0, Window.whole((4, 4)))
    expected = np.ones((2, 4, 4))
    expected[:, 0] = expected[0, 1] = expected[1, 2] = np.nan
    np.testing.assert_array_equal(got, expected)
    assert (target == [[IGNORED], [1], [1], [1]]).all()
    assert np.array_equal(labelled(workspace).read_classes(0, 0), target)


def test_ignored_where_the_valid_label_is_zero(workspace: Workspace) -> None:
    pixels, ids = random_image(1, (8, 8))
    valid = np.ones((8, 8), np.uint8)
    valid[2:4] = 0
    put_image(workspace, "a", pixels, has_valid=True)
    put_label(workspace, "a", "valid", valid)
    put_label(workspace, "a", "target", ids)
    _, target = labelled(workspace).read(0, Window((1, 0), (4, 8)))
    assert np.array_equal(target == IGNORED, valid[1:5] == 0)


def test_a_target_with_an_unknown_id_is_refused(workspace: Workspace) -> None:
    pixels, ids = random_image(1, (8, 8))
    ids[0, 0] = 9
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    with pytest.raises(ConfigError, match=r"target of a: expected class ids below 2 or ignore \(255\), got 9"):
        labelled(workspace).read(0, Window.whole((8, 8)))


def put_volume(workspace: Workspace, *leading: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Two bands of noise (C, leading..., 10, 12), and their target."""
    volume = np.random.default_rng(3).integers(0, 255, (2, *leading, 10, 12), dtype=np.uint8)
    ids = (volume[0] > 99).astype(np.uint8)
    axes = ("t", "z", "y", "x")[-ids.ndim :]
    put_image(workspace, "v", np.moveaxis(volume, 0, -3), axes=(*axes[:-2], "c", "y", "x"))
    put_label(workspace, "v", "target", ids, axes=axes)
    return volume, ids


def test_planes_of_a_volume_are_read_one_by_one(workspace: Workspace) -> None:
    volume, ids = put_volume(workspace, 3)
    image = labelled(workspace, "v")
    assert image.num_planes == 3
    for plane in range(3):
        pixels, target = image.read(plane, Window((2, 3), (4, 5)))
        assert np.array_equal(pixels, volume[:, plane, 2:6, 3:8])
        assert np.array_equal(target, ids[plane, 2:6, 3:8])


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_stack_lies_around_its_plane_and_stays_within_the_last_axis(workspace: Workspace, is_kept: bool) -> None:
    volume, ids = put_volume(workspace, 2, 7)
    image = labelled(workspace, "v")
    image.tile_planes = 4
    if is_kept:
        image.keep()
    for plane, z0 in {0: 0, 2: 0, 3: 1, 5: 3, 6: 3}.items():
        for t in range(2):
            pixels, target = image.read(7 * t + plane, Window((2, 3), (4, 5)))
            assert np.array_equal(pixels, volume[:, t, z0 : z0 + 4, 2:6, 3:8])
            assert np.array_equal(target, ids[t, z0 : z0 + 4, 2:6, 3:8])


@pytest.mark.parametrize("is_kept", [False, True])
def test_planes_that_a_volume_does_not_have_are_mirrored(workspace: Workspace, is_kept: bool) -> None:
    volume, ids = put_volume(workspace, 3)
    image = labelled(workspace, "v")
    image.tile_planes = 6
    if is_kept:
        image.keep()
    outside = Window((-2, 5), (6, 5))
    for plane in range(3):
        pixels, target = image.read_reflected(plane, outside)
        padded = np.pad(volume, ((0, 0), (1, 2), (2, 0), (0, 0)), mode="reflect")
        assert np.array_equal(pixels, padded[:, :, :6, 5:10])
        assert np.array_equal(target, np.pad(ids, ((1, 2), (2, 0), (0, 0)), mode="reflect")[:, :6, 5:10])


def test_a_level_that_is_not_there_is_refused(workspace: Workspace) -> None:
    rare(workspace)
    with pytest.raises(ConfigError, match="image a: expected a pyramid level below 2, got level 5"):
        labelled(workspace, level=5)


@pytest.mark.parametrize("step", [(1.6, 2.5), (0.8, 0.7)])
@pytest.mark.parametrize("told_by", ["valid", "nodata"])
def test_a_resampled_image_is_its_model_grid_with_the_nearest_classes(
    workspace: Workspace, step: tuple[float, float], told_by: str
) -> None:
    pixels, ids = random_image(5, (90, 70))
    pixels += 1
    ids[20:30, 10:40] = 255
    valid = np.ones((90, 70), np.uint8)
    valid[50:60] = 0
    if told_by == "nodata":
        pixels[:, valid == 0] = 0
    put_image(workspace, "a", pixels, has_valid=told_by == "valid", nodata=0 if told_by == "nodata" else None)
    put_label(workspace, "a", "target", ids)
    if told_by == "valid":
        put_label(workspace, "a", "valid", valid)
    grid = ModelGrid(workspace.image("a"), 0, step)
    image = LabelledImage(workspace.image("a"), workspace.label("a", "target"), grid=grid)
    assert image.shape_yx == grid.shape
    whole, classes = image.read(0, Window.whole(grid.shape))
    np.testing.assert_array_equal(whole, grid.read(Window.whole(grid.shape)))
    places = [
        [min(int((i + 0.5) * side), n - 1) for i in range(num)]
        for side, n, num in zip(step, (90, 70), grid.shape, strict=True)
    ]
    known = np.where(ids == 255, IGNORED, ids.astype(np.int16))
    if told_by == "valid":
        expected = np.where(valid == 1, known, IGNORED)[np.ix_(*places)]
    else:
        expected = np.where((whole == 0).all(axis=0), IGNORED, known[np.ix_(*places)])
        assert 0.05 < (whole == 0).all(axis=0).mean() < 0.2
    np.testing.assert_array_equal(classes, expected)
    part = Window((7, 5), (11, 13))
    for got, of_whole in zip(image.read(0, part), (whole[:, *part.slices], classes[part.slices]), strict=True):
        np.testing.assert_array_equal(got, of_whole)
