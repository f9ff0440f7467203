"""NRRD: values and geometry against pynrrd and closed forms; a header opens no other file than its own data."""

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, companions, open_source
from segcore.sources.stamps import stamp

nrrd = pytest.importorskip("nrrd")

RNG = np.random.default_rng(9)
DIRECTIONS = np.array([[0.5, 0, 0], [0, 0, -2.0], [0, 3.0, 0]])
PLACED = {"space": "left-posterior-superior", "space directions": DIRECTIONS, "space origin": [10.0, 20.0, 30.0]}
"""x runs to the left, y down, z to the back."""
NONE = np.full((1, 3), np.nan)


def save(path: Path, pixels: Any, **fields: Any) -> str:
    header = {key.replace("_", " "): value for key, value in fields.items()}
    nrrd.write(str(path), pixels, header, compression_level=1)
    return str(path)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", "u2", "i4", "u4", ">f4", "f8"])
def test_values_are_those_of_pynrrd(tmp_path: Path, assert_reads: Any, dtype: str, name: str, encoding: str) -> None:
    pixels = RNG.integers(0, 99, (7, 6, 5)).astype(dtype)
    path = save(tmp_path / name, pixels, encoding=encoding)
    with open_source(path) as source:
        assert source.info.axes == ("c", "z", "y", "x")
        expected, _ = nrrd.read(path)
        assert_reads(source, expected.T[None].astype(np.dtype(dtype).newbyteorder("=")))


@pytest.mark.parametrize(
    ("space", "flips"),
    [("left-posterior-superior", (-1, -1, 1)), ("LAS", (-1, 1, 1)), ("right-anterior-superior", (1, 1, 1))],
)
def test_the_affine_is_in_ras(tmp_path: Path, space: str, flips: tuple[int, ...]) -> None:
    with open_source(save(tmp_path / "a.nrrd", np.zeros((4, 5, 6), np.uint8), **(PLACED | {"space": space}))) as source:
        affine, spacing = source.info.affine, source.info.spacing
        assert affine is not None
        for index in ((0, 0, 0), (1, 2, 3)):
            place = (np.array(affine.matrix) @ [*index, 1])[:3]
            np.testing.assert_allclose(place, np.array(flips) * (index @ DIRECTIONS + [10, 20, 30]))
        assert spacing is not None
        assert spacing.values == {"x": 0.5, "y": 2.0, "z": 3.0}
        if space == "left-posterior-superior":
            assert affine.orientation == "LIP"


@pytest.mark.parametrize("at", [0, 3])
def test_an_axis_that_is_not_in_space_is_channels(tmp_path: Path, assert_reads: Any, at: int) -> None:
    pixels = RNG.integers(0, 255, (3, 6, 5, 4) if at == 0 else (6, 5, 4, 3), dtype=np.uint8)
    rows = np.insert(DIRECTIONS, at, NONE, axis=0)
    kinds = ["domain"] * 4
    kinds[at] = "RGB-color" if at == 0 else "list"
    with open_source(save(tmp_path / "a.nrrd", pixels, **(PLACED | {"space directions": rows}), kinds=kinds)) as source:
        assert source.info.channels[0] == ("red" if at == 0 else "channel 0")
        assert source.info.affine is not None
        assert source.info.affine.orientation == "LIP"
        assert_reads(source, np.moveaxis(pixels, at, 3).T)


def test_a_picture_and_a_volume_of_one_slice(tmp_path: Path, assert_reads: Any) -> None:
    picture = RNG.integers(0, 255, (6, 5), dtype=np.uint8)
    with open_source(save(tmp_path / "a.nrrd", picture)) as source:
        assert (source.info.axes, source.info.affine, source.info.spacing) == (("c", "y", "x"), None, None)
        assert_reads(source, picture.T[None])
    with open_source(save(tmp_path / "b.nrrd", picture[..., None], **PLACED)) as source:
        assert source.info.affine is not None
        assert_reads(source, picture.T[None])


