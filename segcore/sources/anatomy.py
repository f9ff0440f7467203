"""Anatomy: from the geometry in a volume's header to `Affine` (RAS millimetres) and `Spacing`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.spatial import Affine, Spacing

Matrix = npt.NDArray[np.float64]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's and ITK's patient coordinates run to the left and to the back, NIfTI's to the right and to the front."""

LETTERS = ("LR", "PA", "IS")
"""Per patient axis of RAS: where it comes from, where it goes to."""


def affine_of(matrix: Matrix) -> Affine | None:
    """The affine of a matrix 4 x 4 over (x, y, z), in RAS mm; None where it maps no volume (singular, not finite)."""
    if not _is_usable(matrix):
        return None
    return Affine.model_validate({"matrix": matrix.tolist(), "orientation": orientation(matrix)})


def _is_usable(matrix: Matrix) -> bool:
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (np.isfinite(matrix).all() and (lengths > 0).all()):
        return False
    return bool(abs(np.linalg.det(matrix[:3, :3] / lengths)) > 1e-6)


def orientation(matrix: Matrix) -> str:
    """The direction in which each array axis (x, y, z) runs, as a letter: the patient axis it is closest to.

    An oblique volume is turned to the nearest rotation first (polar decomposition), as nibabel does; then the axes
    choose in the order of their clearness, so that no patient axis is taken twice.
    """
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    left, _, right = np.linalg.svd(directions)
    nearest = left @ right
    letters = [""] * 3
    strength = np.abs(nearest)
    for _ in range(3):
        world, axis = (int(i) for i in np.unravel_index(np.argmax(strength), strength.shape))
        letters[axis] = LETTERS[world][int(nearest[world, axis] > 0)]
        strength[world], strength[:, axis] = -1, -1
    return "".join(letters)


def spacing_of(sides: Sequence[float] | Matrix, axes: tuple[str, ...]) -> Spacing | None:
    """Millimetres per voxel of (x, y, z...), as far as the image has these axes; None if one of them is no length."""
    named = {axis: float(side) for axis, side in zip("xyz", sides, strict=False)}
    values = {axis: named[axis] for axis in ("z", "y", "x") if axis in axes}
    if not all(np.isfinite(value) and value > 0 for value in values.values()):
        return None
    return Spacing(values=values, unit="millimeter", origin="file")


def sides_of(affine: Affine) -> list[float]:
    """Length of a voxel along x, y and z, in mm."""
    return [float(side) for side in np.linalg.norm(np.array(affine.matrix)[:3, :3], axis=0)]


def matrix_of(columns: Sequence[Any], origin: Any) -> Matrix:
    """4 x 4 from the steps along x, y and z and the place of the first voxel."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    matrix[:3, 3] = origin
    return matrix
