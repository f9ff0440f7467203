"""NPY and NPZ against NumPy's own arrays; hostile headers and archives."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, open_source

RNG = np.random.default_rng(2)
VOLUME = RNG.integers(0, 60000, (9, 40, 50)).astype(np.uint16)


@pytest.mark.parametrize("stored", [VOLUME, np.asfortranarray(VOLUME), VOLUME.astype(">u2")], ids=["C", "F", "big"])
def test_every_order_of_axes_and_bytes(tmp_path: Path, assert_reads: Any, stored: Any) -> None:
    np.save(tmp_path / "a.npy", stored)
    with open_source(str(tmp_path / "a.npy")) as source:
        assert (source.info.reader, source.info.axes) == ("npy", ("c", "z", "y", "x"))
        assert source.info.details["axes_from"] == "guessed"
        assert_reads(source, VOLUME[np.newaxis])


def test_axes_as_the_user_says(tmp_path: Path, assert_reads: Any) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    with open_source(str(tmp_path / "a.npy"), Opening(axes="tyx")) as source:
        assert (source.info.axes, source.info.details["axes_from"]) == (("t", "c", "y", "x"), "given")
        assert_reads(source, VOLUME[:, np.newaxis])


def test_bool_and_half(tmp_path: Path, assert_reads: Any) -> None:
    np.save(tmp_path / "bool.npy", VOLUME[0] > 30000)
    with open_source(str(tmp_path / "bool.npy")) as source:
        assert_reads(source, (VOLUME[:1] > 30000).astype(np.uint8))
    np.save(tmp_path / "half.npy", VOLUME[0].astype(np.float16))
    with open_source(str(tmp_path / "half.npy")) as source:
        assert_reads(source, VOLUME[:1].astype(np.float16).astype(np.float32))


def test_64_bits_that_do_not_fit_fail_where_they_are_read(tmp_path: Path) -> None:
    wide = np.zeros((40, 50), np.int64)
    wide[30, 30] = 2**40
    np.save(tmp_path / "wide.npy", wide)
    with open_source(str(tmp_path / "wide.npy")) as source:
        assert source.info.dtype == "int32"
        assert not source.read(Window((0, 0, 0), (1, 20, 20))).any()
        with pytest.raises(SourceError, match="to 1099511627776"):
            source.read(Window((0, 0, 0), (1, 40, 50)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_members_of_an_archive(tmp_path: Path, assert_reads: Any, save: Any) -> None:
    path = tmp_path / "a.npz"
    save(path, volume=VOLUME, plane=VOLUME[3])
    with open_source(f"{path}::volume") as source:
        assert_reads(source, VOLUME[np.newaxis])
    with open_source(f"{path}::plane.npy") as source:
        assert_reads(source, VOLUME[3:4])
    with pytest.raises(SourceError, match="several arrays; name one as FILE::NAME, of volume, plane"):
        open_source(str(path))
    with pytest.raises(SourceError, match="has no array 'mask'"):
        open_source(f"{path}::mask")
    save(path, VOLUME)
    with open_source(str(path)) as source:
        assert_reads(source, VOLUME[np.newaxis])


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_a_url_is_read_like_a_file(assert_reads: Any, name: str) -> None:
    stream = io.BytesIO()
    (np.save if name == "a.npy" else np.savez)(stream, VOLUME)
    fsspec.filesystem("memory").pipe(f"/arrays/{name}", stream.getvalue())
    with open_source(f"memory://arrays/{name}") as source:
        assert_reads(source, VOLUME[np.newaxis])


class _Evil:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("unpickled",))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "evil.npy"
    np.save(path, np.array([[_Evil()] * 5] * 5, object), allow_pickle=True)
    with pytest.raises(SourceError, match="objects, records or text"):
        open_source(str(path))
    path.write_bytes(b"\x93NUMPY\x01\x00" + pickle.dumps(_Evil()).ljust(300, b" "))
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(str(path))
    np.save(path, np.zeros((20, 20), [("a", "u1")]))
    with pytest.raises(SourceError, match="objects, records or text"):
        open_source(str(path))


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header("(100, 100)") + b"x" * 9999, "is cut off: expected"),
        (header("(1048576, 1048576)"), "over the limit max_px"),
        (header("(-5, 5)"), "has no pixels"),
        (header("(5, 5)", "'<c16'") + b"x" * 400, "type complex128 are not read"),
        (header("(5, 5)", "'<U4'") + b"x" * 400, "objects, records or text"),
        (header(f"({'(' * 200}1{')' * 200}, 5)"), "cannot be read"),
        (header("(5, 5)" + " " * 20000) + b"x" * 25, "cannot be read"),
        (b"\x93NUMPY\x09\x00" + b" " * 200, "NPY of version 9.0"),
    ],
    ids=range(8),
)
def test_hostile_headers_are_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.npy"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=said) as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


def test_archives_that_lie_about_their_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, zeros=np.zeros((2000, 2000), np.uint8))
    with pytest.raises(SourceError, match="max_whole_px = 1000 "):
        open_source(str(path), Opening(limits=Limits(max_whole_px=1000)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header("(3000, 3000)") + b"x" * 50)
    with pytest.raises(SourceError, match="is cut off"):
        open_source(str(path))


def test_another_zip_stays_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "text")
    with pytest.raises(SourceError, match="ZIP is not a format"):
        open_source(str(tmp_path / "a.npz"))
