"""Repair: whatever is lost or damaged comes back, byte for byte, and no shard but the damaged one is written."""

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import tifffile
from PIL import Image as Picture

from segcore.config import IngestConfig, PredictConfig
from segcore.inference import predict
from segcore.ingest import ingest
from segcore.repair import repair
from segcore.store import Workspace, verify
from tests.inference.scenes import scene, unet_package

HEIGHT, WIDTH = 1100, 700
MASK = "mask"
PLACES = (
    "shard", "coarser shard", "record", "coarser record", "array metadata", "group metadata", "labels list",
    "finished.json", "plan.json",
)  # fmt: skip
DAMAGES = ("deleted", "truncated", "flipped")


def prefixes(image_id: str, name: str) -> tuple[str, str]:
    """Of the array, and of its state."""
    image = f"images/{image_id}.ome.zarr"
    return (image if name == "image" else f"{image}/labels/{name}"), f"state/{image_id}/{name}/0"


def key_of(image_id: str, name: str, place: str) -> str:
    array, state = prefixes(image_id, name)
    fine, coarse = ((0, 1, 1), (0, 0, 1)) if name == "image" else ((1, 1), (0, 1))
    return {
        "shard": f"{array}/0/c/{'/'.join(map(str, fine))}",
        "coarser shard": f"{array}/1/c/{'/'.join(map(str, coarse))}",
        "record": f"{state}/shards/0/{'.'.join(map(str, fine))}",
        "coarser record": f"{state}/shards/1/{'.'.join(map(str, coarse))}",
        "array metadata": f"{array}/1/zarr.json",
        "group metadata": f"{array}/zarr.json",
        "labels list": f"images/{image_id}.ome.zarr/labels/zarr.json",
        "finished.json": f"{state}/finished.json",
        "plan.json": f"{state}/plan.json",
    }[place]


def damage(workspace: Workspace, key: str, how: str) -> None:
    data = workspace.objects.get(key)
    assert data, key
    if how == "deleted":
        workspace.objects.delete(key)
    elif how == "truncated":
        workspace.objects.put(key, data[: len(data) // 2])
    else:
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        workspace.objects.put(key, bytes(flipped))


def content(workspace: Workspace) -> dict[str, str]:
    """Digest of every object; leases aside."""
    keys = [key for key, _ in workspace.objects.list("") if "/lease/" not in key]
    return {key: hashlib.sha256(workspace.objects.get(key) or b"").hexdigest() for key in keys}


def written(workspace: Workspace) -> dict[str, Any]:
    """When each shard's object and record were written."""
    listed = [meta for page in obstore.list(workspace.objects.raw) for meta in page]
    return {
        meta["path"]: meta["last_modified"] for meta in listed if "/c/" in meta["path"] or "/shards/" in meta["path"]
    }


def make(folder: Path, uri: str) -> Workspace:
    """An image with a target, made by ingest, and a mask, made by predict."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "a.tif", scene(HEIGHT, WIDTH).transpose(1, 2, 0), photometric="rgb", tile=(256, 256))
    Picture.fromarray(rng.integers(0, 3, (HEIGHT, WIDTH), np.uint8)).save(folder / "t.png")
    config = IngestConfig(
        workspace=uri, sources=(str(folder / "a.tif"),), targets=str(folder / "t.png"), shard_px=256, processes=1
    )
    assert ingest(config).exit_code == 0
    workspace = Workspace.open(uri)
    package = unet_package(workspace)
    config_ = PredictConfig(workspace=uri, model=package.model_id, name=MASK, shard_px=256, tile_workers=1, batch=2)
    assert predict(config_).exit_code == 0
    assert verify(workspace) == []
    return workspace


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("repair")
    return make(folder, str(folder / "w"))


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory: pytest.TempPathFactory, s3_prefix: str) -> Workspace:
    return make(tmp_path_factory.mktemp("s3"), f"{s3_prefix}/{uuid.uuid4()}")


@pytest.fixture
def copied(local: Workspace, tmp_path: Path) -> Workspace:
    """For what does not come back."""
    shutil.copytree(local.uri, tmp_path / "w")
    return Workspace.open(str(tmp_path / "w"))


def image_id_of(workspace: Workspace) -> str:
    (image_id,) = set(workspace.objects.folders("state")) - {"models"}
    return image_id


def assert_repaired(workspace: Workspace, name: str, place: str, how: str) -> None:
    image_id = image_id_of(workspace)
    key, pristine, before = key_of(image_id, name, place), content(workspace), written(workspace)
    damage(workspace, key, how)
    assert verify(workspace) != []
    outcome = repair(workspace)
    assert [one.action for one in outcome if not one.fixed] == []
    assert verify(workspace) == []
    assert content(workspace) == pristine
    after = written(workspace)
    shard = {"shard", "record"} & {place} and key_of(image_id, name, "shard")
    record = key_of(image_id, name, "record")
    if place.startswith("coarser"):
        shard, record = key_of(image_id, name, "coarser shard"), key_of(image_id, name, "coarser record")
    assert {found for found in after if after[found] != before.get(found)} == ({shard, record} if shard else set())


def cases() -> Iterator[Any]:
    """Everything on a local disk; on S3 one kind of damage of each, the others slowly."""
    for name in ("image", MASK):
        for place in PLACES:
            for number, how in enumerate(DAMAGES):
                if place == "labels list" and name == MASK:
                    continue
                yield pytest.param("local", name, place, how)
                slow = () if number == len(place) % 3 else (pytest.mark.slow,)
                yield pytest.param("on_s3", name, place, how, marks=slow)


@pytest.mark.parametrize(("where", "name", "place", "how"), list(cases()))
def test_what_is_damaged_comes_back_and_nothing_else_is_written(
    request: pytest.FixtureRequest, where: str, name: str, place: str, how: str
) -> None:
    assert_repaired(request.getfixturevalue(where), name, place, how)
