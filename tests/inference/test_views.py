"""Views: what is turned comes back to where it was."""

import numpy as np
import pytest
import torch

from segcore.inference.views import View, resized, views_of

TILES = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 48)).astype(np.float32))


@pytest.mark.parametrize("view", views_of("d4", ()))
def test_a_turned_tile_comes_back(view: View) -> None:
    seen = view.seen(TILES, 16)
    assert seen.shape[-2:] == ((48, 32) if view.quarter_turns % 2 else (32, 48))
    torch.testing.assert_close(view.back(seen, (32, 48)), TILES, rtol=0, atol=0)


def test_all_views_differ() -> None:
    square = TILES[..., :32]
    for kind, count in (("none", 1), ("flips", 4), ("d4", 8)):
        seen = [view.seen(square, 1).numpy().tobytes() for view in views_of(kind, ())]  # type: ignore[arg-type]
        assert len(set(seen)) == len(seen) == count
        assert seen[0] == square.numpy().tobytes()


@pytest.mark.parametrize(("scale", "sides"), [(0.5, (16, 32)), (1.5, (48, 64)), (0.1, (16, 16))])
def test_a_scaled_view_has_sides_that_the_model_takes(scale: float, sides: tuple[int, int]) -> None:
    view = View(scale=scale)
    assert view.seen(TILES, 16).shape[-2:] == sides
    constant = torch.full((1, 2, 32, 48), 3.5)
    back = view.back(view.seen(constant, 16), (32, 48))
    torch.testing.assert_close(back, constant)


def test_planes_are_resized_apart() -> None:
    volume = TILES[:, :, None].repeat(1, 1, 3, 1, 1)
    torch.testing.assert_close(resized(volume, (16, 24), True)[:, :, 1], resized(TILES, (16, 24), True))
