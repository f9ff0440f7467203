"""NIfTI-1 and -2 (.nii, .nii.gz): the header through nibabel (extra `volumes`), the voxels in windows.

The array is taken as it is stored: index (i, j, k) of the file is (x, y, z), so that the image's axes (c, z, y, x) are
its transpose. Nothing is turned to another orientation; `info.affine` says which way the axes run. The fourth axis, or
in vector images the fifth, is the channels. Source: NIfTI-1 and NIfTI-2 data format (nifti1.h, nifti2.h).
"""

import math
from typing import Any

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources.anatomy import Matrix, affine_of, sides_of, spacing_of
from segcore.sources.base import (
    Format,
    Limits,
    Opening,
    Pixels,
    Reader,
    Source,
    SourceInfo,
    check_shape,
    default_channels,
)
from segcore.sources.files import GZIP, SourceFile
from segcore.sources.raw import NARROWED, Layout, RawArray, check_size, narrowed

HEADER_BYTES = {b"n+1\0": (344, 348), b"n+2\0": (4, 540)}
"""Magic: where it stands, and how long its header is."""

UNITS_MM = {1: 1e3, 2: 1.0, 3: 1e-3}
"""xyzt_units, lower three bits: metres, millimetres, micrometres. 0 says nothing; then millimetres are meant."""

QUATERNION_TOLERANCE = 1e-3
"""By which a quaternion may be longer than 1: some writers round theirs."""

COLORS = ("red", "green", "blue", "alpha")


class NiftiSource(Source):
    """A volume; of several, all as channels, or the one that the member names."""

    def __init__(self, file: SourceFile, limits: Limits) -> None:
        self.uri = file.uri
        nibabel, header = _header(file)
        dtype = header.get_data_dtype()
        self._slope, self._inter = _scaling(header, dtype)
        shape, axes = _shape(file, header, dtype)
        stored = np.dtype("uint8") if dtype.fields else dtype
        result = np.dtype(self._result(stored))
        check_shape(file.uri, axes, shape, result, limits)
        layout = _layout(file, header, axes, shape, stored)
        check_size(file.uri, layout, file.num_bytes, limits)
        layout, shape = _picked(file, layout, axes, shape)
        self._array = RawArray(file, layout, axes)
        matrix, details = _matrix(header)
        affine = None if matrix is None else affine_of(matrix)
        zooms = [*(float(zoom) for zoom in header.get_zooms()), 1.0, 1.0][:3]
        mm = details.pop("mm")
        channels = COLORS[: shape[0]] if dtype.fields else _names(shape[0])
        self.info = SourceInfo(
            uri=file.uri,
            reader="nifti",
            reader_version=f"nibabel {nibabel.__version__}",
            axes=axes,
            shape=shape,
            dtype=result.name,
            channels=channels,
            spacing=spacing_of(sides_of(affine) if affine else [zoom * mm for zoom in zooms], axes),
            affine=affine,
            num_bytes=file.num_bytes,
            details=details | {"stored": stored.str, "scaled": self._slope is not None},
        )

    def _result(self, stored: np.dtype[Any]) -> str:
        """float32 where values are scaled; else the stored type, or the one that holds it."""
        if self._slope is not None:
            return "float32"
        return NARROWED.get(stored.name, "float64" if stored.itemsize > 8 else stored.name)

    def _read(self, window: Window) -> Pixels:
        pixels = self._array.read(window)
        if self._slope is not None:
            return np.asarray(pixels * np.float64(self._slope) + np.float64(self._inter), dtype=np.float32)
        if pixels.dtype.name in NARROWED:
            return narrowed(pixels, self.info.dtype)
        return pixels.astype(self.info.dtype, copy=False)

    def close(self) -> None:
        self._array.close()


def _header(file: SourceFile) -> tuple[Any, Any]:
    """nibabel, and its header of this file; without the extensions, which can hold patient data."""
    try:
        import nibabel
    except ImportError as error:
        raise SourceError(f"{file.uri}: NIfTI needs the extra `volumes`: pip install 'segcore[volumes]'") from error
    magic, length = _kind(file) or (b"", 0)
    block = file.inner_head[:length]
    if len(block) < length:
        raise SourceError(f"{file.uri}: the file ends within its header of {length} bytes; it is cut off")
    make: Any = nibabel.Nifti1Header if magic == b"n+1\0" else nibabel.Nifti2Header
    header = make(block, check=False)
    if not 1 <= int(header["dim"][0]) <= 7:
        raise SourceError(f"{file.uri}: its header is damaged; expected 1 to 7 axes, got {int(header['dim'][0])}")
    return nibabel, header


def _kind(file: SourceFile) -> tuple[bytes, int] | None:
    """Magic and length of the header; None if this is no NIfTI of one file."""
    for magic, (offset, length) in HEADER_BYTES.items():
        if file.inner_head[offset : offset + 4] == magic:
            return magic, length
    return None


