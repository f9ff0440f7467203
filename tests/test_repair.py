"""Repair: whatever is lost or damaged comes back, byte for byte, and no shard but the damaged one is written."""

import hashlib
import json
import os
import shutil
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
from segcore.repair import Repaired, repair
from segcore.store import Workspace, seal, unseal, verify
from segcore.store.plan import digest_of
from tests.conftest import Bucket
from tests.inference.scenes import scene, unet_package
from tests.synthetic import put_image, put_label

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
def on_s3(tmp_path_factory: pytest.TempPathFactory, module_bucket: Bucket) -> Workspace:
    return make(tmp_path_factory.mktemp("s3"), f"{module_bucket.uri}/w")


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
    """All of it on a local disk; on S3 (slow) everything deleted, and one shard damaged in each way."""
    for name in ("image", MASK):
        for place in PLACES:
            for how in DAMAGES:
                if place == "labels list" and name == MASK:
                    continue
                yield pytest.param("local", name, place, how)
                if how == "deleted" or (name, place) == (MASK, "shard"):
                    yield pytest.param("on_s3", name, place, how, marks=pytest.mark.slow)


@pytest.mark.parametrize(("where", "name", "place", "how"), list(cases()))
def test_what_is_damaged_comes_back_and_nothing_else_is_written(
    request: pytest.FixtureRequest, where: str, name: str, place: str, how: str
) -> None:
    assert_repaired(request.getfixturevalue(where), name, place, how)


def test_all_places_at_once(copied: Workspace) -> None:
    """Two shards of each, one below the other, records and metadata: still no other shard."""
    image_id, pristine = image_id_of(copied), content(copied)
    for name in ("image", MASK):
        for number, place in enumerate(("shard", "coarser shard", "group metadata", "array metadata")):
            damage(copied, key_of(image_id, name, place), DAMAGES[number % 3])
    damage(copied, f"images/{image_id}.ome.zarr/labels/target/0/c/2/2", "flipped")
    damage(copied, f"state/{image_id}/target/0/finished.json", "deleted")
    before = written(copied)
    outcome = repair(copied, (image_id,))
    assert [one for one in outcome if not one.fixed] == []
    assert content(copied) == pristine
    after = written(copied)
    again = {key for key in after if "/c/" in key and after[key] != before.get(key)}
    shards = {key_of(image_id, name, place) for name in ("image", MASK) for place in ("shard", "coarser shard")}
    assert again == shards | {f"images/{image_id}.ome.zarr/labels/target/0/c/2/2"}


def test_an_object_that_should_not_be_there_goes(copied: Workspace) -> None:
    """A mask of one class is all background: Zarr keeps no object."""
    image_id = "flat"
    put_image(copied, image_id, np.zeros((3, 300, 300), np.uint8))
    key = "images/flat.ome.zarr/0/c/0/1/1"
    copied.objects.put(key, b"ghost")
    (one,) = repair(copied, (image_id,))
    assert (one.problem.key, one.fixed, one.action) == (key, True, "deleted")
    assert copied.objects.get(key) is None


def test_a_mask_that_a_kill_left_unfinished_is_completed(copied: Workspace) -> None:
    image_id, pristine = image_id_of(copied), content(copied)
    array, state = prefixes(image_id, MASK)
    for key in (f"{state}/finished.json", f"{array}/zarr.json", key_of(image_id, MASK, "record")):
        copied.objects.delete(key)
    assert [problem.part for problem in verify(copied)] == ["unfinished", "list"]
    assert all(one.fixed for one in repair(copied))
    assert {key: value for key, value in content(copied).items() if "/c/" in key} == {
        key: value for key, value in pristine.items() if "/c/" in key
    }


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
@pytest.mark.parametrize("size", [(300, 200), (40, 1000)])
def test_an_unfinished_mask_keeps_its_tiles(tmp_path: Path, blend: Any, size: tuple[int, int]) -> None:
    """Nothing but the plan tells how it was cut, and a small image cuts the tile."""
    workspace = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(workspace, "a", scene(*size))
    config = PredictConfig(
        workspace=workspace.uri,
        model=unet_package(workspace).model_id,
        name=MASK,
        blend=blend,
        tile_px=64,
        shard_px=256,
    )
    assert predict(config).exit_code == 0
    pristine = content(workspace)
    array, state = prefixes("a", MASK)
    last = (size[0] - 1) // 256, (size[1] - 1) // 256
    for key in (f"{state}/finished.json", f"{array}/zarr.json", f"{state}/shards/0/{last[0]}.{last[1]}"):
        assert workspace.objects.get(key), key
        workspace.objects.delete(key)
    assert [one.action for one in repair(workspace) if not one.fixed] == []
    assert {key: value for key, value in content(workspace).items() if "/c/" in key} == {
        key: value for key, value in pristine.items() if "/c/" in key
    }


