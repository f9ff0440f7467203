"""Preview: the tiles that a training would see, before and after, on a page that loads nothing."""

import base64
import io
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from typer.testing import CliRunner

from flows.cli import app
from segcore.augment import Augmenter, choose_augments, facts_of
from segcore.classes import default_classes
from segcore.config import PreviewConfig, TrainConfig
from segcore.errors import SegcoreError
from segcore.preview import preview
from segcore.preview.preview import PAGE
from segcore.preview.tiles import picture_row, seen_tiles
from segcore.sampling import IGNORED, RandomSampler
from segcore.store import Workspace
from segcore.training.choice import choose
from segcore.training.data import TrainingData, gather, sampler_of
from tests.synthetic import put_image, put_label

EVIL = '<script>alert("x")</script>'
SMALL: dict[str, Any] = {"tile_px": 32, "batch": 4, "seed": 3}


class Page(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three images: the left half class 1 with an evil name, a corner ignored."""
    workspace = Workspace.open(str(tmp_path_factory.mktemp("preview") / "ws"), create=True)
    classes = (default_classes(2)[0], default_classes(2)[1].model_copy(update={"name": EVIL}))
    target = np.zeros((64, 64), np.uint8)
    target[:, :32] = 1
    target[:16, 48:] = 255
    for number in range(3):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (3, 64, 64)).astype(np.uint8)
        put_image(workspace, f"i{number}", pixels, split="val" if number == 2 else "train")
        put_label(workspace, f"i{number}", "target", target, classes)
    return workspace.uri


@pytest.fixture
def data(uri: str) -> TrainingData:
    return gather(Workspace.open(uri), TrainConfig(workspace=uri, **SMALL))


def tiles_of(data: TrainingData, **settings: Any) -> Iterator[Any]:
    config = TrainConfig(workspace="w", **SMALL, **settings)
    augments = choose(config, data, torch.device("cpu")).augments
    sampler = sampler_of(config, data, 32)
    return seen_tiles(data, sampler, Augmenter(augments, config.seed, data.mean, data.std), 4)


def test_the_page_has_its_tiles_loads_nothing_and_escapes_names(uri: str) -> None:
    result = preview(PreviewConfig(workspace=uri, tiles=5, **SMALL))
    assert result.paths == (f"{uri}/{PAGE}",)
    html = Path(result.paths[0]).read_text()
    page = Page(html)
    images = page.all("img")
    assert len(images) == 2 * 5
    assert all(str(image["src"]).startswith("data:image/") and image["alt"] for image in images)
    assert page.all("script") == page.all("link") == []
    assert "http:" not in html
    assert "https:" not in html
    assert EVIL not in html
    assert any(EVIL in str(image["alt"]) for image in images)
    policy = next(tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "prefers-color-scheme: dark" in html


def test_shares_of_classes_and_augmentation_are_told(uri: str) -> None:
    details = preview(PreviewConfig(workspace=uri, tiles=1, augments={"noise": 0.9}, dry_run=True, **SMALL)).details
    # Of 64 x 64 pixels 2048 are class 1, 256 are ignored.
    assert details["class_shares"][EVIL]["images"] == pytest.approx(2048 / 3840, abs=1e-4)
    assert 0.3 < details["class_shares"][EVIL]["tiles"] < 0.7
    assert (details["augments"]["noise"], details["reasons"]["noise"]) == (0.9, "asked for")


def test_tiles_are_those_of_the_sampler_and_the_augmenter(data: TrainingData) -> None:
    """The same that a step of training gets, brought back to the image's values."""
    seen = list(islice(tiles_of(data), 8))
    sampler = RandomSampler(data.training, data.index, 32, 0.5, 3)
    pixels, classes = sampler.tiles(1, 4)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (data.mean, data.std))
    augments = choose_augments({}, facts_of(data.training, data.classes, data.mean))
    normalised = torch.from_numpy(((pixels - mean) / std).astype(np.float32))
    batch = Augmenter(augments, 3, data.mean, data.std)(normalised, torch.from_numpy(classes.astype(np.int64)), 1)
    for k, tile in enumerate(seen[4:]):
        assert np.array_equal(tile.pixels, pixels[k])
        assert np.array_equal(tile.classes, classes[k])
        assert np.array_equal(tile.augmented_classes, batch.classes[k])
        np.testing.assert_allclose(tile.augmented, batch.tiles[k].numpy() * std + mean, rtol=1e-5, atol=1e-3)


def test_an_unchanged_tile_is_shown_twice_and_ignored_pixels_are_hatched(data: TrainingData) -> None:
    tile = next(tile for tile in tiles_of(data, augment=False) if (tile.classes == IGNORED).mean() > 0.05)
    assert tile.done == ()
    row = picture_row(tile, 1, data)
    assert "Unchanged." in row.caption
    assert "ignored" in row.caption
    before, after = (
        np.asarray(Pillow.open(io.BytesIO(base64.b64decode(panel.uri.partition(",")[2]))).convert("L"), np.float32)
        for panel in row.panels
    )
    assert np.abs(before - after).max() <= 2
    ignored = (tile.classes == IGNORED).repeat(12, axis=0).repeat(12, axis=1)
    assert before.shape == ignored.shape
    slant = np.indices(ignored.shape).sum(0) % 14
    light, dark = before[ignored & (slant < 2)].mean(), before[ignored & (slant >= 2) & (slant < 4)].mean()
    assert light - dark > 100


def test_where_it_cannot_be_written_it_says_so(uri: str, tmp_path: Path) -> None:
    with pytest.raises(SegcoreError, match="cannot be written"):
        preview(PreviewConfig(workspace=uri, output=str(tmp_path / "no" / "page.html"), **SMALL))


def test_the_command_takes_the_options_of_train_and_prints_one_object(uri: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ["--tiles", "2", "--tile-px", "32", "--augments", "flip=0.25", "--output", str(page), "--json"]
    done = CliRunner().invoke(app, ["preview", "--workspace", uri, *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["stage"], found["state"], found["paths"]) == ("preview", "done", [str(page)])
    assert found["details"]["augments"]["flip"] == 0.25
    assert len(Page(page.read_text()).all("img")) == 4
    assert set(TrainConfig.model_fields) < set(PreviewConfig.model_fields)
