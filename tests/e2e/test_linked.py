"""Training and predicting on linked images: the same package and the same masks as on pixels that were copied."""

from pathlib import Path

import numpy as np
import pytest

from segcore.config import IngestConfig, PredictConfig, TrainConfig
from segcore.geometry import Window
from segcore.inference import predict
from segcore.ingest import ingest
from segcore.samples import SceneSpec, write_samples
from segcore.store import Workspace
from segcore.training import train

SCENES = (SceneSpec("one", (256, 256), 1, "train"), SceneSpec("two", (300, 280), 2, "val"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["link", "copy_source"])
def test_a_model_of_linked_images_makes_the_same_masks(tmp_path: Path, how: str) -> None:
    manifest = write_samples(tmp_path / "sources", SCENES)
    given = {"manifest": str(manifest), "classes": str(manifest.with_name("classes.csv")), "processes": 1}
    masks = []
    for name, more in (("stored", {}), ("linked", {how: True})):
        uri = str(tmp_path / name)
        assert ingest(IngestConfig.model_validate({"workspace": uri, **given, **more})).exit_code == 0
        options = {"max_steps": 3, "channels": (8, 16), "tile_px": 64, "batch": 2, "threads": 1, "device": "cpu"}
        trained = train(TrainConfig.model_validate({"workspace": uri, "name": "tiny", "amp": False, **options}))
        model = trained.details["model"]
        predicted = predict(PredictConfig(workspace=uri, model=model, name="m", precision="float32", tile_workers=1))
        assert predicted.exit_code == 0, predicted.items
        workspace = Workspace.open(uri)
        labels = [workspace.label(image_id, "m") for image_id in workspace.image_ids()]
        masks.append([label.read(Window.whole(label.shape())) for label in labels])
    for stored, linked in zip(*masks, strict=True):
        np.testing.assert_array_equal(stored, linked)
