"""NIfTI: voxels, geometry and scaling against nibabel; hostile headers cost nothing."""

import gzip
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, open_source

nibabel = pytest.importorskip("nibabel")

RNG = np.random.default_rng(8)
AFFINE = np.array([[0, 0, 3, -10], [-0.8, 0, 0, 20], [0, 0.7, 0, 30], [0, 0, 0, 1.0]])

REAL = {
    "msd_spleen_ct/sub-spleen2_ct.nii.gz": ("float32", "RAS"),
    "msd_spleen_ct/sub-spleen2_ct_seg-manual.nii.gz": ("uint8", "RAS"),
    "sct_t2_cord/t2.nii.gz": ("int16", "PSR"),
    "sct_t2_cord/t2_seg-manual.nii.gz": ("uint8", "PSR"),
    "totalseg_pseudolabel/example_ct_sm.nii.gz": ("int16", "RAS"),
    "totalseg_pseudolabel/example_seg.nii.gz": ("uint8", "RAS"),
    "misc/anatomical_bigendian.nii": ("int16", "LAS"),
    "misc/example4d.nii.gz": ("int16", "LAS"),
}


def save(path: Path, pixels: Any, version: type = nibabel.Nifti1Image, **fields: Any) -> str:
    made = version(pixels, fields.pop("affine", AFFINE), dtype=pixels.dtype)
    made.header.set_xyzt_units(fields.pop("unit", "mm"))
    made.header.set_slope_inter(*fields.pop("scaling", (1, 0)))
    for name, value in fields.items():
        made.header[name] = value
    nibabel.save(made, path)
    return str(path)


def oracle(path: str) -> np.ndarray:
    """(c, z, y, x) as nibabel has it."""
    pixels = np.asarray(nibabel.load(path).dataobj)
    return pixels.reshape(*pixels.shape, *[1] * (4 - pixels.ndim)).T


@pytest.mark.parametrize("name", REAL)
def test_real_volumes_are_read_as_nibabel_reads_them(data_dir: Path, name: str, assert_reads: Any) -> None:
    path = str(data_dir / "nifti" / name)
    dtype, letters = REAL[name]
    with open_source(path) as source:
        assert (source.info.reader, source.info.dtype) == ("nifti", dtype)
        assert source.info.affine is not None
        assert source.info.affine.orientation == letters
        np.testing.assert_allclose(source.info.affine.matrix, nibabel.load(path).affine, rtol=1e-6)
        assert source.info.spacing is not None
        assert source.info.spacing.unit == "millimeter"
        sides = [source.info.spacing.values[axis] for axis in "xyz"]
        np.testing.assert_allclose(sides, nibabel.load(path).header.get_zooms()[:3], rtol=1e-5)
        assert_reads(source, oracle(path))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", "u2", ">i4", "u4", ">f4", "f8"])
def test_types_versions_and_byte_orders(
    tmp_path: Path, assert_reads: Any, dtype: str, version: type, name: str
) -> None:
    pixels = RNG.integers(0, 100, (7, 6, 5)).astype(dtype)
    path = tmp_path / name
    header = version.header_class(endianness=dtype[0] if dtype[0] == ">" else "<")
    nibabel.save(version(pixels, AFFINE, header, dtype=pixels.dtype), path)
    with open_source(str(path)) as source:
        assert source.info.dtype == np.dtype(dtype).name
        assert source.info.details["stored"] == np.dtype(dtype).str
        assert_reads(source, oracle(str(path)).astype(np.dtype(dtype).newbyteorder("=")))


def test_scaling_gives_floats_as_nibabel_scales(tmp_path: Path, assert_reads: Any) -> None:
    path = save(tmp_path / "a.nii.gz", RNG.integers(-999, 999, (9, 8, 7)).astype("i2"), scl_slope=0.3, scl_inter=-7.1)
    header = bytearray(gzip.decompress(Path(path).read_bytes()))
    header[112:120] = np.array([0.3, -7.1], "<f4").tobytes()  # nibabel sets its own while it saves
    Path(path).write_bytes(gzip.compress(bytes(header)))
    assert nibabel.load(path).dataobj.slope == pytest.approx(0.3)
    with open_source(path) as source:
        assert source.info.details["scaled"]
        assert_reads(source, oracle(path).astype(np.float32))


