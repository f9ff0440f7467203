"""SVS: against OpenSlide itself on a real slide."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import open_source


@pytest.fixture
def slide(data_dir: Path) -> Path:
    return data_dir / "wsi" / "CMU-1-Small-Region.svs"


def test_windows_are_those_of_openslide(slide: Path) -> None:
    openslide = pytest.importorskip("openslide")
    rng = np.random.default_rng(0)
    with open_source(str(slide)) as source, openslide.OpenSlide(str(slide)) as oracle:
        assert source.info.shape == (3, 2967, 2220)
        for _ in range(8):
            y, x = int(rng.integers(0, 2900)), int(rng.integers(0, 2100))
            window = Window((0, y, x), (3, min(300, 2967 - y), min(250, 2220 - x)))
            expected = np.asarray(oracle.read_region((x, y), 0, (window.shape[2], window.shape[1])).convert("RGB"))
            np.testing.assert_array_equal(source.read(window), np.moveaxis(expected, -1, 0))
        np.testing.assert_array_equal(
            source.read(Window((1, 5, 7), (1, 9, 8))), source.read(Window((0, 5, 7), (3, 9, 8)))[1:2]
        )


def test_what_the_slide_says(slide: Path) -> None:
    pytest.importorskip("openslide")
    with open_source(str(slide)) as source:
        info = source.info
    assert (info.reader, info.channels, info.has_valid) == ("svs", ("red", "green", "blue"), False)
    assert info.spacing is not None
    assert (info.spacing.values, info.spacing.unit) == ({"y": 0.499, "x": 0.499}, "micrometer")
    assert info.details["tile"] == [240, 240]
    assert "label" not in str(info.model_dump())
    assert "macro" not in str(info.model_dump())


def test_the_name_does_not_matter(slide: Path, tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    other = tmp_path / "slide.tif"
    other.symlink_to(slide)
    with open_source(str(other)) as source:
        assert source.info.reader == "svs"


def test_a_missing_extra_is_named(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "openslide":
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SourceError, match=r"pip install 'segcore\[slides\]'"):
        open_source(str(slide))
