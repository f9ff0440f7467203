"""The survey: each image is read once before the first, and once when its turn comes."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import PredictConfig
from segcore.geometry import Window
from segcore.inference import predict, tile_choice
from segcore.inference.run import MaskRun
from segcore.inference.survey import Seen, survey
from segcore.spatial import Spacing
from segcore.store import Workspace
from tests.inference.scenes import scene, unet_package
from tests.synthetic import put_image


def micrometers(value: float) -> Spacing:
    return Spacing(values={"y": value, "x": value}, unit="micrometer", origin="file")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path), create=True)
    for name, shape in (("a", (100, 90)), ("b", (90, 100)), ("large", (600, 300))):
        put_image(ws, name, scene(*shape), spacing=micrometers(1))
    put_image(ws, "bands", np.zeros((2, 50, 50), np.uint8), spacing=micrometers(1))
    return ws


def test_facts_are_those_of_the_grids(ws: Workspace) -> None:
    put_image(ws, "fine", scene(1101, 643), spacing=micrometers(0.5))
    put_image(ws, "off", scene(100, 200), spacing=micrometers(1.25))
    contract = unet_package(ws, spacing=micrometers(1)).contract
    found = survey(ws, contract, 0.3, ("large", "gone", "off", "bands", "fine"))
    assert found == (
        Seen("large", (600, 300), (600, 300)),
        Seen("off", (125, 250), (100, 200)),
        Seen("fine", (551, 322), (551, 322)),
    )
    assert [seen.num_shards(256) for seen in found] == [6, 1, 6]
    assert Seen("z", (7, 600, 300), (7, 600, 300)).num_shards(256) == 42


def test_each_image_is_read_once_before_the_first(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """To find the large one, to count the shards of all, and to settle the precision, too."""
    package = unet_package(ws, spacing=micrometers(1))
    monkeypatch.setattr(tile_choice, "TUNED_FROM_PX", 512)
    read: Counter[str] = Counter()
    image = Workspace.image

    def counted(self: Workspace, image_id: str) -> Any:
        read[image_id] += 1
        return image(self, image_id)

    monkeypatch.setattr(Workspace, "image", counted)
    config = PredictConfig(workspace=ws.uri, model=package.model_id, shard_px=256, halo="fast", blend="crop")
    states = {item.image: item.state for item in predict(config).items}
    assert states == {"a": "done", "b": "done", "large": "done", "bands": "failed"}
    kept = [key.rsplit("/", 1)[1] for key, _ in ws.objects.list("state/models")]
    shown = sum(name.startswith(("halo-", "cpu")) for name in kept)  # the halo, and where it has two the precision
    assert read == {"a": 2 + shown, "b": 2, "large": 2, "bands": 2}
    assert any("/tile-" in key for key, _ in ws.objects.list("state/models"))


def test_what_is_left_of_a_unit_is_worked_out_once(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    put_image(ws, "wide", scene(100, 1300))  # two units of 4 shards
    package = unet_package(ws)
    asked: list[Window] = []
    pending = MaskRun._pending
    monkeypatch.setattr(MaskRun, "_pending", lambda self, unit: asked.append(unit) or pending(self, unit))
    config = PredictConfig(workspace=ws.uri, model=package.model_id, shard_px=256, images=("wide",))
    assert predict(config).items[0].details["shards_written"] == 6
    assert [unit.start for unit in asked] == [(0, 0), (0, 1024)]
