"""open_source: which reader, which files, which addresses; and everything hostile through a child."""

import http.server
import importlib
import pkgutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.transform import from_origin

from segcore import sources
from segcore.alive import heard_by
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.isolation import ChildPool, Task
from segcore.sources import open_source, readers
from segcore.sources.files import SourceFile
from tests.conftest import Bucket

PIXELS = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)


ORDER = ("STAC Item", "whole slides", "GeoTIFF, JPEG 2000", "TIFF, OME-TIFF")


def test_every_reader_is_listed() -> None:
    names = {found.name for found in pkgutil.iter_modules(sources.__path__)}
    assert {name for name in names if hasattr(importlib.import_module(f"segcore.sources.{name}"), "READER")} == set(
        sources.MODULES
    )


def test_the_special_readers_come_before_the_general() -> None:
    names = [reader.name for reader in readers()]
    assert names[0] == "refused"
    order = [names.index(name) for name in ORDER]
    assert order == sorted(order)


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    with open_source(str(tmp_path / "a.tif")) as source:
        assert source.info.reader == "picture"
        np.testing.assert_array_equal(source.read(Window.whole((3, 50, 70))), np.moveaxis(PIXELS, -1, 0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"this is text", "is no image that segcore reads"),
        (b"\0" * 128 + b"DICM" + b"\0" * 10, "this DICOM file holds no image"),
        (b"II*\0" + b"\0" * 124 + b"DICM" + b"\0" * 10, "this DICOM file holds no image"),
        (b"\x5c\x01\0\0" + b"\0" * 340 + b"n+1\0", "expected 1 to 7 axes, got 0"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read"),
        (b"PK\x03\x04 zip", "ZIP is not a format"),
        (b"II*\0\xff\xff\xff\xff", "cut off"),
        (b"II*\0\x08\0\0\0\x05", "damaged or cut off"),
        (b"\x89PNG\r\n\x1a\nnothing", "header is damaged"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_image_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file.tif"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=said) as caught:
        open_source(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("/nowhere/at/all.tif", "cannot be opened"),
        ("ssh://host/file.tif", "'ssh://' is not read"),
        ("zip://a.tif::https://host/a.zip", "'zip://' is not read"),
        ("memory://missing.tif", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened(uri: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        open_source(uri)
    assert uri in str(caught.value)


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder"):
        open_source(str(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file per reader that reads through a file object."""
    Image.fromarray(PIXELS).save(tmp_path / "picture.png")
    tifffile.imwrite(tmp_path / "plain.tif", PIXELS, photometric="rgb", tile=(32, 32), compression="zlib")
    with rasterio.open(
        tmp_path / "geo.tif", "w", driver="GTiff", width=70, height=50, count=3, dtype="uint8",
        crs="EPSG:32631", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 4e6),
    ) as dataset:  # fmt: skip
        dataset.write(np.moveaxis(PIXELS, -1, 0))
    return tmp_path


NAMES = {"picture.png": "picture", "plain.tif": "tiff", "geo.tif": "geotiff"}


@pytest.mark.parametrize("name", NAMES)
def test_a_url_is_read_like_a_file(folder: Path, name: str, assert_reads: Any) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/sources/{name}", (folder / name).read_bytes())
    with open_source(f"memory://sources/{name}") as source:
        assert source.info.reader == NAMES[name]
        assert_reads(source, np.moveaxis(PIXELS, -1, 0))


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """An HTTP server that answers range requests, as object stores and static hosts do."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            data = (folder / self.path.lstrip("/")).read_bytes()
            asked = self.headers.get("Range", "").removeprefix("bytes=")
            start, end = (int(n) for n in asked.split("-")) if asked else (0, len(data) - 1)
            part = data[start : end + 1]
            self.send_response(206 if asked else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
            self.end_headers()
            if body:
                self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()


@pytest.mark.parametrize("name", NAMES)
def test_an_http_address_is_read_like_a_file(server: str, name: str, assert_reads: Any) -> None:
    pytest.importorskip("aiohttp")
    with open_source(f"{server}/{name}") as source:
        assert_reads(source, np.moveaxis(PIXELS, -1, 0), num_windows=3)


def test_a_remote_cog_is_opened_with_all_levels_by_its_first_bytes(
    server: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    http_file = pytest.importorskip("fsspec.implementations.http").HTTPFile
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2048, 2048), dtype=np.uint8)
    with rasterio.open(
        folder / "cog.tif", "w", driver="COG", count=1, height=2048, width=2048, dtype="uint8", crs="EPSG:32631",
        transform=from_origin(0, 20480, 10, 10), blocksize=256, overviews="AUTO",
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    fetched: list[int] = []
    fetch = http_file._fetch_range
    monkeypatch.setattr(http_file, "_fetch_range", lambda file, a, b: fetched.append(b - a) or fetch(file, a, b))
    with open_source(f"{server}/cog.tif") as source:
        assert source.info.levels == ((2048, 2048), (1024, 1024), (512, 512), (256, 256))
        assert sum(fetched) < 3 * 2**18
        window = Window((0, 1000, 1000), (1, 256, 256))
        np.testing.assert_array_equal(source.read(window), pixels[window.slices])
        assert sum(fetched) < 8 * 2**18 < (folder / "cog.tif").stat().st_size
        for level in (3, 1, 2):
            with rasterio.open(folder / "cog.tif", overview_level=level - 1) as expected:
                corner = Window((0, 100, 50), (1, 60, 70))
                np.testing.assert_array_equal(source.read(corner, level), expected.read()[corner.slices])


def test_an_object_is_read_like_a_file(bucket: Bucket, folder: Path, assert_reads: Any) -> None:
    for name in NAMES:
        bucket.put(folder / name, name)
        with open_source(f"{bucket.uri}/{name}") as source:
            assert_reads(source, np.moveaxis(PIXELS, -1, 0), num_windows=2)
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(f"{bucket.uri}/missing.tif")


def test_each_block_that_is_fetched_is_a_sign_of_life() -> None:
    fsspec.filesystem("memory").pipe("/sources/large.bin", bytes(5 * 2**19))
    file = SourceFile("memory://sources/large.bin")
    signs: list[bool] = []
    with heard_by(lambda: signs.append(True)):
        assert file.fetched(2**30).stat().st_size == 5 * 2**19
    assert len(signs) == 3
    file.discard()


def test_what_needs_a_local_file_is_fetched_and_removed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("openslide")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    slide = data_dir / "wsi" / "CMU-1-Small-Region.svs"
    fsspec.filesystem("memory").pipe("/sources/slide.svs", slide.read_bytes())
    window = Window((0, 100, 200), (3, 50, 60))
    with open_source("memory://sources/slide.svs") as source, open_source(str(slide)) as local:
        assert len(list(tmp_path.iterdir())) == 1
        np.testing.assert_array_equal(source.read(window), local.read(window))
    assert not list(tmp_path.iterdir())


READABLE = {
    "png_named.tif",
    "image_jewar_003.jpg",
    "image_jewar_003.png",
    "J2K_pixelrep_mismatch.dcm",  # signs are as its header says
    "ct_slice_zeroed_middle.dcm",  # JPEG 2000 has no checksum: to a decoder, zeros are wavelets like others
}
"""Of the corrupt files, those that are readable after all."""


def test_corrupt_files_fail_in_one_clear_line_each(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    tasks = importlib.import_module("decoder_tasks")
    paths = sorted(path for path in (data_dir / "corrupt").rglob("*") if path.is_file())
    assert len(paths) >= 34
    with ChildPool(2, memory_mib=512) as pool:
        wanted = (Task(tasks.read_whole, (str(path),), str(path), 30.0, 30.0) for path in paths)
        outcomes = {Path(outcome.task.label).name: outcome for outcome in pool.run(wanted)}
    assert {name for name, outcome in outcomes.items() if outcome.error is None} == READABLE
    for outcome in outcomes.values():
        if outcome.error is not None:
            assert type(outcome.error) is SourceError
            assert str(outcome.error).startswith(f"{outcome.task.label}: ")
            assert "\n" not in str(outcome.error)
            assert len(str(outcome.error)) < 500
        assert outcome.attempts == 1
    said = {name: str(outcome.error) for name, outcome in outcomes.items()}
    assert "the packed file ends early" in said["truncated_ct.nii.gz"]
    assert "asks for 70362301923678 bytes, the file has 352" in said["huge_dims_header_only.nii"]
    assert "it is cut off" in said["MR_truncated.dcm"]


def test_a_hostile_tiff_is_stopped_by_the_pool_even_if_no_limit_catches_it(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`libtiff_segfault.tif` hangs GDAL: without our limits only the deadline stands between it and the night."""
    import importlib

    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    tasks = importlib.import_module("decoder_tasks")
    path = str(data_dir / "corrupt" / "libtiff_segfault.tif")
    with ChildPool(1, memory_mib=512) as pool:
        (outcome,) = pool.run([Task(tasks.read_by_gdal, (path,), path, 3.0, 3.0)])
    assert outcome.error is not None
    assert str(outcome.error).startswith(path)
