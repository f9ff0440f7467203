"""Frames: the sequence against the pictures themselves; order, and files that do not belong together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Joined, Limits, Opening, open_source
from segcore.sources.frames import natural_order

FRAMES = np.random.default_rng(6).integers(0, 256, (12, 30, 40, 3), dtype=np.uint8)


def sequence(folder: Path) -> Joined:
    return Joined(uri=str(folder), how="frames", parts=tuple(sorted(str(path) for path in folder.iterdir())))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / f"img{index}.png")
    return tmp_path


def test_frames_in_the_natural_order_of_their_names(folder: Path, assert_reads: Any) -> None:
    joined = sequence(folder)
    assert joined.parts[2].endswith("img10.png")
    with open_source(joined) as source:
        assert (source.info.reader, source.info.axes) == ("frames", ("t", "c", "y", "x"))
        assert source.info.channels == ("red", "green", "blue")
        assert source.info.num_bytes == sum(path.stat().st_size for path in folder.iterdir())
        assert_reads(source, np.moveaxis(FRAMES, -1, 1))


def test_natural_order() -> None:
    names = ["b1", "a10", "a2", "a2b", "a02", "a²", "a"]
    assert sorted(names, key=natural_order) == ["a", "a02", "a2", "a2b", "a10", "a²", "b1"]


def test_validity_of_frames(tmp_path: Path, assert_reads: Any) -> None:
    alpha = np.random.default_rng(1).choice([0, 255], (3, 30, 40)).astype(np.uint8)
    for index in range(3):
        Image.fromarray(np.dstack([FRAMES[index], alpha[index]])).save(tmp_path / f"{index}.png")
    with open_source(sequence(tmp_path)) as source:
        assert source.info.has_valid
        assert_reads(source, np.moveaxis(FRAMES[:3], -1, 1), valid=alpha > 0)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (FRAMES[0][:20], "its shape is 3 x 20 x 40, that of the first, .*img0.png, is 3 x 30 x 40"),
        (FRAMES[0][..., 0], "its shape is 1 x 30 x 40"),
        (FRAMES[0][..., 0].astype(np.uint16), "its shape is 1 x 30 x 40"),
        (np.dstack([FRAMES[0], np.zeros((30, 40), np.uint8)]), "its has_valid is True, that of the first"),
    ],
    ids=["size", "channels", "dtype", "alpha"],
)
def test_a_frame_that_differs_is_named_beside_the_first(folder: Path, other: Any, said: str) -> None:
    Image.fromarray(other).save(folder / "img7.png")
    with open_source(sequence(folder)) as source:
        assert source.read(Window((6, 0, 0, 0), (1, 3, 30, 40))).shape == (1, 3, 30, 40)
        with pytest.raises(SourceError, match=said) as caught:
            source.read(Window((7, 0, 0, 0), (1, 3, 30, 40)))
    assert "img7.png" in str(caught.value)


def test_limits_and_frames_that_are_no_pictures(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="max_pages = 11; got 12"):
        open_source(sequence(folder), Opening(limits=Limits(max_pages=11)))
    np.save(folder / "img0.npy", np.zeros((9, 30, 40), np.uint8))
    joined = Joined(uri=str(folder), how="frames", parts=(str(folder / "img0.npy"),))
    with pytest.raises(SourceError, match=r"img0\.npy: a frame is one picture"):
        open_source(joined)


def test_real_frames(data_dir: Path) -> None:
    paths = sorted((data_dir / "camvid" / "val").glob("*.png"))
    assert len(paths) == 16
    joined = Joined(uri=str(paths[0].parent), how="frames", parts=tuple(str(path) for path in paths))
    with open_source(joined) as source:
        assert source.info.shape == (16, 3, 360, 480)
        with Image.open(paths[9]) as picture:
            window = Window((9, 0, 100, 50), (1, 3, 64, 80))
            expected = np.moveaxis(np.asarray(picture), -1, 0)[:, 100:164, 50:130]
        np.testing.assert_array_equal(source.read(window)[0], expected)
