"""Sampling: tiles hold the store's own pixels, rare classes come up, and tile k of step s is always the same one."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from segcore.classes import default_classes
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.sampling import IGNORED, ClassIndex, LabelledImage, Sampler, batches, keep_what_fits
from segcore.sampling import index as index_module
from segcore.store import PyramidSpec, Staging, Workspace
from tests.synthetic import put_image, put_label


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"), create=True)


def labelled(workspace: Workspace, image_id: str = "a", level: int = 0) -> LabelledImage:
    return LabelledImage(workspace.image(image_id), workspace.label(image_id, "target"), level)


def random_image(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (3, *shape), dtype=np.uint8), rng.integers(0, 2, shape, dtype=np.uint8)


def test_read_reflected_equals_numpy_reflect_over_every_border(workspace: Workspace) -> None:
    pixels, ids = random_image(0, (40, 50))
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    got, target = labelled(workspace).read_reflected(0, Window((-60, -7), (200, 70)))
    pad = ((60, 100), (7, 13))
    assert np.array_equal(got, np.pad(pixels, ((0, 0), *pad), mode="reflect"))
    assert np.array_equal(target, np.pad(ids, pad, mode="reflect"))


def test_ignored_where_the_target_says_so_or_the_pixel_is_not_usable(workspace: Workspace) -> None:
    pixels = np.full((3, 4, 4), 7, np.uint8)
    pixels[:, 0] = 0  # nodata in all bands
    pixels[0, 1] = 0  # in one band only: usable
    ids = np.ones((4, 4), np.uint8)
    ids[3, 3] = 255
    put_image(workspace, "a", pixels, nodata=0)
    put_label(workspace, "a", "target", ids)
    _, target = labelled(workspace).read(0, Window.whole((4, 4)))
    expected = np.ones((4, 4))
    expected[3, 3] = IGNORED
    expected[0] = IGNORED
    assert np.array_equal(target, expected)


@pytest.mark.parametrize("nodata", [-3.4e38, np.nan, None])
def test_missing_floats_are_read_as_nan_so_that_no_value_reaches_a_neighbour(
    workspace: Workspace, nodata: float | None
) -> None:
    hole = np.nan if nodata is None else nodata
    pixels = np.ones((2, 4, 4), np.float32)
    pixels[:, 0] = hole
    pixels[0, 1] = hole  # in one band only: usable
    pixels[1, 2] = np.inf
    put_image(workspace, "a", pixels, nodata=nodata)
    put_label(workspace, "a", "target", np.ones((4, 4), np.uint8))
    got, target = labelled(workspace).read(0, Window.whole((4, 4)))
    expected = np.ones((2, 4, 4))
    expected[:, 0] = expected[0, 1] = expected[1, 2] = np.nan
    np.testing.assert_array_equal(got, expected)
    assert (target == [[IGNORED], [1], [1], [1]]).all()
    assert np.array_equal(labelled(workspace).read_classes(0, 0), target)


def test_ignored_where_the_valid_label_is_zero(workspace: Workspace) -> None:
    pixels, ids = random_image(1, (8, 8))
    valid = np.ones((8, 8), np.uint8)
    valid[2:4] = 0
    put_image(workspace, "a", pixels, has_valid=True)
    put_label(workspace, "a", "valid", valid)
    put_label(workspace, "a", "target", ids)
    _, target = labelled(workspace).read(0, Window((1, 0), (4, 8)))
    assert np.array_equal(target == IGNORED, valid[1:5] == 0)


def test_a_target_with_an_unknown_id_is_refused(workspace: Workspace) -> None:
    pixels, ids = random_image(1, (8, 8))
    ids[0, 0] = 9
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    with pytest.raises(ConfigError, match=r"target of a: expected class ids below 2 or ignore \(255\), got 9"):
        labelled(workspace).read(0, Window.whole((8, 8)))


def test_planes_of_a_volume_are_read_one_by_one(workspace: Workspace) -> None:
    volume = np.random.default_rng(3).integers(0, 255, (2, 3, 10, 12), dtype=np.uint8)
    ids = (volume[0] > 99).astype(np.uint8)
    for name, values, axes in (("image", volume, ("c", "z", "y", "x")), ("target", ids, ("z", "y", "x"))):
        kind = "image" if name == "image" else "mask"
        spec = PyramidSpec(axes=axes, shape=values.shape, dtype="uint8", kind=kind, shard_px=256)
        with Staging.begin(workspace, "v", name, {}, spec) as staging:
            staging.put_all(values)
            classes = () if name == "image" else default_classes(2)
            staging.finish({}, classes=classes, channels=("a", "b") if name == "image" else ())
    image = labelled(workspace, "v")
    assert image.num_planes == 3
    for plane in range(3):
        pixels, target = image.read(plane, Window((2, 3), (4, 5)))
        assert np.array_equal(pixels, volume[:, plane, 2:6, 3:8])
        assert np.array_equal(target, ids[plane, 2:6, 3:8])


def rare(workspace: Workspace) -> LabelledImage:
    """900 x 700 px with four pixels of class 1."""
    pixels, _ = random_image(4, (900, 700))
    ids = np.zeros((900, 700), np.uint8)
    ids[640:642, 300:302] = 1
    ids[:50] = 255
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    return labelled(workspace)


def test_a_rare_class_is_in_its_share_of_the_tiles(workspace: Workspace) -> None:
    image = rare(workspace)
    sampler = Sampler([image], ClassIndex([image], 2), tile_px=64, class_share=1.0, seed=0)
    held = [(image.read_reflected(0, sampler.draw(0, k).window)[1] == 1).any() for k in range(200)]
    assert 0.4 < np.mean(held) < 0.6  # of two classes, drawn evenly
    sampler = Sampler([image], ClassIndex([image], 2), tile_px=64, class_share=0.0, seed=0)
    held = [(image.read_reflected(0, sampler.draw(0, k).window)[1] == 1).any() for k in range(200)]
    assert np.mean(held) < 0.06


def test_class_index_of_a_coarse_level_points_into_the_class(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, ids = random_image(4, (1100, 600))
    ids[:] = 0
    ids[400:480, 200:320] = 1
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    monkeypatch.setattr(index_module, "MAX_INDEX_PX", 300_000)
    index = ClassIndex([labelled(workspace)], 2)
    assert index.pixels.tolist() == [[1100 * 600 - 9600, 9600]]
    places = index.found[0][1].places
    assert len(places) == 9600 // 4
    assert (ids[places[:, 1], places[:, 2]] == 1).all()


def test_draw_is_a_pure_function_of_seed_step_and_number(workspace: Workspace) -> None:
    image = rare(workspace)
    index = ClassIndex([image], 2)
    first = [Sampler([image], index, 64, 0.5, seed=7).draw(step, k) for step in range(3) for k in range(4)]
    again = Sampler([image], index, 64, 0.5, seed=7)
    backwards = [again.draw(step, k) for step in (2, 1, 0) for k in (3, 2, 1, 0)]
    assert first == backwards[::-1]
    assert first != [Sampler([image], index, 64, 0.5, seed=8).draw(step, k) for step in range(3) for k in range(4)]


def test_tiles_lie_at_most_an_eighth_over_the_border(workspace: Workspace) -> None:
    image = rare(workspace)
    sampler = Sampler([image], ClassIndex([image], 2), 64, 0.5, seed=1)
    for k in range(300):
        window = sampler.draw(0, k).window
        assert all(-8 <= a <= n - 56 for a, n in zip(window.start, (900, 700), strict=True))


def test_batches_are_those_of_the_sampler_in_order_and_cached_pixels_are_the_same(workspace: Workspace) -> None:
    image, cached = rare(workspace), labelled(workspace)
    keep_what_fits([cached], 64)
    index = ClassIndex([image], 2)
    plain, kept = (Sampler([each], index, 64, 0.5, seed=2) for each in (image, cached))
    with closing(batches(kept, 3, first=5)) as ahead:
        for expected_step in range(5, 11):
            step, pixels, target = next(ahead)
            assert step == expected_step
            expected_pixels, expected_target = plain.tiles(step, 3)
            assert np.array_equal(pixels, expected_pixels)
            assert np.array_equal(target, expected_target)


def test_batches_read_no_further_ahead_than_told() -> None:
    class Counting:
        asked = 0

        def tiles(self, step: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
            self.asked += 1
            return np.zeros((batch, 1, 2, 2)), np.zeros((batch, 2, 2), np.int16)

    sampler = Counting()
    ahead: Iterator[object] = batches(sampler, 2, ahead=3)  # type: ignore[arg-type]
    for taken in range(1, 6):
        next(ahead)
        assert sampler.asked <= taken + 2
    ahead.close()  # type: ignore[attr-defined]


def test_a_level_that_is_not_there_is_refused(workspace: Workspace) -> None:
    rare(workspace)
    with pytest.raises(ConfigError, match="image a: expected a pyramid level below 2, got level 5"):
        labelled(workspace, level=5)
