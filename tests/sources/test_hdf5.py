"""HDF5 against h5py's own slices; everything by which a file reaches other files is refused."""

import io
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, open_source
from segcore.sources.files import SourceFile

RNG = np.random.default_rng(4)
VOLUME = RNG.integers(0, 60000, (9, 40, 50)).astype(np.uint16)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (4, 16, 16)},
        {"chunks": (4, 16, 16), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (4, 16, 16), "compression": "lzf"},
        {"chunks": (4, 16, 16), "compression": "szip"},
        {"chunks": (4, 16, 16), "scaleoffset": 0},
    ],
    ids=["contiguous", "chunks", "gzip", "lzf", "szip", "scaleoffset"],
)
def test_every_storage_that_is_built_in(tmp_path: Path, assert_reads: Any, options: dict[str, Any]) -> None:
    if options.get("compression") == "szip" and not h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
        pytest.skip("this HDF5 has no szip")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("vol/raw", data=VOLUME, **options)
    for uri in (f"{tmp_path}/a.h5", f"{tmp_path}/a.h5::/vol/raw", f"{tmp_path}/a.h5::vol/raw"):
        with open_source(uri) as source:
            assert (source.info.reader, source.info.details["dataset"]) == ("hdf5", "/vol/raw")
            assert source.info.details["axes_from"] == "guessed"
            assert_reads(source, VOLUME[np.newaxis])


@pytest.mark.parametrize("stored", [">u2", "bool", "float16", "int64", "int8"])
def test_types(tmp_path: Path, assert_reads: Any, stored: str) -> None:
    values = (VOLUME % 100).astype(stored)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = values
        read = {"bool": "uint8", "float16": "float32", "int64": "int32"}.get(stored, values.dtype.name)
    with open_source(str(tmp_path / "a.h5")) as source:
        assert_reads(source, values.astype(read)[np.newaxis])


def test_axes_that_the_file_names(tmp_path: Path, assert_reads: Any) -> None:
    tags = '{"axes": [{"key": "t", "typeFlags": 8}, {"key": "y"}, {"key": "x"}]}'
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("labels", "scales", "tags", "half"):
            file[name] = VOLUME
        for axis, label in enumerate(("Time", "Y", "X")):
            file["labels"].dims[axis].label = label
        for axis, label in enumerate(("time", "y", "x")):
            file[label] = np.arange(VOLUME.shape[axis])
            file[label].make_scale(label)
            file["scales"].dims[axis].attach_scale(file[label])
        file["tags"].attrs["axistags"] = tags
        file["half"].dims[2].label = "x"
    for name in ("labels", "scales", "tags"):
        with open_source(f"{tmp_path}/a.h5::{name}") as source:
            assert source.info.details["axes_from"] == "file"
            assert_reads(source, VOLUME[:, np.newaxis], num_windows=3)
    with open_source(f"{tmp_path}/a.h5::half") as source:
        assert (source.info.details["axes_from"], source.info.axes) == ("guessed", ("c", "z", "y", "x"))
    with open_source(f"{tmp_path}/a.h5::labels", Opening(axes="zyx")) as source:
        assert (source.info.details["axes_from"], source.info.axes) == ("given", ("c", "z", "y", "x"))