def test_of_four_axes_the_last_is_channels_and_a_member_is_one_of_them(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 255, (6, 5, 4, 3), dtype=np.uint8)
    path = save(tmp_path / "bold.nii.gz", pixels)
    with open_source(path) as source:
        assert source.info.axes == ("c", "z", "y", "x")
        assert source.info.channels == ("volume 0", "volume 1", "volume 2")
        assert_reads(source, pixels.T)
    with open_source(f"{path}::2") as source:
        assert source.info.channels == ("grey",)
        assert_reads(source, pixels.T[2:])
    for wrong in ("3", "x", "-1"):
        with pytest.raises(SourceError, match="expected the number of a volume, 0 to 2"):
            open_source(f"{path}::{wrong}")


def test_shapes_of_other_dimensions(tmp_path: Path, assert_reads: Any) -> None:
    picture = RNG.integers(0, 255, (6, 5), dtype=np.uint8)
    with open_source(save(tmp_path / "flat.nii", picture)) as source:
        assert source.info.axes == ("c", "y", "x")
        assert source.info.affine is not None
        assert_reads(source, picture.T[None])
    field = RNG.normal(size=(6, 5, 4, 1, 3)).astype("f4")
    with open_source(save(tmp_path / "vectors.nii", field)) as source:
        assert_reads(source, field[:, :, :, 0].T)
    with pytest.raises(SourceError, match="one axis of channels, got 2 x 2 x 2 x 2 x 2"):
        open_source(save(tmp_path / "five.nii", np.zeros((2, 2, 2, 2, 2), np.uint8)))


def test_colours_are_channels(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 255, (6, 5, 4, 3), dtype=np.uint8)
    packed = pixels.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    with open_source(save(tmp_path / "rgb.nii", packed)) as source:
        assert source.info.channels == ("red", "green", "blue")
        assert_reads(source, pixels.transpose(3, 2, 1, 0))


def test_wide_integers_are_read_where_they_fit(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 9, (6, 5, 4)).astype("i8")
    with open_source(save(tmp_path / "labels.nii", pixels)) as source:
        assert_reads(source, pixels.T[None].astype("i4"))
    pixels[1, 2, 3] = 2**40
    path = save(tmp_path / "wide.nii", pixels)
    with open_source(path) as source, pytest.raises(SourceError, match="1099511627776 does not fit"):
        source.read(Window.whole(source.info.shape))
    with pytest.raises(SourceError, match="pixels of type complex64 are not read"):
        open_source(save(tmp_path / "complex.nii", np.zeros((3, 3, 3), "c8")))


def test_units_become_millimetres(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    for unit, factor in (("micron", 1e-3), ("meter", 1e3), ("mm", 1.0)):
        with open_source(save(tmp_path / f"{unit}.nii", pixels, unit=unit)) as source:
            assert source.info.affine is not None
            np.testing.assert_allclose(np.array(source.info.affine.matrix)[:3], AFFINE[:3] * factor, rtol=1e-6)
            assert source.info.spacing is not None
            assert source.info.spacing.values["z"] == pytest.approx(3 * factor)


def test_a_file_that_does_not_tell_its_place_has_spacing_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((4, 4, 4), np.uint8), affine=np.diag([2.0, 3, 4, 1]))
    content = bytearray(Path(path).read_bytes())
    content[252:256] = bytes(4)  # qform_code, sform_code
    Path(path).write_bytes(content)
    with open_source(path) as source:
        assert source.info.affine is None
        assert source.info.spacing is not None
        assert source.info.spacing.values == {"z": 4.0, "y": 3.0, "x": 2.0}
        assert "neither sform nor qform" in source.info.details["note"]


def test_qform_alone_is_used_even_where_its_handedness_is_zero(tmp_path: Path) -> None:
    turned = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), None)
    turned.set_qform(AFFINE, 1)
    turned.set_sform(None, 0)
    nibabel.save(turned, tmp_path / "q.nii")
    with open_source(str(tmp_path / "q.nii")) as source:
        assert source.info.affine is not None
        np.testing.assert_allclose(source.info.affine.matrix, AFFINE, atol=1e-5)


