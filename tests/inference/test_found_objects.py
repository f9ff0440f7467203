"""Objects that a detector finds tile by tile: each once, over every kind of border, as if nothing had been cut.

The detector is a stand-in that finds what an image shows, whole or cut by the end of a tile.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from segcore.classes import ClassInfo
from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.instances.rule import Rule
from segcore.models import ARCHITECTURES, Architecture, ModelConfig
from segcore.models.arguments import ModelArguments
from segcore.models.found import logits_of
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.store import Workspace, verify
from tests.inference.scenes import mask_of
from tests.instances.scenes import discs, same_parts, with_snakes
from tests.instances.seen import found_in
from tests.synthetic import put_image

HALO_PX = 64
SHAPE = (600, 560)
"""More than two shards of 256 px a side."""


class Stub(nn.Module):
    """Reads ids of objects out of two bands; an object of an odd number is of class 1, else of class 2.

    Of what a tile shows it finds whole objects alone, but those that are wider than the halo: what another tile has to
    see as well is not made up from a part.
    """

    stride = 8
    sees_whole_tile = True

    def __init__(self, arguments: ModelArguments) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        ids = (tiles[:, 0] + 256 * tiles[:, 1]).round().long()
        sides = (tiles.shape[2], tiles.shape[3])
        return torch.stack([logits_of(found_in(self._whole(each), kind_of), sides, 3, background=0) for each in ids])

    def _whole(self, ids: torch.Tensor) -> torch.Tensor:
        for number in torch.unique(torch.cat([ids[0], ids[-1], ids[:, 0], ids[:, -1]])).tolist():
            y, x = torch.nonzero(ids == number, as_tuple=True)
            if number and max(int(y.max() - y.min()), int(x.max() - x.min())) < HALO_PX:
                ids = ids.where(ids != number, 0)
        return ids


def kind_of(number: int) -> int:
    return 2 - number % 2


@pytest.fixture(autouse=True)
def stub() -> Iterator[None]:
    entry = Architecture(ModelArguments, Stub, "stub", "test", "", "here", None, detects=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "stub", entry)
        yield


def package_of(ws: Workspace) -> ModelPackage:
    names = ("background", "odd", "even")
    contract = InputContract(
        bands=("band 0", "band 1"), dtype="uint8", spacing=None, mean=(0.0, 0.0), std=(1.0, 1.0), tile_px=128,
        halo_px=HALO_PX, stride=8, global_context=True, whole_objects=True,
    )  # fmt: skip
    info = PackageInfo(
        name="stub",
        architecture=ModelConfig(architecture="stub", arguments={"in_channels": 2, "num_classes": 5}),
        contract=contract,
        classes=tuple(ClassInfo(id=k, name=name, color=(0, 0, k)) for k, name in enumerate(names)),
        instances=Rule(depth_px=1, min_px=3),
    )
    return write_package(ws.objects, "models", info, Stub(ModelArguments(in_channels=2, num_classes=5)).state_dict())


def objects_of(tmp_path: Path, ids: npt.NDArray[Any], name: str = "m", **settings: Any) -> npt.NDArray[Any]:
    """What predict makes of an image that shows these ids, after a look at its mask."""
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    if "a" not in ws.image_ids():
        put_image(ws, "a", np.stack([ids % 256, ids // 256]).astype(np.uint8))
    base = {"workspace": ws.uri, "model": package_of(ws).model_id, "shard_px": 256, "name": name}
    (item,) = predict(PredictConfig.model_validate({**base, "precision": "float32", **settings})).items
    assert item.error is None
    objects = mask_of(ws, "a", f"{name}_instances")
    assert item.details["objects"] == objects.max()
    np.testing.assert_array_equal(mask_of(ws, "a", name), np.where(ids > 0, 2 - ids % 2, 0))
    assert verify(ws) == []
    return objects


def put_discs(*places: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    """Discs (y, x, radius), numbered from 1."""
    ids = np.zeros(SHAPE, np.int64)
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    for number, (cy, cx, radius) in enumerate(places, start=1):
        ids[((y - cy) ** 2 + (x - cx) ** 2 < radius**2) & (ids == 0)] = number
    return ids


BORDERS = {
    "inside a tile": [(60, 60, 20)],
    "tile": [(64, 128, 20), (128, 60, 31)],
    "corner of four tiles": [(128, 128, 25)],
    "shard": [(256, 100, 20), (100, 256, 30), (300, 512, 9)],
    "corner of four shards": [(256, 256, 31), (512, 512, 12)],
    "end of the image": [(0, 100, 20), (599, 300, 15), (300, 559, 12), (599, 559, 30)],
    "touching at a border of tiles": [(60, 117, 11), (60, 139, 12), (117, 300, 11), (139, 300, 12)],
    "touching at a border of shards": [(100, 245, 11), (100, 267, 12), (245, 60, 11), (267, 60, 12)],
    "touching at the corner of four shards": [(246, 246, 14), (266, 266, 15), (266, 240, 12), (244, 268, 9)],
}


@pytest.mark.parametrize("places", BORDERS.values(), ids=BORDERS)
def test_an_object_on_any_border_is_there_once(tmp_path: Path, places: list[tuple[int, int, int]]) -> None:
    ids = put_discs(*places)
    objects = objects_of(tmp_path, ids)
    assert same_parts(objects, ids)
    assert objects.max() == len(places)
    first = [int(np.flatnonzero(objects == number)[0]) for number in range(1, len(places) + 1)]
    assert first == sorted(first)  # ids follow the anchors


@pytest.mark.slow
def test_a_crowd_is_that_of_the_run_that_is_cut_nowhere(tmp_path: Path) -> None:
    """Long objects, wider than any halo, are joined over all tiles and shards."""
    ids = with_snakes(discs(SHAPE, 300), 4)
    objects = objects_of(tmp_path, ids)
    assert objects.max() > 150
    whole = objects_of(tmp_path, ids, "whole", tile_px=640, shard_px=2048)
    np.testing.assert_array_equal(objects, whole)
    for number in range(int(ids.max()) - 3, int(ids.max()) + 1):
        long = objects[ids == number]
        assert np.bincount(long).max() > 0.97 * len(long)  # but for ends that others cut off


def test_a_detectors_tiles_are_not_averaged(tmp_path: Path) -> None:
    ids = put_discs((256, 256, 31), (128, 128, 25))
    objects_of(tmp_path, ids)
    ws = Workspace.open(str(tmp_path / "w"))
    (key,) = [key for key, _ in ws.objects.list("state/a/m/") if key.endswith("plan.json")]
    plan = ws.objects.get(key)
    assert plan is not None
    assert b'"crop"' in plan