def failures(outcome: list[Repaired]) -> str:
    assert not any(one.fixed for one in outcome)
    return "; ".join(sorted({one.action for one in outcome}))


@pytest.mark.parametrize(
    ("lost", "name", "line"),
    [
        ("source", "image", "cannot be opened .* can only be made from it"),
        ("changed source", "image", r"a\.tif: it has changed since .* bring the old file back"),
        ("changed target", "target", r"t\.png: it has changed since"),
        ("model", MASK, "expected its model .* copy the package there"),
        ("plan", MASK, r"its plan cannot be kept \(engine: 1 -> \d"),
    ],
)
def test_what_cannot_be_made_again_is_said_in_one_line_and_left_as_it_is(
    tmp_path: Path, local: Workspace, lost: str, name: str, line: str
) -> None:
    workspace, image_id = spoilt(local, tmp_path, lost), image_id_of(local)
    damage(workspace, key_of(image_id, "image" if name == "image" else MASK, "shard").replace(MASK, name), "flipped")
    before = content(workspace)
    said = failures(repair(workspace))
    with pytest.raises(AssertionError, match=rf"^not repaired: [^\n]*{line}[^\n]*$"):
        raise AssertionError(said)
    assert content(workspace) == before
    assert workspace.is_complete(image_id, name)


def test_a_mask_waits_for_its_image(tmp_path: Path, local: Workspace) -> None:
    workspace, image_id = spoilt(local, tmp_path, "source"), image_id_of(local)
    for name in ("image", MASK):
        damage(workspace, key_of(image_id, name, "shard"), "flipped")
    before = content(workspace)
    assert "made from the image, which could not be repaired" in failures(repair(workspace))
    assert content(workspace) == before


def spoilt(local: Workspace, folder: Path, lost: str) -> Workspace:
    """A workspace like `local`, whose source, target, model or plan is not what it was."""
    shutil.copytree(local.uri, folder / "w")
    workspace, source = Workspace.open(str(folder / "w")), Path(local.uri).parent
    image_id = image_id_of(workspace)
    if lost == "model":
        workspace.objects.delete_prefix("models")
    elif lost == "plan":
        key = f"state/{image_id}/{MASK}/0/plan.json"
        frozen = unseal(workspace.objects.get(key) or b"")
        frozen["plan"]["engine"] = 1
        workspace.objects.put(key, json.dumps(seal(frozen)).encode())
    else:
        moved = {str(source / file): str(folder / file) for file in ("a.tif", "t.png")}
        for old, new in moved.items():
            shutil.copy2(old, new)
        state = workspace.objects.get(f"state/{image_id}/image/0/finished.json") or b""
        ending = unseal(state)
        mark = f"images/{image_id}.ome.zarr/zarr.json"
        text = (workspace.objects.get(mark) or b"").decode()
        for old, new in moved.items():
            text = text.replace(old, new)
        workspace.objects.put(mark, text.encode())
        ending["documents"][mark], ending["metadata"][mark] = text, digest_of(text.encode())
        workspace.objects.put(f"state/{image_id}/image/0/finished.json", json.dumps(seal(ending)).encode())
        changed = folder / ("t.png" if "target" in lost else "a.tif")
        if lost == "source":
            changed.unlink()
        else:
            data = changed.read_bytes()
            changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify(workspace) == []
    return workspace


def test_a_source_that_was_only_touched_will_do(tmp_path: Path) -> None:
    workspace = make(tmp_path, str(tmp_path / "w"))
    os.utime(tmp_path / "a.tif", ns=(1, 1))
    assert_repaired(workspace, "image", "shard", "flipped")


