"""Drift from the store to the store: what is unusual comes first, and why; kept, resumed, refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from scipy.ndimage import gaussian_filter

from segcore.config import DriftConfig, PredictConfig, ReportConfig, TrainConfig
from segcore.drift import drift
from segcore.drift import stage as drift_stage
from segcore.drift.looking import Looker, reference_of
from segcore.drift.reference import Reference
from segcore.geometry import Window
from segcore.inference import predict
from segcore.inference.contract import check_contract
from segcore.models.package import DRIFT, ModelPackage, read_package, write_package
from segcore.progress import SILENT
from segcore.publish import report
from segcore.results import StageResult
from segcore.spatial import Spacing
from segcore.store import Workspace, verify
from segcore.training import train
from tests.conftest import Bucket
from tests.inference.scenes import scene, unet_package
from tests.synthetic import put_discs, put_image, put_label

SIDES, NUM = (300, 280), 12
CPU = torch.device("cpu")


def usual_scene(seed: int) -> npt.NDArray[np.uint8]:
    """A scene under a light of its own, a little brighter or darker band by band."""
    light = np.random.default_rng(1000 + seed).normal(0, 4, (3, 1, 1))
    return np.clip(scene(*SIDES, seed=seed) + light, 0, 255).astype(np.uint8)


def with_reference(ws: Workspace, package: ModelPackage, image_ids: list[str]) -> ModelPackage:
    found = reference_of(package, [ws.image(image_id) for image_id in image_ids], CPU, SILENT)
    assert found is not None
    weights = safetensors.torch.load(package.weights)
    return write_package(ws.objects, "models", package.info, weights, {DRIFT: found.model_dump_json().encode()})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """Training images t0..., and new ones: an ordinary one, a brighter one, a blurred one of the same light."""
    ws = Workspace.open(str(tmp_path_factory.mktemp("drift") / "ws"), create=True)
    for number in range(NUM):
        put_image(ws, f"t{number}", usual_scene(number))
    package = with_reference(ws, unet_package(ws, norm="image"), [f"t{number}" for number in range(NUM)])
    put_image(ws, "ordinary", usual_scene(50))
    bright = usual_scene(51).astype(int)
    bright[1] += 45
    put_image(ws, "bright", np.clip(bright, 0, 255).astype(np.uint8))
    put_image(ws, "blurred", np.stack([gaussian_filter(band, 2) for band in usual_scene(52)]))
    put_image(ws, "other", np.ones((2, 64, 64), np.uint8))
    return ws, package.model_id


def drifted(ws: Workspace, model: str, **settings: Any) -> StageResult:
    return drift(DriftConfig(workspace=ws.uri, model=model, **settings))


def rows_of(result: StageResult) -> dict[str, dict[str, Any]]:
    """By image id, in the order of the list."""
    document = json.loads(Path(result.paths[0]).read_text(encoding="utf-8"))
    return {row["image"]: row for row in document["images"]}


def test_unusual_images_come_first_and_say_in_what(made: tuple[Workspace, str]) -> None:
    ws, model = made
    result = drifted(ws, model)
    rows = rows_of(result)
    assert set(list(rows)[:2]) == {"bright", "blurred"}
    assert {image for image, row in rows.items() if row["unusual"]} == {"bright", "blurred"}
    assert rows["bright"]["words"][0].startswith("band 1: ")
    assert " deviations brighter" in rows["bright"]["words"][0]
    assert rows["bright"]["percentile"] == 100
    assert rows["blurred"]["groups"]["texture"]["percentile"] == 100
    assert rows["ordinary"]["score"] < 2
    assert result.details["unusual"] == list(rows)[:2]
    assert result.exit_code == 0
    other = next(item for item in result.items if item.image == "other")
    assert (other.state, "expects the bands" in other.details["reason"]) == ("skipped", True)


def test_statistics_of_the_bands_are_those_of_numpy(made: tuple[Workspace, str]) -> None:
    ws, model = made
    package = read_package(ws, model)
    image = ws.image("t3")
    seen = Looker(package, CPU).seen(check_contract(package.contract, image).grid)["bands"]
    band = usual_scene(3)[2].astype(float)  # the sample is all of a small image
    wanted = {"mean": band.mean(), "deviation": band.std()}
    wanted |= {f"p{q}": np.percentile(band, q) for q in (1, 50, 99)}
    found = dict(zip(seen.names, seen.values, strict=True))
    assert {name: found[f"{name} band 2"] for name in wanted} == pytest.approx(wanted)


def test_a_rerun_looks_at_no_pixel_and_a_damaged_record_again(
    made: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, model = made
    once = rows_of(drifted(ws, model))
    monkeypatch.setattr(drift_stage, "Looker", lambda *_: pytest.fail("looked again"))
    again = drifted(ws, model)
    assert rows_of(again) == once
    assert again.details["num_reused"] == len(once)
    monkeypatch.undo()
    key = f"state/models/{model}/drift/bright.json"
    ws.objects.put(key, b'{"identity": ')
    assert [problem.key for problem in verify(ws, ["bright"])] == []
    assert rows_of(drifted(ws, model)) == once
    put_image(ws, "again", usual_scene(60))
    drifted(ws, model, images=("again",))
    put_image(ws, "again", 255 - usual_scene(60))
    assert drifted(ws, model, images=("again",)).details["num_reused"] == (0 if ws.image("again").digest else 1)


def test_nodata_and_unusable_pixels_do_not_count(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    package = unet_package(ws)
    pixels, valid = usual_scene(0), np.ones(SIDES, np.uint8)
    valid[:, 100:] = 0
    pixels[:, :50] = 0
    put_image(ws, "a", pixels, nodata=0, has_valid=True)
    put_label(ws, "a", "valid", valid)
    seen = Looker(package, CPU).seen(check_contract(package.contract, ws.image("a")).grid)["bands"]
    assert seen.values[0] == pytest.approx(pixels[0, 50:, :100].mean())


def test_unusable_pixels_of_a_resampled_image_do_not_count(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    package = unet_package(ws, spacing=Spacing(values={"y": 2.0, "x": 2.0}, unit="micrometer", origin="file"))
    contract = package.info.contract.model_copy(update={"spacing_tolerance": 0.5})
    pixels, valid = np.full((3, *SIDES), 90, np.uint8), np.ones(SIDES, np.uint8)
    pixels[:, :, 101:], valid[:, 100:] = 200, 0
    spacing = Spacing(values={"y": 1.6, "x": 1.6}, unit="micrometer", origin="file")
    put_image(ws, "a", pixels, has_valid=True, spacing=spacing)
    put_label(ws, "a", "valid", valid)
    grid = check_contract(contract, ws.image("a")).grid
    assert grid.is_resampled
    bands = Looker(package, CPU).seen(grid)["bands"]
    found = {value for name, value in zip(bands.names, bands.values, strict=True) if "deviation" not in name}
    assert found == {90}


def test_an_image_without_a_pixel_is_skipped_and_costs_a_training_nothing(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    images = [f"t{number}" for number in range(5)]
    for number, image_id in enumerate(images):
        put_image(ws, image_id, usual_scene(number)[:, :64, :64] * (number != 2), nodata=0)
    package = with_reference(ws, unet_package(ws), images)
    reference = Reference.read(package.drift)
    assert reference is not None
    assert reference.num_images == 4
    states = {item.image: item.state for item in drifted(ws, package.model_id).items}
    assert states == {image_id: "skipped" if image_id == "t2" else "done" for image_id in images}
    assert reference_of(package, [ws.image(image_id) for image_id in images[:3]], CPU, SILENT) is None


def test_a_fill_value_that_nobody_named_is_a_failure_not_a_score(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    floats = [(usual_scene(number)[:, :64, :64] / 255).astype(np.float32) for number in range(5)]
    for number, pixels in enumerate(floats[:4]):
        put_image(ws, f"t{number}", pixels)
    package = unet_package(ws)
    contract = package.contract.model_copy(update={"dtype": "float32", "mean": (0.5,) * 3, "std": (1.0,) * 3})
    info = package.info.model_copy(update={"contract": contract})
    package = write_package(ws.objects, "models", info, safetensors.torch.load(package.weights))
    package = with_reference(ws, package, [f"t{number}" for number in range(4)])
    floats[4][:, :20] = np.finfo(np.float32).min
    put_image(ws, "filled", floats[4])
    items = {item.image: item for item in drifted(ws, package.model_id).items}
    assert [image for image, item in items.items() if item.state == "failed"] == ["filled"]
    assert "its statistics are not finite" in (items["filled"].error or "")


def test_other_stain_is_told_by_name(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    rgb_of_hed = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    um = Spacing(values={"y": 0.5, "x": 0.5}, unit="micrometer", origin="file")

    def slide(seed: int, eosin: float = 0.3) -> npt.NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        amounts = np.array([0.2, eosin, 0.02]) * rng.normal(1, 0.05, 3)
        where = gaussian_filter(rng.random((3, 200, 200)), (0, 4, 4)) + 0.5
        density = np.einsum("s,syx,sc->cyx", amounts, where, rgb_of_hed)
        return np.rint(255 * np.exp(-density)).astype(np.uint8)

    def put(image_id: str, pixels: npt.NDArray[np.uint8]) -> None:
        put_image(ws, image_id, pixels, spacing=um)

    for number in range(10):
        put(f"t{number}", slide(number))
    package = unet_package(ws, spacing=um)
    bright = package.info.contract.model_copy(update={"bands": ("red", "green", "blue"), "mean": (200.0, 190.0, 210.0)})
    info = package.info.model_copy(update={"contract": bright})
    package = write_package(ws.objects, "models", info, safetensors.torch.load(package.weights))
    package = with_reference(ws, package, [f"t{number}" for number in range(10)])
    reference = Reference.read(package.drift)
    assert reference is not None
    assert set(reference.groups) == {"bands", "stain", "texture"}
    first = np.array(reference.groups["stain"].rows)[0]
    density = -np.log(np.maximum(slide(0), 1) / 255)
    wanted = np.einsum("cyx,cs->syx", density, np.linalg.inv(rgb_of_hed)).reshape(3, -1)
    assert first == pytest.approx(np.stack([wanted.mean(axis=1), wanted.std(axis=1)], axis=1).ravel(), rel=1e-4)
    put("new", slide(20))
    put("pink", slide(21, eosin=0.5))
    rows = rows_of(drifted(ws, package.model_id))
    assert next(iter(rows)) == "pink"
    assert rows["pink"]["unusual"]
    assert any(word.startswith("eosin") and word.endswith("stronger") for word in rows["pink"]["words"])
    assert not rows["new"]["unusual"]


def test_without_statistics_all_is_skipped(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "a", usual_scene(0))
    package = unet_package(ws)
    result = drifted(ws, package.model_id)
    assert [item.state for item in result.items] == ["skipped"]
    assert "train it again" in result.items[0].details["reason"]
    assert (result.paths, result.exit_code) == ((), 0)
    assert reference_of(package, [ws.image("a")] * 2, CPU, SILENT) is None
    assert Reference.read(b'{"version": 0, "groups": {}}') is None


def test_the_digest_covers_the_statistics(made: tuple[Workspace, str], tmp_path: Path) -> None:
    ws, model = made
    package = read_package(ws, model)
    assert Reference.read(package.drift) is not None
    bare = unet_package(ws, norm="image")
    assert read_package(ws, bare.model_id).drift is None
    assert bare.digest != package.digest
    ws.objects.put(f"models/{bare.model_id}/{DRIFT}", package.drift or b"")
    with pytest.raises(Exception, match=r"drift.json is damaged or was changed"):
        read_package(ws, bare.model_id)
    ws.objects.delete(f"models/{bare.model_id}/{DRIFT}")


def test_the_report_shows_the_most_unusual(made: tuple[Workspace, str]) -> None:
    ws, model = made
    images = ("ordinary", "bright", "t0")
    drifted(ws, model)
    predict(PredictConfig(workspace=ws.uri, model=model, images=images, shard_px=256, precision="float32"))
    page = Path(report(ReportConfig(workspace=ws.uri, model=model, run="r")).paths[0]).read_text(encoding="utf-8")
    section = page[page.index('id="unusual"') :]
    assert "1 of 3 images is farther from the 12 training images" in section
    assert section.index("Image bright") < section.index("Image ordinary")
    assert "deviations brighter" in section
    assert ws.label("bright", model).read(Window.whole(SIDES)).shape == SIDES


def test_an_object_store_holds_the_same(bucket: Bucket) -> None:
    ws = Workspace.open(f"{bucket.uri}/w", create=True)
    for number in range(4):
        put_image(ws, f"t{number}", usual_scene(number)[:, :64, :64])
    package = with_reference(ws, unet_package(ws), [f"t{number}" for number in range(4)])
    result = drifted(ws, package.model_id)
    assert [item.state for item in result.items] == ["done"] * 4
    assert result.paths == (f"{bucket.uri}/w/reports/drift/{package.model_id}.json",)
    assert drifted(ws, package.model_id).details["num_reused"] == 4


def test_training_keeps_statistics_of_some_images_in_the_package(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_discs(ws, [False] * 6 + [True], (64, 64), ((20, 40), (20, 40)), 10, 2)
    settings = {"workspace": ws.uri, "max_steps": 1, "tile_px": 32, "batch": 1, "channels": (4, 8), "picture": False}

    def trained(**more: Any) -> ModelPackage:
        return read_package(ws, train(TrainConfig.model_validate({**settings, **more})).details["model"])

    package = trained(drift_images=4)
    reference = Reference.read(package.drift)
    assert reference is not None
    assert (reference.num_images, set(reference.groups)) == (4, {"bands", "texture"})
    means = [ws.image(f"i{number}").read(Window.whole((2, 64, 64)))[0].mean() for number in (0, 1, 3, 5)]
    assert [row[0] for row in reference.groups["bands"].rows] == pytest.approx(means, rel=1e-5)
    assert trained(drift_images=4).model_id == package.model_id  # the run is at its end: its package stands
    assert trained(drift_images=0).drift is None
    rows = rows_of(drifted(ws, package.model_id))
    assert not any(rows[f"i{number}"]["unusual"] for number in (0, 1, 3, 5))
    classic = train(TrainConfig(workspace=ws.uri, architecture="otsu", picture=False)).details["model"]
    found = Reference.read(read_package(ws, classic).drift)
    assert found is not None
    assert set(found.groups) == {"bands"}
    assert {item.state for item in drifted(ws, classic).items} == {"done"}
