"""Regridded: labels on another grid reach the image's by nearest, whatever the windows."""

import itertools
from typing import Any

import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import SourceInfo
from segcore.spatial import Georef
from segcore.targets import regridded
from segcore.targets.regridded import read_regridded, regrid_between
from tests.targets.volumes import Memory, affine, rotation, source_info

IMAGE = (1, 6, 20, 24)
SCALED = np.diag([0.8, 1.1, 3.0, 1.0])


def brute_force(labels: Memory, image: SourceInfo) -> Any:
    """Label by label: the world point of each voxel, and the voxel nearest to it; -1 outside."""
    assert labels.info.affine is not None
    assert image.affine is not None
    back = np.linalg.inv(np.array(labels.info.affine.matrix)) @ np.array(image.affine.matrix)
    found = np.full(image.shape[1:], -1)
    for z, y, x in itertools.product(*map(range, image.shape[1:])):
        column, row, plane = (back @ [x, y, z, 1])[:3]
        at = tuple(int(np.floor(value + 0.5 + 1e-6)) for value in (plane, row, column))
        if all(0 <= i < n for i, n in zip(at, labels.info.shape[1:], strict=True)):
            found[z, y, x] = labels.pixels[(0, *at)]
    return found


GRIDS = {
    "finer": SCALED @ np.diag([0.5, 0.5, 0.4, 1]),
    "moved by a third": SCALED + np.array([[0, 0, 0, 0.25], [0, 0, 0, -0.4], [0, 0, 0, 1], [0] * 4]),
    "mirrored": SCALED @ np.array([[-1, 0, 0, 20], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1]]),
    "axes exchanged": SCALED @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    "turned": SCALED @ rotation(20, 2) @ rotation(7, 0),
}


@pytest.mark.parametrize("name", GRIDS)
def test_each_voxel_has_the_label_nearest_to_it(name: str, rng: np.random.Generator) -> None:
    image = source_info(IMAGE, affine=affine(SCALED))
    labels = Memory(rng.integers(0, 9, (1, 7, 22, 21), np.uint8), affine=affine(GRIDS[name]))
    regrid = regrid_between(labels.info, image)
    assert regrid is not None
    expected = brute_force(labels, image)
    assert (expected >= 0).any()
    for window in (Window.whole(IMAGE[1:]), Window((2, 3, 5), (1, 16, 9)), Window((5, 19, 23), (1, 1, 1))):
        pixels, known = read_regridded(labels, regrid, window)
        np.testing.assert_array_equal(np.where(known, pixels[0].astype(int), -1), expected[window.slices])


def test_blocks_are_small_and_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    image = source_info(IMAGE, affine=affine(SCALED))
    labels = Memory(
        rng.integers(0, 9, (1, 30, 80, 84), np.uint8), affine=affine(GRIDS["turned"] @ np.diag([0.25] * 3 + [1]))
    )
    regrid = regrid_between(labels.info, image)
    assert regrid is not None
    whole = read_regridded(labels, regrid, Window.whole(IMAGE[1:]))
    monkeypatch.setattr(regridded, "MAX_BLOCK_PX", 500)
    labels.largest_px = 0
    parts = read_regridded(labels, regrid, Window.whole(IMAGE[1:]))
    assert 0 < labels.largest_px <= 500
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1], whole[1])


def test_the_same_grid_is_read_as_it_is() -> None:
    image = source_info(IMAGE, affine=affine(SCALED))
    nearly = SCALED + np.array([[0, 0, 0, 1e-3], *[[0] * 4] * 3])
    assert regrid_between(source_info(IMAGE, affine=affine(nearly)), image) is None
    assert regrid_between(source_info(IMAGE), image) is None
    moved = regrid_between(source_info(IMAGE, affine=affine(GRIDS["moved by a third"])), image)
    assert moved is not None