def test_a_copied_source_is_copied_again(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", scene(300, 400).transpose(1, 2, 0), photometric="rgb", tile=(256, 256))
    workspace = Workspace.open(str(tmp_path / "w"), create=True)
    ingest(IngestConfig(workspace=workspace.uri, sources=(str(tmp_path / "a.tif"),), copy_source=True, processes=1))
    pristine = content(workspace)
    (key,) = (key for key in pristine if key.startswith("sources/"))
    for how in DAMAGES:
        damage(workspace, key, how)
        (one,) = repair(workspace)
        assert (one.fixed, one.action) == (True, "copied again")
        assert content(workspace) == pristine


def test_what_told_a_mask_where_to_look_is_repaired_before_it(tmp_path: Path) -> None:
    """Else the mask would be inferred where a damaged screen says, and be called sound."""
    workspace = Workspace.open(str(tmp_path), create=True)
    put_image(workspace, "a", scene(600, 560))
    model, screen = (
        unet_package(workspace, num_classes=2, tile_px=64),
        unet_package(workspace, num_classes=3, tile_px=64),
    )
    config = PredictConfig(
        workspace=workspace.uri, model=model.model_id, screen=screen.model_id, name="m", shard_px=256, tile_px=64
    )
    assert predict(config).items[0].error is None
    before = content(workspace)
    for name in ("m", "m.screen"):
        workspace.objects.delete(f"images/a.ome.zarr/labels/{name}/0/c/1/1")
    assert {one.fixed for one in repair(workspace)} == {True}
    assert content(workspace) == before


def test_a_lost_shard_of_a_layer_is_inferred_again(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path), create=True)
    put_image(workspace, "a", scene(600, 560))
    model = unet_package(workspace, tile_px=64)
    common = {"workspace": workspace.uri, "model": model.model_id, "name": "m", "shard_px": 256, "blend": "gaussian"}
    predict(PredictConfig.model_validate(common))
    assert predict(PredictConfig.model_validate({**common, "layers": ("probs",)})).items[0].error is None
    before = content(workspace)
    workspace.objects.delete("layers/a/m.probs.ome.zarr/0/c/0/1/1")
    assert {one.fixed for one in repair(workspace)} == {True}
    assert content(workspace) == before


def test_a_mask_of_a_model_that_is_adapted_to_the_image_is_repaired(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(HEIGHT, WIDTH))
    model = unet_package(ws, norm="image").model_id
    predict(PredictConfig(workspace=ws.uri, model=model, name=MASK, shard_px=256, tile_workers=1))
    key = key_of("a", MASK, "shard")
    whole = ws.objects.get(key)
    damage(ws, key, "flipped")
    assert [(found.fixed, found.action) for found in repair(ws) if not found.fixed] == []
    assert ws.objects.get(key) == whole


def test_a_mask_that_predict_did_not_make_is_left_to_its_maker(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(workspace, "a", scene(300, 300))
    put_label(workspace, "a", "other", scene(300, 300)[0])
    damage(workspace, "images/a.ome.zarr/labels/other/0/c/0/0", "truncated")
    assert "not made by predict" in failures(repair(workspace))


def test_what_is_derived_is_deleted_and_a_dry_run_changes_nothing(copied: Workspace) -> None:
    image_id = image_id_of(copied)
    copied.objects.put(f"state/{image_id}/seen.json", b"{")
    damage(copied, key_of(image_id, MASK, "coarser shard"), "truncated")
    damage(copied, key_of(image_id, MASK, "record"), "flipped")
    before = content(copied)
    planned = repair(copied, dry_run=True)
    assert [(one.action, one.fixed) for one in planned] == [
        ("deleted: it is made anew when it is needed", False),
        ("inferred again", False),
        ("built again from the finer level", False),
    ]
    assert content(copied) == before
    done = repair(copied)
    assert [(one.action, one.fixed) for one in done] == [(one.action, True) for one in planned]
    assert copied.objects.get(f"state/{image_id}/seen.json") is None


def test_ngff_0_4_is_repaired_chunk_by_chunk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "a.tif", rng.integers(1, 255, (1100, 700, 3), np.uint8), photometric="rgb")
    workspace = Workspace.open(str(tmp_path / "w"), create=True)
    ingest(IngestConfig(workspace=workspace.uri, sources=(str(tmp_path / "a.tif"),), ngff="0.4", processes=1))
    package = unet_package(workspace)
    assert predict(PredictConfig(workspace=workspace.uri, model=package.model_id, name=MASK)).exit_code == 0
    image, pristine = prefixes(image_id_of(workspace), "image")[0], content(workspace)
    mask = f"{image}/labels/{MASK}"
    keys = (
        f"{image}/0/1/1/0", f"{image}/1/0/0/0", f"{image}/.zgroup", f"{image}/.zattrs", f"{image}/0/.zarray",
        f"{image}/labels/.zattrs", f"{image}/labels/.zgroup", f"{mask}/0/1/1", f"{mask}/.zattrs", f"{mask}/.zgroup",
    )  # fmt: skip
    for number, key in enumerate(keys):
        damage(workspace, key, DAMAGES[number % 3])
    outcome = repair(workspace)
    assert [one for one in outcome if not one.fixed] == []
    assert content(workspace) == pristine


