"""`segcore inspect`: what it says of a file, to a person and as JSON; the estimate against an ingest that was done."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.inspect import lines, spacing_text
from flows.console import duration, size
from segcore.config import IngestConfig
from segcore.ingest import ingest

RUNNER = CliRunner()


def inspected(*args: str) -> Any:
    done = RUNNER.invoke(app, ["inspect", "--json", *args])
    return json.loads(done.stdout.splitlines()[-1])["sources"]


def said(*args: str) -> str:
    return RUNNER.invoke(app, ["inspect", *args]).stdout


@pytest.fixture
def geotiff(tmp_path: Path) -> str:
    path = tmp_path / "geo.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=70, height=50, count=2, dtype="int16", nodata=-9999,
        crs="EPSG:32631", transform=rasterio.Affine(10, 0, 500000, 0, -10, 4000000),
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((2, 50, 70), np.int16))
    return str(path)


def test_a_scene_as_text(geotiff: str) -> None:
    text = said(geotiff)
    assert text.startswith(f"{geotiff}\n")
    told = dict(line.strip().split("  ", 1) for line in text.splitlines()[1:])
    told = {label: rest.strip() for label, rest in told.items()}
    assert told["size"].startswith("70 x 50 px (width x height); ")
    assert told["pixels"].startswith("int16, 2 channels: ")
    assert told["spacing"] == "10 x 10 m (y, x; from the file)"
    assert told["CRS"] == "WGS 84 / UTM zone 31N (EPSG:32631)"
    assert told["transform"] == "x = 10 col + 0 row + 500000, y = 0 col + -10 row + 4000000"
    assert told["nodata"] == "-9999"
    assert told["ingest"].startswith("2 shards, ")  # of the image and of its foreground
    columns = {line.index(told[line.strip().split("  ", 1)[0]]) for line in text.splitlines()[1:]}
    assert len(columns) == 1, "aligned"


def test_the_json_is_complete(geotiff: str) -> None:
    (item,) = inspected(geotiff)
    found = item["details"]
    assert (found["shape"], found["nodata"], found["has_valid"]) == ([2, 50, 70], -9999.0, False)
    assert found["georef"]["epsg"] == 32631
    assert found["spacing"] == {"values": {"y": 10.0, "x": 10.0}, "unit": "meter", "origin": "file"}
    assert set(found["ingest"]) == {
        *("shards", "work_units", "bytes_uncompressed", "bytes_compressed", "memory_bytes", "seconds"),
    }


def test_axes_as_asked_for_and_a_spacing_that_is_unknown(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 40, 50), np.uint8))
    assert inspected(str(tmp_path / "a.npy"))[0]["details"]["axes"] == ["c", "z", "y", "x"]
    assert inspected(str(tmp_path / "a.npy"), "--array-axes", "tyx")[0]["details"]["axes"] == ["t", "c", "y", "x"]
    text = " ".join(said(str(tmp_path / "a.npy")).split())
    assert "axes from guessed" in text
    assert "9 planes" in text
    assert "unknown; say it with --spacing" in text


def test_arrays_that_a_file_holds_are_listed_in_the_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["mask"] = np.zeros((40, 50)), np.zeros((40, 50), np.uint8)
    done = RUNNER.invoke(app, ["inspect", str(tmp_path / "a.h5")])
    assert done.exit_code == 1
    assert "/mask (40 x 50 uint8), /raw (40 x 50 float64)" in done.stdout
    assert inspected(f"{tmp_path}/a.h5::/mask")[0]["details"]["details"]["dataset"] == "/mask"


def test_wrong_options_are_one_line_and_code_2(tmp_path: Path) -> None:
    for options in (["--spacing", "wide"], ["--array-axes", "abc"]):
        done = RUNNER.invoke(app, ["inspect", "a.npy", *options])
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)


def test_the_estimate_is_near_what_an_ingest_takes(tmp_path: Path, data_dir: Path) -> None:
    path = sorted((data_dir / "dubai_aerial" / "image").glob("*t2.jpg"))[0]
    estimate = inspected(str(path))[0]["details"]["ingest"]
    workspace = tmp_path / "w"
    assert ingest(IngestConfig(workspace=str(workspace), sources=(str(path),), processes=1)).exit_code == 0
    arrays = [found for found in (workspace / "images").rglob("*") if found.is_file() and found.name != "zarr.json"]
    num_bytes = sum(found.stat().st_size for found in arrays)
    assert len(arrays) == estimate["shards"]
    assert 0.6 < num_bytes / estimate["bytes_compressed"] < 1.6
    with Image.open(path) as picture:
        assert estimate["bytes_uncompressed"] == picture.width * picture.height * 3 * 4 // 3


def test_members_are_listed() -> None:
    told = list(lines({"members": [f"a.czi::{i}" for i in range(60)]}))
    assert told[0] == ("holds", "60 images; ingest or inspect each by its name:")
    assert told[1] == ("", "a.czi::0")
    assert told[-1] == ("", "... and 10 more (all with --json)")


def test_volumes_show_where_they_lie() -> None:
    details = {
        "axes": ["c", "z", "y", "x"], "shape": [1, 5, 6, 7], "dtype": "int16", "channels": ["grey"], "num_bytes": 10,
        "levels": [[6, 7], [3, 4]], "has_valid": True, "reader": "r", "reader_version": "v", "details": {},
        "affine": {"matrix": [[1, 0, 0, -2.5], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]], "orientation": "RAS"},
        "ingest": {
            "shards": 1, "bytes_uncompressed": 1, "bytes_compressed": 1, "memory_bytes": 1, "seconds": 1,
        },
    }  # fmt: skip
    told = list(lines(details))
    assert ("levels", "7 x 6, 4 x 3") in told
    assert ("orientation", "RAS (x, y, z of the array)") in told
    assert ("affine", "    1.0000      0.0000      0.0000     -2.5000") in told
    assert ("nodata", "none told; the file says which pixels are usable") in told


@pytest.mark.parametrize(
    ("origin", "text"),
    [("file", "from the file"), ("user", "given by you"), ("resampled from 0.25 um", "resampled from 0.25 um")],
)
def test_spacing_says_where_it_came_from(origin: str, text: str) -> None:
    spacing = {"values": {"y": 0.5, "x": 0.25}, "unit": "micrometer", "origin": origin}
    assert spacing_text(spacing) == f"0.5 x 0.25 µm (y, x; {text})"


def test_numbers_for_a_person() -> None:
    assert [size(n) for n in (0, 999, 1000, 2_500_000, 3.2e13)] == ["0 bytes", "999 bytes", "1 kB", "2.5 MB", "32 TB"]
    assert [duration(n) for n in (3.4, 119, 600, 9000)] == ["3 s", "119 s", "10 min", "2.5 h"]