def test_spacing_in_micrometres(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["volume"], file["plane"], file["bad"] = VOLUME, VOLUME[0], VOLUME
        file["volume"].attrs["element_size_um"] = [2.0, 0.5, 0.25]
        file["plane"].attrs["element_size_um"] = [2.0, 0.5, 0.25]
        file["bad"].attrs["element_size_um"] = [2.0, np.nan, 0.25]
    for name, sizes in (("volume", {"z": 2.0, "y": 0.5, "x": 0.25}), ("plane", {"y": 0.5, "x": 0.25})):
        with open_source(f"{tmp_path}/a.h5::{name}") as source:
            assert source.info.spacing is not None
            assert (source.info.spacing.values, source.info.spacing.unit) == (sizes, "micrometer")
    with open_source(f"{tmp_path}/a.h5::bad") as source:
        assert source.info.spacing is None


def test_a_url_is_read_like_a_file(tmp_path: Path, assert_reads: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=VOLUME, chunks=(4, 16, 16), compression="gzip")
    fsspec.filesystem("memory").pipe("/arrays/a.h5", (tmp_path / "a.h5").read_bytes())
    with open_source("memory://arrays/a.h5::/raw") as source:
        assert_reads(source, VOLUME[np.newaxis])


@pytest.fixture
def tangled(tmp_path: Path) -> Path:
    """A file with every way out of it."""
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = VOLUME
    layout = h5py.VirtualLayout(shape=VOLUME.shape, dtype="u2")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=VOLUME.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["vol/raw"], file["table"], file["text"] = VOLUME, np.zeros((3, 3)), "text"
        file["vol/near"], file["soft"] = h5py.SoftLink("raw"), h5py.SoftLink("/vol/near")
        file["loop"], file["outside"] = h5py.SoftLink("/loop"), h5py.ExternalLink("other.h5", "/x")
        file["around"] = h5py.SoftLink("/outside")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", shape=(50, 60), dtype="u1", external=[("/etc/passwd", 0, 3000)])
    return tmp_path / "a.h5"


def test_links_inside_the_file_are_followed(tangled: Path, assert_reads: Any) -> None:
    with open_source(f"{tangled}::/soft") as source:
        assert source.info.details["dataset"] == "/vol/raw"
        assert_reads(source, VOLUME[np.newaxis], num_windows=2)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ("", r"several arrays; name one as FILE::/PATH, of .*/vol/raw \(9 x 40 x 50 uint16\)"),
        ("::/loop", "link to another file or to itself"),
        ("::/outside", "link to another file"),
        ("::/around", "link to another file"),
        ("::/virtual", "lie in other files"),
        ("::/external", "lie in other files"),
        ("::/vol", "is a group, no dataset"),
        ("::/vol/raw/deeper", "has no dataset"),
        ("::/none", "has no dataset /none; name one as"),
        ("::/text", "expected an array of numbers"),
    ],
)
def test_what_is_not_read_is_named(tangled: Path, member: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        open_source(f"{tangled}{member}")
    assert str(caught.value).startswith(str(tangled))
    assert "\n" not in str(caught.value)


def test_filters_of_plugins_and_huge_chunks_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", shape=(64, 64), dtype="u1", chunks=(64, 64))
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((64, 64))
        plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((64, 64))
        h5py.h5d.create(file.id, b"blosc", h5py.h5t.NATIVE_UINT8, space, plan)
    with pytest.raises(SourceError, match="filter 32001 of a plugin"):
        open_source(f"{tmp_path}/a.h5::/blosc")
    with pytest.raises(SourceError, match="a chunk of /raw has 4096 bytes, over the limit max_tile_bytes = 4000"):
        open_source(f"{tmp_path}/a.h5::/raw", Opening(limits=Limits(max_tile_bytes=4000)))


def test_a_damaged_file_fails_in_one_line(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = VOLUME
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cannot be read") as caught:
        open_source(str(tmp_path / "a.h5"))
    assert "\n" not in str(caught.value)


def test_chunks_of_many_planes_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.integers(0, 60000, (32, 384, 384)).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=values, chunks=(32, 192, 192), compression="gzip")
    num_bytes = 0

    class Counting(io.BytesIO):
        def readinto(self, into: Any) -> int:
            nonlocal num_bytes
            num_bytes += len(into)
            return super().readinto(into)

    data = (tmp_path / "a.h5").read_bytes()
    fsspec.filesystem("memory").pipe("/once.h5", data)
    monkeypatch.setattr(SourceFile, "open", lambda self: Counting(data))
    with open_source("memory://once.h5") as source:
        for z in range(32):
            plane = source.read(Window((0, z, 0, 0), (1, 1, 384, 384)))
            np.testing.assert_array_equal(plane[0, 0], values[z])
    assert len(data) * 0.9 < num_bytes < len(data) * 1.1
