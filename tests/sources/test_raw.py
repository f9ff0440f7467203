"""Raw arrays: any order of axes, any window, and no byte more than the header says."""

import gzip
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from segcore.alive import alive, heard_by
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, raw
from segcore.sources.files import SourceFile
from segcore.sources.raw import Layout, RawArray, check_size, narrowed

RNG = np.random.default_rng(6)


@pytest.mark.parametrize("stride", [1, 40, 200, 2**18])
@pytest.mark.parametrize("order", list(permutations("zyx")))
def test_windows_are_those_of_the_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...], stride: int
) -> None:
    monkeypatch.setattr(raw, "STRIDE_BYTES", stride)
    monkeypatch.setattr(raw, "READ_BYTES", 100)
    stored = RNG.integers(-999, 999, (5, 7, 9)).astype(">i2")
    path = tmp_path / "array.raw"
    path.write_bytes(b"header" + stored.tobytes())
    array = RawArray(SourceFile(str(path)), Layout(("z", "y", "x"), (5, 7, 9), stored.dtype, 6), order)
    wanted = stored.transpose(["zyx".index(axis) for axis in order])
    for _ in range(30):
        start = [int(RNG.integers(0, n)) for n in wanted.shape]
        window = Window(
            tuple(start), tuple(int(RNG.integers(1, n - a + 1)) for n, a in zip(wanted.shape, start, strict=True))
        )
        found = array.read(window)
        assert found.dtype == np.dtype("int16")
        np.testing.assert_array_equal(found, wanted[window.slices])
    array.close()


def test_a_read_takes_little_more_than_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "array.raw"
    path.write_bytes(bytes(100 * 1000 * 1000))
    array = RawArray(SourceFile(str(path)), Layout(("z", "y", "x"), (100, 1000, 1000), np.dtype("u1"), 0), tuple("zyx"))
    taken = []
    read = RawArray._bytes
    monkeypatch.setattr(RawArray, "_bytes", lambda self, at, count: taken.append(count) or read(self, at, count))
    array.read(Window((50, 200, 300), (2, 10, 10)))
    assert taken == [10 * 1000, 10 * 1000]
    array.close()


def test_a_packed_file_is_unpacked_once_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    stored = RNG.integers(0, 255, (3, 4, 5), dtype=np.uint8)
    path = tmp_path / "array.gz"
    path.write_bytes(gzip.compress(b"12345678" + stored.tobytes() + b"and more"))
    array = RawArray(SourceFile(str(path)), Layout(tuple("zyx"), (3, 4, 5), stored.dtype, 8, "gzip"), tuple("zyx"))
    np.testing.assert_array_equal(array.read(Window.whole((3, 4, 5))), stored)
    assert not list((tmp_path / "empty").iterdir())
    path.unlink()
    np.testing.assert_array_equal(array.read(Window((1, 1, 1), (2, 2, 2))), stored[1:, 1:3, 1:3])
    array.close()


def test_a_stream_that_goes_on_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(200_000_000), 1))
    array = RawArray(SourceFile(str(path)), Layout(tuple("yx"), (10, 10), np.dtype("u1"), 0, "gzip"), tuple("yx"))
    array.read(Window.whole((10, 10)))
    assert array._opened is not None
    array._opened.seek(0, 2)
    assert array._opened.tell() == 100
    array.close()


def test_a_checksum_that_does_not_fit_is_noticed(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(bytes(100)))
    packed[-8] ^= 1
    path = tmp_path / "damaged.gz"
    path.write_bytes(packed)
    array = RawArray(SourceFile(str(path)), Layout(tuple("yx"), (10, 10), np.dtype("u1"), 0, "gzip"), tuple("yx"))
    with pytest.raises(gzip.BadGzipFile, match="CRC"):
        array.read(Window.whole((10, 10)))


@pytest.mark.parametrize(
    ("codec", "file_bytes", "said"),
    [
        ("plain", 999, "asks for 1000 bytes, the file has 999"),
        ("gzip", 0, "which 0 packed bytes cannot hold"),
        ("bzip2", 50, "over the limit max_download_bytes = 900"),
    ],
)
def test_sizes_are_checked_first(codec: raw.Codec, file_bytes: int, said: str) -> None:
    layout = Layout(("y", "x"), (10, 100), np.dtype("u1"), 0, codec)
    with pytest.raises(SourceError, match=said):
        check_size("file", layout, file_bytes, Limits(max_download_bytes=900))


def test_64_bits_are_narrowed_only_where_they_fit() -> None:
    assert narrowed(np.array([-5, 2**31 - 1]), "int32").tolist() == [-5, 2**31 - 1]
    with pytest.raises(ValueError, match="2147483648 does not fit"):
        narrowed(np.array([0, 2**31]), "int32")


def test_each_block_that_is_unpacked_is_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "READ_BYTES", 100)
    path = tmp_path / "array.gz"
    path.write_bytes(gzip.compress(bytes(1050)))
    array = RawArray(SourceFile(str(path)), Layout(tuple("yx"), (10, 100), np.dtype("u1"), 50, "gzip"), tuple("yx"))
    signs: list[bool] = []
    with heard_by(lambda: signs.append(True)):
        array.read(Window((0, 0), (1, 1)))
        assert len(signs) == 1 + 10
        array.read(Window((3, 0), (7, 100)))
    assert len(signs) == 1 + 10, "it is unpacked once"
    alive()
    assert len(signs) == 1 + 10, "nobody listens any more"
    array.close()
