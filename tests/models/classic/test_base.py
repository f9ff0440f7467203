"""What classic methods share: logits, blur, the removal of small objects, and how far they look."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.filters import gaussian

from segcore.errors import ConfigError
from segcore.models import ARCHITECTURES, ModelConfig, build_model, takes
from segcore.models.classic.base import CERTAIN, ClassicModel, blurred, without_small
from segcore.models.classic.entries import CLASSIC
from segcore.models.receptive import receptive_field
from tests.models.classic.scenes import answered, discs

LARGE = {"multi_otsu", "felzenszwalb", "slic"}
"""They take more than two classes."""


def classic(name: str, **arguments: Any) -> ClassicModel:
    given = {"in_channels": 3, "num_classes": 2, **arguments}
    model = build_model(ModelConfig(architecture=name, arguments=given))
    assert isinstance(model, ClassicModel)
    return model


@pytest.mark.parametrize("name", CLASSIC)
def test_each_answers_one_hot_logits_in_the_dtype_of_the_tiles(name: str) -> None:
    tiles = torch.from_numpy(np.stack([discs(0), discs(1)])).float()
    with torch.inference_mode():
        logits = classic(name)(tiles)
    assert (logits.shape, logits.dtype) == ((2, 2, *tiles.shape[2:]), torch.float32)
    assert set(logits.unique().tolist()) == {0.0, CERTAIN}
    assert torch.equal(logits.sum(dim=1), torch.full((2, *tiles.shape[2:]), CERTAIN))
    assert torch.equal(logits[1:], classic(name)(tiles[1:])), "a tile's answer depends on its neighbours in the batch"
    assert classic(name)(tiles.half()).dtype == torch.float16


@pytest.mark.parametrize("name", CLASSIC)
@pytest.mark.parametrize("value", [0.0, 0.4])
def test_each_takes_even_and_tiny_tiles(name: str, value: float) -> None:
    even = classic(name)(torch.full((1, 3, 20, 24), value)).argmax(1)
    assert len(even.unique()) == 1
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert classic(name)(noise).isfinite().all()


def test_none_has_weights_and_each_is_in_the_catalog() -> None:
    assert [name for name, entry in ARCHITECTURES.items() if entry.family == "classic"] == list(CLASSIC)
    assert [name for name in CLASSIC if classic(name).state_dict()] == []


@pytest.mark.parametrize("name", CLASSIC)
def test_the_catalog_says_how_far_each_looks(name: str) -> None:
    model = classic(name)
    assert CLASSIC[name].context_px == model.context_px
    field = receptive_field(model, 3, (1, 1))
    assert field.context == (None if model.context_px is None else (model.context_px,) * 2)


@pytest.mark.parametrize("name", sorted(CLASSIC.keys() - LARGE))
def test_more_than_two_classes_are_refused_with_what_takes_them(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^architecture {name}: it tells two classes apart, got 3; multi_otsu, "):
        classic(name, num_classes=3)


EXACT: dict[str, dict[str, Any]] = {
    "threshold": {"threshold": 0.45, "sigma": 1.5, "min_size": 4},
    "local_threshold": {"window": 15, "offset": 0.01, "sigma": 0.7, "min_size": 3},
    "stain": {"sigma": 1.0, "threshold": 0.4, "min_size": 4},
    "ndvi": {"threshold": 0.05, "sigma": 1.2, "min_size": 5},
    "ndwi": {"threshold": 0.05},
}


def in_parts(model: ClassicModel, tiles: torch.Tensor, side: int, halo: int) -> np.ndarray:
    """Class ids of the inside, whose pixels are `halo` px from the border and more, from parts of `side` px."""
    height, width = (n - 2 * halo for n in tiles.shape[-2:])
    found = np.zeros((height, width), np.int64)
    for y in range(0, height, side):
        for x in range(0, width, side):
            rows, columns = min(side, height - y), min(side, width - x)
            part = tiles[..., y : y + rows + 2 * halo, x : x + columns + 2 * halo]
            ids = model(part).argmax(1)[0].numpy()
            found[y : y + rows, x : x + columns] = ids[halo : halo + rows, halo : halo + columns]
    return found


def inside(ids: np.ndarray, px: int) -> np.ndarray:
    return ids[px : ids.shape[0] - px, px : ids.shape[1] - px]


@pytest.mark.parametrize("method", ["mean", "gaussian"])
@pytest.mark.parametrize("name", EXACT)
def test_small_parts_with_what_they_need_to_see_are_the_whole(name: str, method: str) -> None:
    given = EXACT[name] | ({"method": method} if name == "local_threshold" else {})
    model, tiles = classic(name, **given), torch.from_numpy(discs(3, shape=(120, 101), noise=0.25))[None].float()
    assert model.context_px is not None
    whole = inside(model(tiles).argmax(1)[0].numpy(), model.context_px)
    assert 0.05 < whole.mean() < 0.95
    for side in (9, 16):
        assert np.array_equal(in_parts(model, tiles, side, model.context_px), whole)


def test_less_than_it_needs_to_see_is_not_enough() -> None:
    model, tiles = classic("local_threshold", window=15, sigma=0, offset=0.01), torch.from_numpy(discs(3))[None].float()
    assert model.context_px == 7
    assert not np.array_equal(in_parts(model, tiles, 9, 6), inside(model(tiles).argmax(1)[0].numpy(), 6))


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.3])
def test_blur_is_that_of_scikit_image(sigma: float) -> None:
    tile = discs(0)
    expected = gaussian(tile, sigma, mode="reflect", channel_axis=0)
    np.testing.assert_allclose(blurred(tile, sigma), expected, atol=1e-12)


@pytest.mark.parametrize("min_size", [0, 1, 2, 5, 30])
def test_small_objects_are_removed_as_a_loop_over_all_would(min_size: int) -> None:
    mask = np.random.default_rng(0).random((40, 40)) > 0.75
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    expected = mask.copy()
    for number in range(1, count + 1):
        if (labels == number).sum() < min_size:
            expected[labels == number] = False
    assert np.array_equal(without_small(mask, min_size), expected)


def test_holes_are_filled_after_small_objects_are_gone() -> None:
    tile = np.zeros((1, 12, 12))
    tile[:, 2:9, 2:9] = 1
    tile[:, 5, 5] = 0  # a hole
    tile[:, 11, 11] = 1  # an object
    ids = answered("threshold", tile, sigma=0, min_size=2)
    expected = np.zeros((12, 12), np.int64)
    expected[2:9, 2:9] = 1
    assert np.array_equal(ids, expected)


def test_one_band_may_be_looked_at_and_dark_is_the_other_side() -> None:
    tile = np.random.default_rng(0).random((3, 16, 16))
    for band in (0, 2, -1):
        bright = answered("threshold", tile, sigma=0, band=band, threshold=0.3)
        assert np.array_equal(bright, tile[band] > 0.3)
    assert np.array_equal(answered("threshold", tile, sigma=0, threshold=0.3, foreground="dark"), tile.mean(0) < 0.3)
    with pytest.raises(ConfigError, match=r"^architecture otsu: band 3: expected one of the image's 3 bands, 0 to 2$"):
        classic("otsu", band=3)


@pytest.mark.parametrize("name", sorted(name for name in CLASSIC if takes(name, "foreground")))
def test_the_rarer_side_is_found_on_dark_and_on_bright_ground(name: str) -> None:
    tile = discs(3)
    fixed = {"threshold": 0.45} if name == "threshold" else {}
    bright = answered(name, tile, foreground="bright", **fixed)
    assert bright.mean() < 0.5
    np.testing.assert_array_equal(answered(name, tile, foreground="rarer", **fixed), bright)
    turned = {"threshold": 1 - fixed["threshold"]} if fixed else {}
    dark = answered(name, 1 - tile, foreground="dark", **turned)
    np.testing.assert_array_equal(answered(name, 1 - tile, foreground="rarer", **turned), dark)
    assert classic(name, foreground="rarer", **fixed).context_px is None
