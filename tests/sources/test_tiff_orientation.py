"""TIFF orientation: pictures are turned as Pillow turns them, window by window, on every level."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from segcore.geometry import Window
from segcore.sources import open_source

RNG = np.random.default_rng(5)
RGBA = RNG.integers(0, 256, (50, 70, 4), dtype=np.uint8)


def tag(value: int) -> list[tuple[int, str, int, int, bool]]:
    return [(274, "H", 1, value, True)]


@pytest.mark.parametrize("value", range(1, 9))
def test_pictures_turn_as_pillow_turns_them(tmp_path: Path, assert_reads: Any, value: int) -> None:
    path = tmp_path / "turned.tif"
    tifffile.imwrite(
        path, RGBA, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 32), extratags=tag(value),
        resolution=(20000, 10000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    upright = Image.Exif()
    upright[274] = value
    picture = Image.fromarray(RGBA)
    picture.info["exif"] = upright.tobytes()
    shown = np.asarray(ImageOps.exif_transpose(picture))
    with open_source(str(path)) as source:
        assert_reads(source, np.moveaxis(shown[..., :3], -1, 0), valid=shown[..., 3] > 0)
        assert source.info.spacing is not None
        along = {"y": 1.0, "x": 0.5} if value < 5 else {"y": 0.5, "x": 1.0}
        assert source.info.spacing.values == pytest.approx(along)


def test_levels_turn_too(tmp_path: Path) -> None:
    path = tmp_path / "levels.tif"
    grey = RGBA[..., 0]
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2):
            writer.write(grey[::step, ::step], tile=(16, 16), subfiletype=step - 1, metadata=None, extratags=tag(6))
    with open_source(str(path)) as source:
        assert source.info.levels == ((70, 50), (35, 25))
        window = Window((0, 3, 5), (1, 20, 11))
        np.testing.assert_array_equal(
            source.read(window, level=1), np.rot90(grey[::2, ::2], -1)[np.newaxis][window.slices]
        )


def test_ome_tiff_stays_as_its_own_programs_show_it(tmp_path: Path, assert_reads: Any) -> None:
    path = tmp_path / "turned.ome.tif"
    tifffile.imwrite(path, RGBA[..., 0], ome=True, metadata={"axes": "YX"}, extratags=tag(6))
    with open_source(str(path)) as source:
        assert source.info.details["orientation"] == 6
        assert_reads(source, RGBA[np.newaxis, ..., 0])
