import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import PredictConfig
from segcore.errors import ConfigError, ContractError, StoreError
from segcore.inference import pipeline, predict
from segcore.inference.crop import Piece
from segcore.inference.numerics import Network
from segcore.models.package import ModelPackage
from segcore.store import Image, Staging, Workspace, verify
from segcore.store.plan import latest_plan
from segcore.until import Until
from tests.inference.scenes import conv_package, every_level, mask_of, scene, unet_package
from tests.synthetic import put_image, put_label


class Listener:
    """Keeps what a stage says."""

    def __init__(self) -> None:
        self.total, self.done, self.notes = 0, 0, list[str]()

    def start(self, stage: str, total: int, unit: str) -> None:
        assert (stage, unit) == ("predict", "shards")
        self.total = total

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for seed, image_id in enumerate(("a", "b", "c")):
        put_image(ws, image_id, scene(400, 300, seed))
    return ws


@pytest.fixture
def package(ws: Workspace) -> ModelPackage:
    return unet_package(ws)


def config(ws: Workspace, package: ModelPackage, **settings: Any) -> PredictConfig:
    return PredictConfig(workspace=ws.uri, model=package.model_id, **{"shard_px": 256, "tile_workers": 2, **settings})


def interrupt_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the next predict is at work."""
    join, joins = pipeline._join, [0]

    def interrupted(threads: Any) -> None:
        joins[0] += 1
        if joins[0] == 2:
            raise KeyboardInterrupt
        join(threads)

    monkeypatch.setattr(pipeline, "_join", interrupted)


def test_predict_masks_every_image(ws: Workspace, package: ModelPackage) -> None:
    listener = Listener()
    result = predict(config(ws, package), listener)
    assert result.exit_code == 0
    assert [(item.image, item.state) for item in result.items] == [("a", "done"), ("b", "done"), ("c", "done")]
    assert (listener.total, listener.done) == (12, 12)
    details = result.items[0].details
    assert (details["tiles"], details["shards_written"], details["shards_resumed"]) == (12, 4, 0)
    assert result.peak_mib > 50
    label = ws.label("a", package.model_id)
    assert label.classes == package.classes
    assert label.attributes["model"] == {"id": package.model_id, "digest": package.digest}
    assert label.attributes["predict"]["tile_px"] == [128, 128]
    assert label.attributes["config"]["blend"] == "auto"
    assert label.attributes["predict"]["blend"] == "crop"
    assert "workspace" not in label.attributes["config"]
    assert label.num_levels == ws.image("a").num_levels
    assert ws.label_names("a") == [package.model_id]


def test_masks_are_of_the_version_of_their_image(ws: Workspace, package: ModelPackage) -> None:
    put_image(ws, "a4", scene(400, 300), ngff="0.4")
    predict(config(ws, package, images=("a", "a4")))
    label = ws.label("a4", package.model_id)
    assert label.ngff == "0.4"
    for mask, other in zip(
        every_level(ws, "a4", package.model_id), every_level(ws, "a", package.model_id), strict=True
    ):
        np.testing.assert_array_equal(mask, other)
    listed = json.loads((Path(ws.uri) / "images/a4.ome.zarr/labels/.zattrs").read_text())
    assert listed == {"labels": [package.model_id]}
    assert verify(ws) == []


def test_predict_again_skips_what_is_complete(ws: Workspace, package: ModelPackage) -> None:
    predict(config(ws, package, images=("b",)))
    listener = Listener()
    result = predict(config(ws, package), listener)
    assert [item.state for item in result.items] == ["done", "skipped", "done"]
    assert result.items[1].details == {"shards_written": 0, "shards_resumed": 4}
    assert listener.done == listener.total == 12


def test_another_plan_is_refused_then_overwrites(ws: Workspace, package: ModelPackage) -> None:
    predict(config(ws, package))
    result = predict(config(ws, package, tile_px=64))
    assert [item.state for item in result.items] == ["failed"] * 3
    assert "plan.tile_px: [128, 128] -> [64, 64]" in str(result.items[0].error)
    result = predict(config(ws, package, tile_px=64, overwrite=True))
    assert [item.state for item in result.items] == ["done"] * 3
    assert ws.label("a", package.model_id).attributes["predict"]["tile_px"] == [64, 64]


def test_what_the_config_leaves_open_does_not_undo_a_finished_mask(ws: Workspace, package: ModelPackage) -> None:
    predict(config(ws, package, tile_px=64, batch=2))
    assert [item.state for item in predict(config(ws, package)).items] == ["skipped"] * 3
    assert [item.state for item in predict(config(ws, package, batch=1)).items] == ["failed"] * 3


def test_a_changed_image_is_masked_by_one_plan_however_often_it_is_interrupted(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the old mask was made with (a tile that fitted the small image) is not mixed into the new plan."""
    put_image(ws, "d", scene(100, 90))
    predict(config(ws, package, images=("d",)))
    assert ws.label("d", package.model_id).attributes["predict"]["tile_px"] != [128, 128]
    put_image(ws, "d", scene(900, 1100))
    interrupt_soon(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predict(config(ws, package, images=("d",)))
    monkeypatch.undo()
    result = predict(config(ws, package, images=("d",)))
    assert (result.items[0].state, result.items[0].error) == ("done", None)
    assert ws.label("d", package.model_id).attributes["predict"]["tile_px"] == [128, 128]


@pytest.mark.parametrize("level", [0, 1])
def test_overwrite_makes_lost_shards_again_and_no_other(ws: Workspace, package: ModelPackage, level: int) -> None:
    put_image(ws, "d", scene(900, 1100))
    predict(config(ws, package, images=("d",)))
    before = mask_of(ws, "d", package.model_id)
    folder = Path(ws.uri, "images", "d.ome.zarr", "labels", package.model_id, str(level))
    lost = next(path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "zarr.json")
    lost.unlink()
    assert predict(config(ws, package, images=("d",))).items[0].state == "skipped"
    assert [problem.what for problem in verify(ws, ("d",))] == ["missing"]
    item = predict(config(ws, package, images=("d",), overwrite=True)).items[0]
    assert (item.state, item.details["shards_written"]) == ("done", 1 if level == 0 else 0)
    assert verify(ws, ("d",)) == []
    np.testing.assert_array_equal(mask_of(ws, "d", package.model_id), before)
    assert predict(config(ws, package, images=("d",), overwrite=True)).items[0].state == "skipped"


def test_overwrite_never_mends_a_mask_with_other_settings_than_it_has(ws: Workspace, package: ModelPackage) -> None:
    put_image(ws, "d", scene(900, 1100))
    predict(config(ws, package, images=("d",), name="whole"))
    predict(config(ws, package, images=("d",), tile_px=64, halo=4))
    folder = Path(ws.uri, "images", "d.ome.zarr", "labels", package.model_id, "0", "c")
    next(path for path in sorted(folder.rglob("*")) if path.is_file()).unlink()
    item = predict(config(ws, package, images=("d",), overwrite=True)).items[0]
    assert (item.state, item.details["shards_resumed"]) == ("done", 0)
    assert ws.label("d", package.model_id).attributes["predict"]["tile_px"] == [128, 128]
    np.testing.assert_array_equal(mask_of(ws, "d", package.model_id), mask_of(ws, "d", "whole"))


def test_another_validity_makes_a_mask_stale(ws: Workspace, package: ModelPackage) -> None:
    put_image(ws, "d", scene(300, 300), has_valid=True)
    valid = np.zeros((300, 300), np.uint8)
    valid[:100] = 1
    put_label(ws, "d", "valid", valid)
    predict(config(ws, package, images=("d",)))
    valid[:200] = 1
    put_label(ws, "d", "valid", valid, version=1)
    assert predict(config(ws, package, images=("d",))).items[0].state == "done"
    assert ((mask_of(ws, "d", package.model_id) != 255) == (valid == 1)).all()


def test_an_image_whose_validity_is_unfinished_is_refused(ws: Workspace, package: ModelPackage) -> None:
    put_image(ws, "d", scene(300, 300), has_valid=True)
    item = predict(config(ws, package, images=("d",))).items[0]
    assert item.state == "failed"
    assert "valid of image d" in str(item.error)


@pytest.mark.parametrize("name", ["image", "target", "valid"])
def test_the_workspaces_own_names_are_no_masks(ws: Workspace, package: ModelPackage, name: str) -> None:
    with pytest.raises(ValueError, match="the workspace's own"):
        config(ws, package, name=name)


def test_a_bad_image_fails_alone(ws: Workspace, package: ModelPackage) -> None:
    put_image(ws, "aa", scene(300, 300)[:2])
    put_image(ws, "ab", scene(300, 300).astype(np.uint16))
    listener = Listener()
    result = predict(config(ws, package, images=("a", "aa", "ab", "gone", "c")), listener)
    assert [item.state for item in result.items] == ["done", "failed", "failed", "failed", "done"]
    assert result.exit_code == 3
    assert "expects the bands band 0, band 1, band 2" in str(result.items[1].error)
    assert "expects uint8 pixels, the image has uint16" in str(result.items[2].error)
    assert "no image gone" in str(result.items[3].error)
    assert [item.error for item in result.items if item.error] == listener.notes


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_not_finite_logits_name_image_and_tile_and_end_in_no_shard(ws: Workspace, blend: str, precision: str) -> None:
    package = conv_package(ws, np.full((2, 3, 1, 1), 2.0), np.zeros(2), tile_px=64, dtype="float32")
    pixels = scene(400, 300).astype(np.float32)
    put_image(ws, "sound", pixels)
    pixels[1, 200, 100] = 3e38  # overflows
    put_image(ws, "spoilt", pixels)
    result = predict(config(ws, package, images=("spoilt", "sound"), blend=blend, precision=precision))
    assert [item.state for item in result.items] == ["failed", "done"]
    start = r"\(192, 64\)" if blend == "crop" else r"\(192, (48|96)\)"
    line = rf"image spoilt: tile at {start} \(y, x\) of level 0: expected finite logits, got \d+ .* in {precision}"
    with pytest.raises(AssertionError, match=line):
        raise AssertionError(result.items[0].error)
    assert "spoilt" not in [item.image for item in result.items if item.path]
    state = latest_plan(ws.objects, "spoilt", package.model_id)
    assert state is not None
    assert (0, (0, 0)) not in set(state.recorded())  # the shard of that tile
    assert not ws.is_complete("spoilt", package.model_id)


@pytest.mark.parametrize("place", ["read", "infer", "write", "finish"])
@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_an_error_in_any_thread_fails_its_image_and_no_other(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch, place: str, blend: str
) -> None:
    owners: dict[str, tuple[Any, str]] = {
        "read": (Image, "read"),
        "infer": (Piece, "answer"),
        "write": (Staging, "write_shard"),
        "finish": (Staging, "finish"),
    }
    if place == "infer" and blend == "gaussian":
        from segcore.inference.gaussian import Strip

        owners["infer"] = (Strip, "answer")
    owner, method = owners[place]
    original = getattr(owner, method)

    def breaks_on_b(self: Any, *args: Any, **kwargs: Any) -> Any:
        image_id = self.run.image.image_id if place == "infer" else self.image_id
        if image_id == "b":
            raise OSError(28, "No space left on device")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, breaks_on_b)
    result = predict(config(ws, package, blend=blend))
    assert [item.state for item in result.items] == ["done", "failed", "done"]
    assert result.items[1].error == "image b: OSError: [Errno 28] No space left on device"
    monkeypatch.undo()
    again = predict(config(ws, package, blend=blend))
    assert [item.state for item in again.items] == ["skipped", "done", "skipped"]
    assert np.isin(mask_of(ws, "b", package.model_id), (0, 1, 2)).all()


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_every_third_write_fails_and_reruns_end_with_the_same_pixels(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch, blend: str
) -> None:
    put_image(ws, "big", scene(600, 700))
    predict(config(ws, package, images=("big",), blend=blend, name="undisturbed"))
    original, calls = Staging.write_shard, [0]

    def sometimes(self: Staging, *args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] % 3 == 0:
            raise OSError("the disk is in a mood")
        original(self, *args, **kwargs)

    monkeypatch.setattr(Staging, "write_shard", sometimes)
    written, state = 0, "failed"
    for _ in range(40):
        item = predict(config(ws, package, images=("big",), blend=blend)).items[0]
        written, state = written + item.details.get("shards_written", 0), item.state
        if state == "done":
            break
    assert state == "done"
    assert calls[0] > 13  # 9 shards, and 4 + 1 above them
    assert written <= 9
    for ours, theirs in zip(
        every_level(ws, "big", package.model_id), every_level(ws, "big", "undisturbed"), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_an_error_of_the_pipeline_itself_is_raised(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Listener):
        def advance(self, amount: int = 1) -> None:
            raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        predict(config(ws, package), Broken())
    assert [item.state for item in predict(config(ws, package)).items] == ["done"] * 3  # no lease was left behind


def test_an_interrupt_ends_all_threads_and_the_rerun_goes_on(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    put_image(ws, "big", scene(900, 1100))
    predict(config(ws, package, images=("big",), name="undisturbed"))
    interrupt_soon(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predict(config(ws, package, images=("big",)))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("segcore-", "lease"))]
    monkeypatch.undo()
    assert predict(config(ws, package, images=("big",))).items[0].state == "done"
    np.testing.assert_array_equal(mask_of(ws, "big", package.model_id), mask_of(ws, "big", "undisturbed"))


def test_dry_run_counts_and_writes_nothing(ws: Workspace, package: ModelPackage, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = predict(config(ws, package, dry_run=True))
    assert sorted(tmp_path.rglob("*")) == before
    assert result.exit_code == 0
    first = result.items[0].details
    assert (first["tiles"], first["shards"]) == (12, 4)
    assert first["read_bytes"] == (400 + 4 * 32) * (300 + 3 * 32) * 3  # those at the right border are cut
    assert first["write_bytes"] == 400 * 300
    assert result.details["tiles"] == 36
    assert result.details["memory_mib"] > 50
    assert result.details["expected_s"] >= 0


def test_nothing_to_predict_is_one_clear_error(tmp_path: Path, ws: Workspace, package: ModelPackage) -> None:
    empty = Workspace.open(str(tmp_path / "empty"), create=True)
    with pytest.raises(StoreError, match="no image in it"):
        predict(PredictConfig(workspace=empty.uri, model=f"{ws.uri}/models/{package.model_id}"))
    with pytest.raises(ContractError, match="model 'gone'"):
        predict(PredictConfig(workspace=ws.uri, model="gone"))
    with pytest.raises(ConfigError, match="precision float16"):
        predict(config(ws, package, precision="float16", device="cpu"))


def test_memory_holds_few_shards(ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the writer, no more work than the slots, and the channels' items, is ever in memory."""
    import time
    import weakref

    put_image(ws, "big", scene(1100, 1100))
    alive: weakref.WeakSet[Piece] = weakref.WeakSet()
    most = [0]
    init, write = Piece.__init__, Staging.write_shard

    def counting(self: Piece, *args: Any) -> None:
        init(self, *args)
        alive.add(self)
        most[0] = max(most[0], len(alive))

    def slow(self: Staging, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.02)
        write(self, *args, **kwargs)

    monkeypatch.setattr(Piece, "__init__", counting)
    monkeypatch.setattr(Staging, "write_shard", slow)
    predict(config(ws, package, images=("big",)))
    assert most[0] <= 2 + 1 + 1 + 2  # slots (tile workers + reader + 1), and what a worker or reader still holds


def test_network_is_never_asked_for_another_batch_size(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    forward = Network.forward

    def spy(self: Network, tiles_ncyx: Any) -> Any:
        sizes.add(len(tiles_ncyx))
        return forward(self, tiles_ncyx)

    monkeypatch.setattr(Network, "forward", spy)
    predict(config(ws, package, batch=5, precision="float32"))
    assert sizes == {5}


@pytest.mark.parametrize("fill", [-32768, -9999, 0])
def test_the_fill_value_of_integers_reaches_no_pixel_that_counts(ws: Workspace, fill: int) -> None:
    usable = np.ones((200, 170), bool)
    usable[:70] = usable[:, 120:] = False
    values = np.random.default_rng(0).integers(1, 255, (3, 200, 170)).astype(np.int16)
    masks = []
    package = unet_package(ws, dtype="int16", tile_px=64, halo_px=16)
    for image_id, nodata in (("of", fill), ("other", 300)):
        put_image(ws, image_id, np.where(usable, values, nodata).astype(np.int16), nodata=float(nodata))
        how = {"images": (image_id,), "precision": "float32", "shard_px": 256, "name": "m"}
        (item,) = predict(PredictConfig(workspace=ws.uri, model=package.model_id, **how)).items
        assert item.error is None
        masks.append(mask_of(ws, image_id, "m"))
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0] == 255, ~usable)
    assert len(np.unique(masks[0])) > 2


def until_after(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The time is up after it was asked for so often."""
    asked = [0]

    def is_over(until: Until) -> bool:
        asked[0] += 1
        return until.moment is not None and asked[0] > times

    monkeypatch.setattr(Until, "is_over", property(is_over))


@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_predict_takes_no_new_work_after_its_time_and_the_next_call_goes_on(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    predict(config(ws, package, images=("c",)))
    until_after(monkeypatch, times)
    result = predict(config(ws, package, until="06:00"))
    monkeypatch.undo()
    states = {item.image: item.state for item in result.items}
    assert (result.exit_code, states["b"], states["c"]) == (3, "left", "skipped")
    written = sum(item.details.get("shards_written", 0) for item in result.items)
    if times == 0:
        assert sum(item.details.get("shards_left", 0) for item in result.items) == 8
    again = predict(config(ws, package))
    assert {item.state for item in again.items} <= {"done", "skipped"}
    assert written + sum(item.details["shards_written"] for item in again.items) == 8
    undisturbed = predict(config(ws, package, name="whole"))
    assert undisturbed.exit_code == 0
    for image_id in ("a", "b"):
        assert (mask_of(ws, image_id, package.model_id) == mask_of(ws, image_id, "whole")).all()
