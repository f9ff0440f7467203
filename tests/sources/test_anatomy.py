"""Anatomy: orientation letters and sides against nibabel."""

import numpy as np
import pytest

from segcore.sources.anatomy import affine_of, matrix_of, sides_of, spacing_of

nibabel = pytest.importorskip("nibabel")


def test_letters_and_sides_are_those_of_nibabel_also_of_oblique_and_sheared_volumes() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        matrix = np.eye(4)
        matrix[:3, :3] = rng.normal(size=(3, 3)) * rng.uniform(0.2, 5, 3)
        matrix[:3, 3] = rng.normal(size=3) * 100
        affine = affine_of(matrix)
        assert affine is not None
        assert tuple(affine.orientation) == nibabel.aff2axcodes(matrix)
        np.testing.assert_allclose(sides_of(affine), nibabel.affines.voxel_sizes(matrix))
        assert np.array_equal(affine.matrix, matrix)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1.0, 1.0, 0.0, 1.0])])
def test_a_matrix_that_maps_no_volume_is_none(wrong: np.ndarray) -> None:
    assert affine_of(wrong) is None


def test_columns_that_lie_in_one_plane_map_no_volume() -> None:
    assert affine_of(matrix_of([(1, 0, 0), (0, 1, 0), (1, 1, 0)], (0, 0, 0))) is None


def test_spacing_has_the_axes_of_the_image_and_only_lengths() -> None:
    spacing = spacing_of([1.0, 2.0, 3.0], ("c", "y", "x"))
    assert spacing is not None
    assert spacing.values == {"y": 2.0, "x": 1.0}
    assert spacing.unit == "millimeter"
    assert spacing_of([1.0, -2.0, 3.0], ("c", "z", "y", "x")) is None
    assert spacing_of([1.0, 2.0, float("nan")], ("c", "z", "y", "x")) is None