def _scaling(header: Any, dtype: np.dtype[Any]) -> tuple[float | None, float]:
    """Slope and intercept; no slope where values are as they are stored."""
    slope, inter = (None, None) if dtype.fields else header.get_slope_inter()
    if slope is None or (slope == 1 and not inter):
        return None, 0.0
    return float(slope), float(inter or 0.0)


def _shape(file: SourceFile, header: Any, dtype: np.dtype[Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Shape and axes of the image."""
    sides = [int(n) for n in header.get_data_shape()]
    x, y, z, *more = [*sides, 1, 1, 1][: max(3, len(sides))]
    volumes = [n for n in more if n != 1]
    if len(volumes) > 1 or (volumes and dtype.fields):
        said = " x ".join(map(str, sides))
        raise SourceError(f"{file.uri}: expected x, y, z and one axis of channels, got {said}; split it into volumes")
    channels = len(dtype.fields) if dtype.fields else math.prod(volumes)
    if z == 1:
        return (channels, y, x), ("c", "y", "x")
    return (channels, z, y, x), ("c", "z", "y", "x")


def _layout(
    file: SourceFile, header: Any, axes: tuple[str, ...], shape: tuple[int, ...], stored: np.dtype[Any]
) -> Layout:
    """Where the voxels lie: x is the fastest; only colours stand closer together."""
    offset = float(header["vox_offset"])
    _, length = _kind(file) or (b"", 0)
    offset = offset or float(length + 4)
    if not (math.isfinite(offset) and length <= offset == int(offset) and offset < 2**62):
        raise SourceError(f"{file.uri}: its header is damaged: the voxels cannot begin at byte {offset:g}")
    if header.get_data_dtype().fields:
        axes, shape = (*axes[1:], "c"), (*shape[1:], shape[0])
    return Layout(axes, shape, stored, int(offset), "gzip" if file.head.startswith(GZIP) else "plain")


def _picked(
    file: SourceFile, layout: Layout, axes: tuple[str, ...], shape: tuple[int, ...]
) -> tuple[Layout, tuple[int, ...]]:
    """The volume that the member names; all of them without one."""
    if file.member is None:
        return layout, shape
    if layout.axes[0] != "c" or not file.member.isdecimal() or int(file.member) >= shape[0]:
        raise SourceError(f"{file.uri}: expected the number of a volume, 0 to {shape[0] - 1}, behind ::")
    one = (1, *shape[1:])
    offset = layout.offset + int(file.member) * math.prod(one) * layout.dtype.itemsize
    return Layout(axes, one, layout.dtype, offset, layout.codec), one


def _names(count: int) -> tuple[str, ...]:
    """Channel names: three volumes are no colours."""
    return default_channels(1) if count == 1 else tuple(f"volume {i}" for i in range(count))


def _matrix(header: Any) -> tuple[np.ndarray[Any, Any] | None, dict[str, Any]]:
    """Matrix to RAS mm from sform, else qform; and what `inspect` shows, with the factor to mm."""
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # the standard reads all else as 1; nibabel refuses it
    code = int(header["xyzt_units"]) & 7
    mm = UNITS_MM.get(code, 1.0)
    details: dict[str, Any] = {"kind": "NIfTI", "mm": mm}
    if code not in UNITS_MM:
        details["unit"] = "not given, taken as mm"
    if int(header["sform_code"]) > 0:
        matrix, details["geometry"], details["space_code"] = header.get_sform(), "sform", int(header["sform_code"])
    elif int(header["qform_code"]) > 0:
        matrix, details["geometry"], details["space_code"] = _qform(header), "qform", int(header["qform_code"])
    else:
        details["note"] = "neither sform nor qform: the file does not say how the volume lies in the patient"
        return None, details
    scaled = np.array(matrix, dtype=np.float64)
    scaled[:3] *= mm
    if affine_of(scaled) is None:
        details["note"] = f"its {details['geometry']} maps no volume (singular, or no rotation) and is not used"
    return scaled, details


def _qform(header: Any) -> Matrix:
    """The qform; of a rotation that is none, or of negative steps, NaN: which of them is wrong, nothing tells."""
    rotation = np.array([header[f"quatern_{part}"] for part in "bcd"], dtype=np.float64)
    length = float(np.linalg.norm(rotation))
    if length > 1 + QUATERNION_TOLERANCE or (header["pixdim"][1:4] < 0).any():
        return np.full((4, 4), np.nan)
    if length > 1:
        for part, value in zip("bcd", rotation / length, strict=True):
            header[f"quatern_{part}"] = value
    return np.asarray(header.get_qform())


def _open(file: SourceFile, opening: Opening) -> Source:
    return NiftiSource(file, opening.limits)


READER = Reader(
    name="NIfTI",
    rank=14,
    matches=lambda file: not file.is_folder and _kind(file) is not None,
    open=_open,
    formats=(
        Format(
            "NIfTI-1, NIfTI-2",
            (".nii", ".nii.gz"),
            "3-D; of 4-D files the volumes are channels, `::2` is the third; pairs (.hdr, .img) are refused",
        ),
    ),
    extra="volumes",
)
