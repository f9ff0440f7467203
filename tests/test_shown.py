"""What pictures show, against the same picture made of all bands at once; and that they read no more than they show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.geometry import Window
from segcore.report import pictures
from segcore.shown import coarse_plane, read_picture
from segcore.store import Image, Workspace
from tests.synthetic import put_image

NUM_BANDS = 9


def _made(tmp_path: Path, axes: tuple[str, ...] = ("c", "y", "x"), sides: tuple[int, ...] = (60, 70)) -> Image:
    """Float bands, some without a value here and there, and a corner where none has one."""
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(NUM_BANDS, *sides)).astype(np.float32)
    pixels[rng.random(pixels.shape) < 0.3] = np.nan
    pixels[..., :20, :30] = np.nan
    put_image(ws, "i", pixels, axes=axes)
    return ws.image("i")


@pytest.mark.parametrize("named", [{}, {2: "Green", 3: "red", 4: "blue"}, {0: "blue", 5: "green", 8: "red"}])
def test_picture_is_that_of_all_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[int, str]) -> None:
    image = _made(tmp_path)
    names = tuple(named.get(band, f"b{band}") for band in range(NUM_BANDS))
    monkeypatch.setattr(Image, "channels", names)
    window, level = coarse_plane(image)
    everything = image.read(Window.whole(image.shape()))
    valid = ~np.isnan(everything).all(axis=0)
    assert 0 < valid.sum() < valid.size
    read: list[int] = []
    whole = Image.read

    def counted(self: Image, window: Window, level: int = 0) -> Any:
        read.append(window.shape[0])
        return whole(self, window, level)

    monkeypatch.setattr("segcore.store.image.READ_BYTES", 2 * valid.size * 4)
    monkeypatch.setattr(Image, "read", counted)
    picture, found = read_picture(image, window, level)
    np.testing.assert_array_equal(found, valid)
    np.testing.assert_array_equal(picture, pictures.to_rgb(everything, names, valid))
    assert max(read) <= 3


def test_coarse_plane_is_the_middle_one_at_the_level_that_fits(tmp_path: Path) -> None:
    image = _made(tmp_path, ("c", "z", "y", "x"), (5, 40, 1100))
    assert coarse_plane(image) == (Window((2, 0, 0), (1, 20, 550)), 1)
    assert coarse_plane(image, 2) == (Window((2, 0, 0), (1, 10, 275)), 2)
