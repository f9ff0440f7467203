"""Tasks: the process that hands them out loads no format library; the children find what is meant."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.ingest import child, tasks
from segcore.isolation import ByName
from segcore.isolation_child import found_by_name

LIBRARIES = ("PIL", "av", "gdcm", "h5py", "imagecodecs", "nibabel", "nrrd", "openslide", "pydicom", "pyogrio")
LIBRARIES += ("rasterio", "scipy", "tifffile")

LISTING = """
import sys
import segcore.ingest.run
from segcore.config import IngestConfig
from segcore.ingest.entries import list_entries
from segcore.sources import companions, suffixes
folder = sys.argv[1]
entries = list_entries(IngestConfig(sources=(folder,), workspace=folder))
assert [entry.image_id.rsplit("-", 1)[0] for entry in entries] == ["a", "b"], entries
assert ".nii.gz" in suffixes()
assert companions(entries[0].source) == ()
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""


def test_importing_and_listing_load_no_format_library(tmp_path: Path) -> None:
    for name in ("a.png", "b.tif"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    command = [sys.executable, "-c", LISTING, str(tmp_path), *LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("opened", ["png", "tif"])
def test_opening_a_file_loads_the_library_of_its_format_alone(tmp_path: Path, opened: str) -> None:
    path = tmp_path / f"a.{opened}"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    opening = "import sys; from segcore.sources import open_source; open_source(sys.argv[1]).close()"
    telling = "print(*(name for name in ('PIL', 'tifffile', 'rasterio', 'openslide') if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{opening}; {telling}", str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [{"png": "PIL", "tif": "tifffile"}[opened]], done.stderr


def test_every_task_is_a_function_of_the_child() -> None:
    named = {name: found for name, found in vars(tasks).items() if isinstance(found, ByName)}
    assert named.keys() == {"probe", "list_members", "source_digest", "copy_source", "write_windows"}
    for name, found in named.items():
        assert found_by_name(found.module, found.name) is getattr(child, name)