def test_a_workspace_of_an_older_version_keeps_its_copies_from_then_on(copied: Workspace) -> None:
    """Its finished.json copies nothing, and its images do not tell how they were ingested."""
    image_id = image_id_of(copied)
    for name in ("image", "target", MASK):
        array, state = prefixes(image_id, name)
        key = f"{state}/finished.json"
        older = {"metadata": unseal(copied.objects.get(key) or b"")["metadata"]}
        if name == "image":
            document = json.loads(copied.objects.get(f"{array}/zarr.json") or b"")
            del document["attributes"]["segcore"]["recipe"]
            data = json.dumps(document).encode()
            copied.objects.put(f"{array}/zarr.json", data)
            older["metadata"][f"{array}/zarr.json"] = digest_of(data)
        copied.objects.put(key, json.dumps(seal(older)).encode())
    assert verify(copied) == []
    before = written(copied)
    for place in ("shard", "coarser shard"):
        damage(copied, key_of(image_id, MASK, place), "flipped")
    damage(copied, key_of(image_id, "image", "coarser shard"), "deleted")
    assert [one.fixed for one in repair(copied)] == [True, True, True]
    damage(copied, key_of(image_id, "image", "shard"), "flipped")
    assert "how it was ingested is not known" in failures(repair(copied))
    damage(copied, f"images/{image_id}.ome.zarr/labels/{MASK}/zarr.json", "deleted")
    assert [one.fixed for one in repair(copied) if one.problem.name == MASK] == [True]
    changed = {key for key in before if written(copied)[key] != before[key] and MASK in key and "/c/" in key}
    assert changed == {key_of(image_id, MASK, "shard"), key_of(image_id, MASK, "coarser shard")}


def test_shapes_get_the_ids_that_all_images_agreed_on(tmp_path: Path) -> None:
    """Alone, the second image would number its only class anew."""
    for name, classes in (("a", ("bog", "fen")), ("b", ("fen",))):
        tifffile.imwrite(tmp_path / f"{name}.tif", scene(300, 300).transpose(1, 2, 0), photometric="rgb")
        shapes = [
            {
                "type": "Feature",
                "properties": {"class": kind},
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[x, 10], [x + 50, 10], [x + 50, 90], [x, 90], [x, 10]]],
                },
            }
            for kind, x in zip(classes, (10, 120), strict=False)
        ]
        (tmp_path / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    config = IngestConfig(
        workspace=str(tmp_path / "w"),
        sources=(str(tmp_path / "a.tif"), str(tmp_path / "b.tif")),
        targets=str(tmp_path / "{stem}.geojson"),
        processes=1,
    )
    assert ingest(config).exit_code == 0
    workspace = Workspace.open(config.workspace)
    pristine = content(workspace)
    (image_id,) = (image_id for image_id in workspace.image_ids() if image_id.startswith("b-"))
    for key in (f"images/{image_id}.ome.zarr/labels/target/0/c/0/0", f"images/{image_id}.ome.zarr/0/c/0/0/0"):
        damage(workspace, key, "flipped")
    assert [one.action for one in repair(workspace) if not one.fixed] == []
    assert content(workspace) == pristine


def test_an_image_with_nan_as_nodata_is_repaired(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((600, 300), np.float32)
    pixels[:300] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", pixels, extratags=[(42113, "s", 0, "nan", True)])
    config = IngestConfig(workspace=str(tmp_path / "w"), sources=(str(tmp_path / "a.tif"),), shard_px=256, processes=1)
    assert ingest(config).exit_code == 0
    workspace = Workspace.open(config.workspace)
    image_id, pristine = image_id_of(workspace), content(workspace)
    array, state = prefixes(image_id, "image")
    for number, key in enumerate((f"{array}/0/c/0/2/1", f"{array}/1/c/0/0/0", f"{state}/plan.json")):
        damage(workspace, key, DAMAGES[number])
    assert [one.action for one in repair(workspace) if not one.fixed] == []
    assert content(workspace) == pristine
