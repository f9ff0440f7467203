"""Bands of an index: by the images' names, or by what was given; colour pictures have no near infrared."""

from pathlib import Path

import numpy as np
import pytest

from segcore.config import PreviewConfig, TrainConfig, TuneConfig
from segcore.errors import ConfigError
from segcore.models.package import read_package
from segcore.preview import preview
from segcore.store import Workspace
from segcore.training import train
from segcore.training.bands import with_bands
from segcore.tune import tune
from tests.synthetic import put_image, put_label

SENTINEL = ("B02", "B03", "B04", "B08")


def found(architecture: str, bands: tuple[str, ...], **given: str) -> dict[str, str]:
    config = TrainConfig(workspace="w", architecture=architecture, arguments=given)
    return with_bands(config, bands)[0].arguments


@pytest.mark.parametrize(
    ("bands", "ndvi", "ndwi"),
    [
        (("NIR", "Red", "Green"), {"nir": "0", "red": "1"}, {"nir": "0", "green": "2"}),
        (("blue", "green", "red", "near infrared"), {"nir": "3", "red": "2"}, {"nir": "3", "green": "1"}),
        (("near_infrared", "nir"), {"nir": "1"}, {"nir": "1"}),
        (SENTINEL, {"nir": "3", "red": "2"}, {"nir": "3", "green": "1"}),
        (("B8A", "B4", "B3"), {"nir": "0", "red": "1"}, {"nir": "0", "green": "2"}),
        (("B2", "B3", "B4", "B5"), {}, {}),  # Landsat 8, or 5, whose B3 is red and B4 near infrared
        (("band 0", "band 1"), {}, {}),
        (("red", "green", "blue", "band 4"), {"red": "0"}, {"green": "1"}),
    ],
)
def test_bands_are_found_by_their_names(bands: tuple[str, ...], ndvi: dict[str, str], ndwi: dict[str, str]) -> None:
    assert (found("ndvi", bands), found("ndwi", bands)) == (ndvi, ndwi)


def test_what_is_given_stands_and_may_be_a_name() -> None:
    assert found("ndvi", SENTINEL, nir="-2", red="0", threshold="0.2") == {"nir": "-2", "red": "0", "threshold": "0.2"}
    assert found("ndvi", SENTINEL, nir="b3", red="B02") == {"nir": "1", "red": "0"}
    assert found("ndvi", ("red", "green", "blue"), nir="2") == {"nir": "2", "red": "0"}
    assert found("otsu", SENTINEL, band="1") == {"band": "1"}
    message = r"^arguments: nir=B9: expected a number from 0, or one of the images' bands: B02, B03, B04, B08$"
    with pytest.raises(ConfigError, match=message):
        found("ndvi", SENTINEL, nir="B9")


@pytest.mark.parametrize("bands", [("red", "green", "blue"), ("Red", "Green", "Blue", "Alpha"), ("grey",)])
def test_images_without_near_infrared_are_refused(bands: tuple[str, ...]) -> None:
    message = rf"^architecture ndwi: it takes near infrared, and the images' bands are {', '.join(bands)}; give argum"
    with pytest.raises(ConfigError, match=message):
        found("ndwi", bands)


def workspace_of(folder: Path, bands: tuple[str, ...]) -> str:
    """Plants, where near infrared is bright and red dark, in two images; one is held out."""
    workspace = Workspace.open(str(folder), create=True)
    plants = np.zeros((48, 48), np.uint8)
    plants[10:30, 12:40] = 1
    values = {"B04": (120, 30), "B08": (80, 200)}
    pixels = np.stack([np.where(plants, *values.get(name, (50, 50))[::-1]).astype(np.uint8) for name in bands])
    for image_id, split in (("a", "train"), ("b", "val")):
        put_image(workspace, image_id, pixels, split=split, channels=bands)
        put_label(workspace, image_id, "target", plants)
    return workspace.uri


def test_train_tune_and_preview_take_the_bands_that_are_named(tmp_path: Path) -> None:
    uri = workspace_of(tmp_path / "ws", ("B08", "B04", "B03"))
    result = train(TrainConfig(workspace=uri, architecture="ndvi", device="cpu"))
    assert result.scores is not None
    assert result.scores["foreground_iou"] == 1.0
    assert result.details["chosen"] == {"nir": "0: the band B08", "red": "1: the band B04"}
    arguments = read_package(Workspace.open(uri), result.details["model"]).info.architecture.arguments
    assert (arguments["nir"], arguments["red"]) == (0, 1)
    given = {"architecture": "ndvi", "arguments": {"nir": "B8"}, "device": "cpu"}
    tuned = tune(TuneConfig(workspace=uri, trials=1, **given))
    assert (tuned.details["best"]["score"], tuned.details["best"]["params"]["arguments.threshold"]) == (1.0, 0.3)
    assert preview(PreviewConfig(workspace=uri, tiles=1, **given)).paths


def test_colour_pictures_are_refused_but_for_a_search_of_the_band(tmp_path: Path) -> None:
    uri = workspace_of(tmp_path / "ws", ("red", "green", "blue"))
    with pytest.raises(ConfigError, match="it takes near infrared"):
        train(TrainConfig(workspace=uri, architecture="ndvi", device="cpu"))
    with pytest.raises(ConfigError, match="it takes near infrared"):
        tune(TuneConfig(workspace=uri, architecture="ndvi", trials=1, device="cpu"))
    search = {"arguments.nir": "1..2"}
    assert tune(TuneConfig(workspace=uri, architecture="ndvi", trials=1, device="cpu", search=search)).details["best"]