def test_labels_beside_their_image_are_refused_with_both_extents() -> None:
    image = source_info(IMAGE, affine=affine(np.eye(4)))
    far = np.eye(4)
    far[0, 3] = 24
    labels = source_info(IMAGE, uri="far.nii", affine=affine(far))
    with pytest.raises(
        SourceError, match=r"far\.nii: the labels lie beside .* 23\.5\.\.47\.5, .* over -0\.5\.\.23\.5, "
    ):
        regrid_between(labels, image)


def test_an_affine_without_a_size_is_refused() -> None:
    image = source_info(IMAGE, affine=affine(SCALED))
    flat = source_info(IMAGE, uri="flat.nii", affine=affine(np.diag([1, 0, 1, 1])))
    with pytest.raises(SourceError, match=r"flat\.nii: its affine or transform has no size"):
        regrid_between(flat, image)


@pytest.mark.parametrize("shape", [(1, 5, 20, 24), (1, 6, 20, 23)])
def test_without_a_place_the_planes_must_be_equal(shape: tuple[int, ...]) -> None:
    with pytest.raises(SourceError, match=r"the mask has z .* px, its source z 6 x y 20 x x 24"):
        regrid_between(source_info(shape), source_info(IMAGE, affine=affine(SCALED)))


def test_one_plane_is_no_mask_of_a_volume() -> None:
    plane = source_info((1, 20, 24), ("c", "y", "x"))
    with pytest.raises(SourceError, match="the mask has y 20 x x 24 px, its source z 6 x y 20 x x 24"):
        regrid_between(plane, source_info(IMAGE))


def test_a_plane_of_a_volume_finds_its_labels(rng: np.random.Generator) -> None:
    place = SCALED.copy()
    place[2, 3] = 9.0  # the fourth plane
    image = source_info((1, 20, 24), ("c", "y", "x"), affine=affine(place))
    labels = Memory(rng.integers(0, 9, IMAGE, np.uint8), affine=affine(SCALED))
    regrid = regrid_between(labels.info, image)
    assert regrid is not None
    pixels, known = read_regridded(labels, regrid, Window.whole((20, 24)))
    assert known.all()
    np.testing.assert_array_equal(pixels[0], labels.pixels[0, 3])


def georef(epsg: int, *transform: float) -> Georef:
    from rasterio.crs import CRS

    return Georef(crs_wkt=CRS.from_epsg(epsg).to_wkt(), epsg=epsg, transform=transform)


YX = ("c", "y", "x")


def test_maps_are_laid_over_each_other_by_their_transforms(rng: np.random.Generator) -> None:
    image = source_info((3, 40, 50), YX, georef=georef(32631, 10, 0, 5e5, 0, -10, 4e6))
    pixels = rng.integers(0, 5, (1, 30, 20), np.uint8)
    labels = Memory(pixels, YX, georef=georef(32631, 20, 0, 5e5 + 105, 0, -20, 4e6 - 95))
    regrid = regrid_between(labels.info, image)
    assert regrid is not None
    found, known = read_regridded(labels, regrid, Window.whole((40, 50)))
    for y, x in itertools.product(range(40), range(50)):
        row, column = int(((y + 0.5) * 10 - 95) // 20), int(((x + 0.5) * 10 - 105) // 20)
        inside = 0 <= row < 30 and 0 <= column < 20
        assert known[y, x] == inside
        if inside:
            assert found[0, y, x] == pixels[0, row, column]


def test_maps_of_two_crs_are_refused_with_both() -> None:
    image = source_info((3, 40, 50), YX, georef=georef(32631, 10, 0, 5e5, 0, -10, 4e6))
    labels = source_info((1, 40, 50), YX, uri="m.tif", georef=georef(32632, 10, 0, 5e5, 0, -10, 4e6))
    with pytest.raises(SourceError, match=r"m\.tif: the mask is in EPSG:32632, its source in EPSG:32631; warp it"):
        regrid_between(labels, image)
