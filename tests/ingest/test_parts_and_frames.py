"""Ingest of what is no plain file: a part of a file behind `::`, and files that are one image together."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image as Picture

from segcore.config import IngestConfig
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.results import StageResult
from segcore.store import Workspace, verify

RNG = np.random.default_rng(7)
VOLUME = RNG.integers(0, 60000, (5, 40, 50)).astype(np.uint16)
FRAMES = RNG.integers(0, 256, (11, 40, 50, 3), dtype=np.uint8)


def run(tmp_path: Path, *sources: str, **values: Any) -> StageResult:
    return ingest(IngestConfig(workspace=str(tmp_path / "w"), processes=1, sources=sources, **values))


def only_image(tmp_path: Path) -> Any:
    workspace = Workspace.open(str(tmp_path / "w"))
    (image_id,) = workspace.image_ids()
    assert verify(workspace) == []
    image = workspace.image(image_id)
    return image_id, image.read(Window.whole(image.shape()))


def test_an_array_of_a_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["vol/raw"], file["vol/other"] = VOLUME, VOLUME
    uri = f"{tmp_path}/a.h5::/vol/raw"
    assert run(tmp_path, uri).items[0].state == "done"
    image_id, pixels = only_image(tmp_path)
    assert image_id.startswith("a-vol-raw-")
    np.testing.assert_array_equal(pixels, VOLUME[np.newaxis])
    assert run(tmp_path, uri).items[0].details == {"reason": "unchanged"}


def test_other_axes_are_another_image_which_needs_overwrite(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    assert run(tmp_path, f"{tmp_path}/a.npy").exit_code == 0
    refused = run(tmp_path, f"{tmp_path}/a.npy", array_axes="tyx").items[0]
    assert refused.state == "failed"
    assert "opening" in str(refused.error)
    assert run(tmp_path, f"{tmp_path}/a.npy", array_axes="tyx", overwrite=True).items[0].state == "done"
    np.testing.assert_array_equal(only_image(tmp_path)[1], VOLUME[:, np.newaxis])


def test_frames_of_a_folder_until_one_changes(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(FRAMES):
        Picture.fromarray(frame).save(folder / f"img{index}.png")
    assert run(tmp_path, str(folder), frames=True).exit_code == 0
    np.testing.assert_array_equal(only_image(tmp_path)[1], np.moveaxis(FRAMES, -1, 1))
    assert run(tmp_path, str(folder), frames=True).items[0].details == {"reason": "unchanged"}
    Picture.fromarray(255 - FRAMES[4]).save(folder / "img4.png")
    assert run(tmp_path, str(folder), frames=True).items[0].state == "done"
    np.testing.assert_array_equal(only_image(tmp_path)[1][4], np.moveaxis(255 - FRAMES[4], -1, 0))