def test_a_space_that_is_not_the_patients_has_spacing_alone(tmp_path: Path) -> None:
    given = PLACED | {"space": "scanner-xyz", "space_units": ["cm", "cm", "cm"]}
    with open_source(save(tmp_path / "a.nrrd", np.zeros((4, 5, 6), np.uint8), **given)) as source:
        assert source.info.affine is None
        assert source.info.spacing is not None
        assert source.info.spacing.values == {"x": 5.0, "y": 20.0, "z": 30.0}
    plain = save(tmp_path / "b.nrrd", np.zeros((4, 5, 6), np.uint8), spacings=[1.0, 2.0, 3.0], units=["mm"] * 3)
    with open_source(plain) as source:
        assert source.info.spacing is not None
        assert source.info.spacing.values == {"x": 1.0, "y": 2.0, "z": 3.0}


def test_byte_skip_of_minus_one_counts_from_the_end(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 255, (6, 5, 4), dtype=np.uint8)
    (tmp_path / "a.nhdr").write_text(
        "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nbyte skip: -1\ndata file: a.raw\n"
    )
    (tmp_path / "a.raw").write_bytes(b"some header" + pixels.T.tobytes())
    with open_source(str(tmp_path / "a.nhdr")) as source:
        assert_reads(source, pixels.T[None])


def test_urls_find_their_data_file_too(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 255, (6, 5, 4), dtype=np.uint8)
    save(tmp_path / "a.nhdr", pixels, encoding="gzip")
    for found in tmp_path.iterdir():
        fsspec.filesystem("memory").pipe(f"/nrrd/{found.name}", found.read_bytes())
    with open_source("memory://nrrd/a.nhdr") as source:
        assert_reads(source, pixels.T[None])


def test_other_fields_are_not_kept(tmp_path: Path) -> None:
    made = save(tmp_path / "a.nrrd", np.zeros((4, 5, 6), np.uint8), content="DOE^JANE", PatientName="DOE^JANE")
    with open_source(made) as source:
        assert "DOE" not in source.info.model_dump_json()


HEADER = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 6 5 4\nencoding: raw\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER, "asks for 182 bytes, the file has 62"),
        (HEADER.replace("6 5 4", "99999999 99999999 2"), "over the limit max_px"),
        (HEADER.replace("6 5 4", "6 0 4"), "no pixels"),
        (HEADER.replace("6 5 4", "6 5"), "another number of sizes"),
        (HEADER.replace("raw", "hex"), "encoding 'hex' is not read"),
        (HEADER.replace("uchar", "block"), "type 'block' are not read"),
        (HEADER.replace("uchar", "short"), "does not say the byte order"),
        (HEADER.replace("type", "tipe"), "no field 'type'"),
        (HEADER.replace("3\nsizes: 6 5 4", "4\nsizes: 6 5 4 3"), "name them in the field 'kinds'"),
        (HEADER.replace("raw", "gzip"), "which 63 packed bytes cannot hold"),
        (HEADER.replace("raw", "gzip") + "\nno gzip", "Not a gzipped file"),
        (HEADER.replace("raw", "bz2") + "\nno bzip2", "Invalid data stream"),
        (HEADER + "data file: ../../etc/passwd\n", "must lie beside it"),
        (HEADER + "data file: /etc/passwd\n", "must lie beside it"),
        (HEADER + "data file: ..\n", "must lie beside it"),
        (HEADER + "data file: https://host/a.raw\n", "must lie beside it"),
        (HEADER + "data file: LIST\n", "several files"),
        (HEADER + "data file: a%03d.raw 1 9 1\n", "several files"),
        (HEADER + "line skip: 3\n", "skipped lines"),
        (HEADER + "byte skip: -2\n", "damaged"),
        (HEADER + "nonsense\n", "damaged"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.nrrd"
    path.write_text(text + "\n")
    with pytest.raises(SourceError, match=said) as caught, open_source(str(path)) as source:
        source.read(Window.whole(source.info.shape))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_header_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n" + b"# nothing\n" * 1000)
    with pytest.raises(SourceError, match="over the limit max_metadata_bytes = 5000"):
        open_source(str(tmp_path / "a.nrrd"), Opening(limits=Limits(max_metadata_bytes=5000)))


def test_the_data_file_of_a_detached_header_belongs_to_it(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "v.nhdr"), np.zeros((4, 5, 6), np.uint8), {"encoding": "raw"}, detached_header=True)
    (data,) = companions(str(tmp_path / "v.nhdr"))
    assert data == str(tmp_path / "v.raw")
    before = stamp(str(tmp_path / "v.nhdr"))
    (tmp_path / "v.raw").write_bytes(b"\1" * 120)
    assert stamp(str(tmp_path / "v.nhdr")) != before
