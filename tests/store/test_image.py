"""Image: which pixels of it are usable."""

from pathlib import Path

import numpy as np
import pytest

from segcore.geometry import Window
from segcore.store import Workspace
from tests.synthetic import put_image, put_label


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_usable_where_any_band_is_finite_and_not_nodata(tmp_path: Path, dtype: str) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = np.ones((2, 1, 6), dtype)
    pixels[:, 0] = [[1, np.nan, np.nan, np.inf, -9, -9], [1, np.nan, 1, -np.inf, np.nan, 1]]
    put_image(ws, "plain", pixels)
    put_image(ws, "tagged", pixels, nodata=-9)
    window = Window.whole((1, 6))
    assert ws.image("plain").read_valid(window).tolist() == [[True, False, True, False, True, True]]
    assert ws.image("tagged").read_valid(window).tolist() == [[True, False, True, False, False, True]]
    missing = ws.image("tagged").missing(pixels)[:, 0].tolist()
    assert missing == [[False, True, True, True, True, True], [False, True, False, True, True, False]]


def test_pixels_tell_what_is_usable_only_where_no_label_does(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = np.full((1, 4, 4), np.nan, np.float32)
    put_image(ws, "labelled", pixels, has_valid=True)
    put_label(ws, "labelled", "valid", np.ones((4, 4), np.uint8))
    put_image(ws, "integers", np.zeros((1, 4, 4), np.uint8))
    put_image(ws, "tagged", np.zeros((1, 4, 4), np.uint8), nodata=0)
    put_image(ws, "floats", pixels)
    tell = {name: ws.image(name).pixels_tell for name in ("labelled", "integers", "tagged", "floats")}
    assert tell == {"labelled": False, "integers": False, "tagged": True, "floats": True}
    window = Window.whole((4, 4))
    usable = {name: bool(ws.image(name).read_valid(window).all()) for name in tell}
    assert usable == {"labelled": True, "integers": True, "tagged": False, "floats": False}