def test_a_rounded_rotation_is_used_and_one_that_is_none_is_said(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 9, (4, 5, 6), np.int16)
    made = nibabel.Nifti1Image(pixels, np.diag([2, 2, 3, 1]))
    made.set_qform(np.diag([2, 2, 3, 1]), 1)
    made.header["sform_code"] = 0
    header = made.header
    for case, changes in {
        "rounded": {"quatern_b": 0.7072, "quatern_c": 0.7072},
        "long": {"quatern_b": 1.2},
        "negative": {"quatern_b": 0, "quatern_c": 0, "pixdim": [1, -2, 2, 3, 0, 0, 0, 0]},
    }.items():
        for name, value in changes.items():
            header[name] = value
        path = tmp_path / f"{case}.nii"
        path.write_bytes(header.binaryblock + bytes(4) + pixels.tobytes(order="F"))
        content = bytearray(path.read_bytes())
        content[108:112], content[344:348] = np.float32(352).tobytes(), b"n+1\0"
        path.write_bytes(content)
        with open_source(str(path)) as source:
            np.testing.assert_array_equal(source.read(Window.whole(source.info.shape))[0], pixels.T)
            if case == "rounded":
                assert source.info.affine is not None
                turned = np.array([[0, 2, 0], [2, 0, 0], [0, 0, -3]])
                np.testing.assert_allclose(np.array(source.info.affine.matrix)[:3, :3], turned, atol=1e-3)
            else:
                assert source.info.affine is None
                assert "its qform maps no volume" in source.info.details["note"]


def test_no_extension_of_the_header_is_kept(tmp_path: Path) -> None:
    made = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), AFFINE)
    made.header["descrip"] = b"JANE DOE"
    made.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nibabel.save(made, tmp_path / "a.nii.gz")
    with open_source(str(tmp_path / "a.nii.gz")) as source:
        assert "DOE" not in source.info.model_dump_json()
        assert (source.read(Window.whole((1, 4, 4, 4))) == 1).all()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_url_is_read_like_a_file(tmp_path: Path, assert_reads: Any, name: str) -> None:
    pixels = RNG.integers(0, 255, (6, 5, 4), dtype=np.uint8)
    fsspec.filesystem("memory").pipe(f"/nifti/{name}", Path(save(tmp_path / name, pixels)).read_bytes())
    with open_source(f"memory://nifti/{name}") as source:
        assert_reads(source, pixels.T[None])


def test_a_header_alone_costs_nothing(data_dir: Path) -> None:
    with pytest.raises(SourceError, match=r"asks for 70362301923678 bytes, the file has 352"):
        open_source(str(data_dir / "corrupt" / "huge_dims_header_only.nii"))


def test_a_packed_header_alone_costs_nothing(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "huge.nii.gz"
    path.write_bytes(gzip.compress((data_dir / "corrupt" / "huge_dims_header_only.nii").read_bytes()))
    with pytest.raises(SourceError, match="packed bytes cannot hold"):
        open_source(str(path))


def test_limits_come_before_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((10, 9, 8, 3), np.uint8))
    for name, limit in (("max_px", 89), ("max_channels", 2), ("max_pages", 7), ("max_download_bytes", 2000)):
        with pytest.raises(SourceError, match=f"over the limit {name} = {limit}"):
            open_source(path, Opening(limits=Limits.model_validate({name: limit})))


def test_what_is_cut_off_is_said(data_dir: Path, tmp_path: Path) -> None:
    with (
        open_source(str(data_dir / "corrupt" / "truncated_ct.nii.gz")) as source,
        pytest.raises(SourceError, match="the packed file ends early"),
    ):
        source.read(Window((0, 0, 0, 0), (1, 1, 1, 1)))
    path = Path(save(tmp_path / "a.nii", np.zeros((10, 9, 8), np.uint8)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(SourceError, match="asks for 1072 bytes, the file has 1071"):
        open_source(str(path))
    path.write_bytes(whole[:348])
    with pytest.raises(SourceError, match="cut off"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (40, np.int16(9), "cannot be read|damaged"),
        (42, np.int16(-3), "no pixels"),
        (70, np.int16(9999), "KeyError: 9999"),
        (108, np.float32(np.nan), "cannot begin at byte nan"),
        (108, np.float32(12), "cannot begin at byte 12"),
        (112, np.float32(np.inf), "scl|scaling|slope"),
    ],
    ids=["dimensions", "negative", "type", "offset", "early", "slope"],
)
def test_damaged_headers_are_one_line(tmp_path: Path, at: int, value: Any, said: str) -> None:
    path = Path(save(tmp_path / "a.nii", np.zeros((10, 9, 8), np.uint8)))
    content = bytearray(path.read_bytes())
    if at == 112:
        content[112:120] = np.array([1, value], "<f4").tobytes()
    else:
        content[at : at + value.nbytes] = value.tobytes()
    path.write_bytes(content)
    with pytest.raises(SourceError, match=said) as caught:
        open_source(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_pairs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 4, 4), np.uint8), AFFINE), tmp_path / "a.hdr")
    with pytest.raises(SourceError, match=r"pair of files .* save it as one file"):
        open_source(str(tmp_path / "a.hdr"))
