"""Staging: same pixels however it is interrupted, whole shards only, complete or not there at all."""

import contextlib
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.classes import default_classes
from segcore.errors import IncompleteError, LeaseHeldError, PlanMismatchError, StoreError
from segcore.geometry import Window
from segcore.spatial import Georef, Spacing
from segcore.store import Objects, PyramidSpec, Staging, Workspace, verify
from segcore.store.arrays import open_with_zarr
from tests.synthetic import write

SPEC = PyramidSpec(axes=("c", "y", "x"), shape=(3, 1700, 2600), dtype="uint8", kind="image", shard_px=256)
PLAN = {"source": {"digest": "abc"}, "tile": 512}
ATTRIBUTES: dict[str, Any] = {
    "source": "file.tif",
    "spacing": Spacing(values={"y": 0.5, "x": 0.25}, unit="micrometer", origin="file").model_dump(),
}


@functools.cache
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, SPEC.shape, dtype=np.uint8)
    pixels[:, :512, :512] = 0  # shards of nothing but fill
    pixels.flags.writeable = False
    return pixels


def make(workspace: Workspace, pixels: np.ndarray) -> None:
    with Staging.begin(workspace, "a", "image", PLAN, SPEC) as staging:
        write(staging, pixels)
        staging.finish(ATTRIBUTES, channels=("r", "g", "b"))


def test_every_level_reads_back_what_was_written(workspace: Workspace) -> None:
    pixels = picture()
    make(workspace, pixels)
    image = workspace.image("a")
    expected = pixels
    for level in range(image.num_levels):
        assert (image.read(Window.whole(image.shape(level)), level) == expected).all()
        expected = SPEC.reduced(expected)
    assert image.num_levels == len(SPEC.levels) == 4
    assert image.channels == ("r", "g", "b")
    assert workspace.image_ids() == ["a"]
    assert verify(workspace) == []


def test_an_unaligned_window_is_the_same_through_zarr_and_tensorstore(local_workspace: Workspace) -> None:
    pixels = picture()
    make(local_workspace, pixels)
    window = Window((0, 201, 333), (3, 700, 1001))
    reader = open_with_zarr(local_workspace.objects, "images/a.ome.zarr/0")
    assert (local_workspace.image("a").read(window) == pixels[window.slices]).all()
    assert (reader.read(window) == pixels[window.slices]).all()


def test_an_interrupted_run_goes_on_and_writes_nothing_twice(workspace: Workspace) -> None:
    pixels = picture()
    written = []
    for stop_after in (3, 0, 17, 30, None):
        staging = Staging.begin(workspace, "a", "image", PLAN, SPEC)
        written += write(staging, pixels, stop_after)
        if stop_after is None:
            staging.finish(ATTRIBUTES, channels=("r", "g", "b"))
        staging.close()
    assert sorted(written) == sorted(SPEC.grid(0).indices())
    image, whole = workspace.image("a"), Workspace.open(f"memory://{workspace.uri}/whole", create=True)
    make(whole, pixels)
    for level in range(image.num_levels):
        window = Window.whole(image.shape(level))
        assert (image.read(window, level) == whole.image("a").read(window, level)).all()
    assert verify(workspace) == []


class InjectedError(StoreError):
    """What a store that is away raises."""


class FailingEveryThirdPut:
    """Makes every third shard put of a workspace raise."""

    def __init__(self, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._put = objects.put
        monkeypatch.setattr(objects, "put", self.put)

    def put(self, key: str, data: bytes) -> None:
        if "/c/" in key:
            self.count += 1
            if self.count % 3 == 0:
                raise InjectedError
        self._put(key, data)


def test_failing_writes_end_in_the_same_pixels(local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture()
    failing = FailingEveryThirdPut(local_workspace.objects, monkeypatch)
    for _ in range(200):
        with contextlib.suppress(InjectedError):
            make(local_workspace, pixels)
            break
    assert failing.count > 70
    image = local_workspace.image("a")
    assert (image.read(Window.whole(SPEC.shape)) == pixels).all()
    assert (image.read(Window.whole(image.shape(1)), 1) == SPEC.reduced(pixels)).all()
    assert verify(local_workspace) == []


def test_an_unfinished_image_is_not_there_and_says_so(workspace: Workspace) -> None:
    with Staging.begin(workspace, "a", "image", PLAN, SPEC) as staging:
        write(staging, picture(), 5)
        with pytest.raises(IncompleteError, match="72 shards are not finished"):
            staging.finish(ATTRIBUTES, channels=("r", "g", "b"))
    assert workspace.image_ids() == []
    with pytest.raises(IncompleteError, match="not complete"):
        workspace.image("a")
    with pytest.raises(StoreError, match="no image b"):
        workspace.image("b")


def test_another_plan_is_refused_with_the_difference_named(workspace: Workspace) -> None:
    make(workspace, picture())
    with pytest.raises(PlanMismatchError, match=r"plan\.tile: 512 -> 256"):
        Staging.begin(workspace, "a", "image", {**PLAN, "tile": 256}, SPEC)
    assert workspace.image_ids() == ["a"]


def test_overwrite_replaces_the_pixels_in_place(workspace: Workspace) -> None:
    make(workspace, picture())
    other = 255 - picture()
    with Staging.begin(workspace, "a", "image", {**PLAN, "tile": 256}, SPEC, overwrite=True) as staging:
        assert workspace.image_ids() == []
        assert len(write(staging, other)) == SPEC.grid(0).num_cells
        staging.finish(ATTRIBUTES, channels=("r", "g", "b"))
    assert (workspace.image("a").read(Window.whole(SPEC.shape)) == other).all()
    assert workspace.objects.folders("state/a/image") == ("1", "lease")
    assert verify(workspace) == []


def test_who_still_works_by_a_plan_that_was_replaced_writes_nothing_more(workspace: Workspace) -> None:
    """A dask worker whose leader was killed, or a machine that slept while its lease ran out."""
    make(workspace, picture())
    late = Staging.attach(workspace, "a", "image")
    other = 255 - picture()
    with Staging.begin(workspace, "a", "image", {**PLAN, "tile": 256}, SPEC, overwrite=True) as staging:
        write(staging, other)
        staging.finish(ATTRIBUTES, channels=("r", "g", "b"))
    with pytest.raises(StoreError, match="a/image: its plan was replaced, or removed, by another run"):
        late.write_shard(0, (0, 3, 3), picture()[SPEC.grid(0).window((0, 3, 3)).slices])
    assert (workspace.image("a").read(Window.whole(SPEC.shape)) == other).all()
    assert verify(workspace) == []


def test_a_changed_source_supersedes_without_overwrite_whatever_its_size(workspace: Workspace) -> None:
    make(workspace, picture())
    with pytest.raises(PlanMismatchError):
        Staging.begin(workspace, "a", "image", {**PLAN, "tile": 256}, SPEC, supersede=("source",))
    changed = {**PLAN, "source": {"digest": "def"}, "tile": 256}
    larger = SPEC.model_copy(update={"shape": (3, 1701, 2600)})
    with Staging.begin(workspace, "a", "image", changed, larger, supersede=("source",)) as staging:
        assert len(staging.windows()) == larger.units.num_cells
        assert workspace.image_ids() == []


def test_a_kill_after_the_mark_is_made_up_for(workspace: Workspace) -> None:
    make(workspace, picture())
    label(workspace, "m-1")
    workspace.objects.delete("images/a.ome.zarr/labels/zarr.json")
    assert [problem.key for problem in verify(workspace)] == ["images/a.ome.zarr/labels/zarr.json"]
    label(workspace, "m-1")
    assert verify(workspace) == []


def test_a_damaged_ledger_record_is_no_record(local_workspace: Workspace) -> None:
    pixels = picture()
    with Staging.begin(local_workspace, "a", "image", PLAN, SPEC) as staging:
        write(staging, pixels)
    (Path(local_workspace.uri) / "state/a/image/0/shards/0/0.2.2").write_text("{")
    with Staging.begin(local_workspace, "a", "image", PLAN, SPEC) as staging:
        assert write(staging, pixels) == [(0, 2, 2)]
        staging.finish(ATTRIBUTES, channels=("r", "g", "b"))
    assert verify(local_workspace) == []


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("state/a/image/0/plan.json", "no plan"),
        ("state/a/image/0/finished.json", "not complete"),
        ("state/a/image/0/shards/0/0.2.2", "no readable ledger record"),
    ],
)
def test_verify_misses_no_piece_of_the_state(local_workspace: Workspace, key: str, what: str) -> None:
    make(local_workspace, picture())
    (Path(local_workspace.uri) / key).unlink()
    (problem,) = verify(local_workspace)
    assert problem.what.startswith(what)


def test_verify_names_an_image_that_is_not_there(local_workspace: Workspace) -> None:
    make(local_workspace, picture())
    (problem,) = verify(local_workspace, ("typo",))
    assert (problem.image, problem.what) == ("typo", "no such image")


def test_a_store_that_is_away_keeps_no_lease_from_being_given_back(
    local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Staging.begin(local_workspace, "a", "image", PLAN, SPEC)

    def fail(key: str, data: bytes) -> bool:
        raise InjectedError

    monkeypatch.setattr(local_workspace.objects, "put_new", fail)
    staging.close()


def test_a_finished_image_is_skipped_and_takes_no_lease(workspace: Workspace) -> None:
    make(workspace, picture())
    terms = sorted(workspace.objects.list("state/a/image/lease"))
    with Staging.begin(workspace, "a", "image", PLAN, SPEC) as staging:
        assert staging.finished
    assert sorted(workspace.objects.list("state/a/image/lease")) == terms


def test_a_live_writer_keeps_others_out(local_workspace: Workspace) -> None:
    holder = Staging.begin(local_workspace, "a", "image", PLAN, SPEC)
    with pytest.raises(LeaseHeldError, match="is writing it"):
        Staging.begin(local_workspace, "a", "image", PLAN, SPEC)
    holder.close()
    Staging.begin(local_workspace, "a", "image", PLAN, SPEC).close()


def test_a_dead_writer_is_followed_at_once(local_workspace: Workspace) -> None:
    Staging.begin(local_workspace, "a", "image", PLAN, SPEC).close()
    objects = local_workspace.objects
    newest = max(int(key.rsplit("/", 1)[-1]) for key, _ in objects.list("state/a/image/lease"))
    term = json.loads(objects.get(f"state/a/image/lease/{newest}") or b"")
    term["owner"]["pid"], term["released"] = 2**22 - 1, False
    objects.put(f"state/a/image/lease/{newest + 1}", json.dumps(term).encode())
    Staging.begin(local_workspace, "a", "image", PLAN, SPEC).close()


def test_verify_names_missing_damaged_and_unexpected_objects(local_workspace: Workspace) -> None:
    make(local_workspace, picture())
    folder = Path(local_workspace.uri) / "images/a.ome.zarr"
    (folder / "0/c/0/3/4").unlink()
    damaged = bytearray((folder / "1/c/0/1/1").read_bytes())
    damaged[100] ^= 1
    (folder / "1/c/0/1/1").write_bytes(damaged)
    (folder / "2/zarr.json").write_text("{}")
    assert not (folder / "0/c/0/0/0").exists()
    (folder / "0/c/0/0").mkdir(parents=True, exist_ok=True)
    (folder / "0/c/0/0/0").write_bytes(b"ghost")
    found = {
        (problem.key.removeprefix("images/a.ome.zarr/"), problem.what.split(":")[0].split(",")[0])
        for problem in verify(local_workspace)
    }
    assert found == {
        ("0/c/0/3/4", "missing"),
        ("1/c/0/1/1", "damaged"),
        ("2/zarr.json", "damaged"),
        ("0/c/0/0/0", "there"),
    }


def test_a_shard_that_lost_bytes_is_written_again_by_the_next_run(local_workspace: Workspace) -> None:
    pixels = picture()
    with Staging.begin(local_workspace, "a", "image", PLAN, SPEC) as staging:
        write(staging, pixels)
    folder = Path(local_workspace.uri) / "images/a.ome.zarr"
    (folder / "0/c/0/3/4").write_bytes(b"cut")
    with Staging.begin(local_workspace, "a", "image", PLAN, SPEC) as staging:
        assert write(staging, pixels) == [(0, 3, 4)]
        staging.finish(ATTRIBUTES, channels=("r", "g", "b"))
    assert verify(local_workspace) == []


def label(workspace: Workspace, name: str) -> None:
    spec = PyramidSpec(axes=("y", "x"), shape=SPEC.shape[1:], dtype="uint8", kind="mask", shard_px=512)
    ids = (picture()[0] > 99).astype(np.uint8)
    with Staging.begin(workspace, "a", name, {"model": name}, spec) as staging:
        write(staging, ids)
        staging.finish(ATTRIBUTES, classes=default_classes(2))


def test_labels_are_listed_when_complete(workspace: Workspace) -> None:
    make(workspace, picture())
    label(workspace, "m-2")
    label(workspace, "m-1")
    assert workspace.label_names("a") == ["m-1", "m-2"]
    listed = json.loads(workspace.objects.get("images/a.ome.zarr/labels/zarr.json") or b"")
    assert listed["attributes"]["ome"]["labels"] == ["m-1", "m-2"]
    assert workspace.label("a", "m-1").classes == default_classes(2)
    assert (workspace.label("a", "m-2").read(Window.whole(SPEC.shape[1:])) == (picture()[0] > 99)).all()


def test_outside_validators_accept_image_and_labels(local_workspace: Workspace) -> None:
    import ome_zarr_models
    import yaozarrs
    import zarr

    make(local_workspace, picture())
    label(local_workspace, "m-1")
    root = str(Path(local_workspace.uri) / "images/a.ome.zarr")
    yaozarrs.validate_zarr_store(root)
    yaozarrs.validate_zarr_store(f"{root}/labels/m-1")
    image: Any = ome_zarr_models.open_ome_zarr(zarr.open_group(root, mode="r"))
    datasets = image.ome_attributes.multiscales[0].datasets
    assert datasets[2].coordinateTransformations[0].scale == [1.0, 2.0, 1.0]
    assert datasets[2].coordinateTransformations[1].translation == [0.0, 0.75, 0.375]
    assert type(image).__name__ == "Image"
    mask: Any = ome_zarr_models.open_ome_zarr(zarr.open_group(f"{root}/labels/m-1", mode="r"))
    assert type(mask).__name__ == "ImageLabel"


def test_georeference_is_written_in_geozarrs_words(local_workspace: Workspace) -> None:
    georef = Georef(crs_wkt='PROJCS["x"]', epsg=26914, transform=(5.0, 0.0, 1e5, 0.0, -5.0, 4e6))
    with Staging.begin(local_workspace, "a", "image", PLAN, SPEC) as staging:
        write(staging, picture())
        staging.finish({**ATTRIBUTES, "georef": georef.model_dump()}, channels=("r", "g", "b"))
    data = json.loads(local_workspace.objects.get("images/a.ome.zarr/zarr.json") or b"")["attributes"]
    assert data["proj:code"] == "EPSG:26914"
    assert data["spatial:transform"] == [5.0, 0.0, 1e5, 0.0, -5.0, 4e6]
    assert local_workspace.image("a").georef == georef


def test_validity_follows_label_then_nodata_then_all(local_workspace: Workspace) -> None:
    spec = SPEC.model_copy(update={"nodata": 0.0})
    pixels = picture()
    with Staging.begin(local_workspace, "a", "image", PLAN, spec) as staging:
        write(staging, pixels)
        staging.finish(ATTRIBUTES, channels=("r", "g", "b"))
    window = Window((500, 500), (40, 30))
    valid = local_workspace.image("a").read_valid(window)
    assert (valid == (pixels[:, 500:540, 500:530] != 0).any(axis=0)).all()
    assert not valid[:12, :12].any()


def test_nan_as_nodata_stays_strict_json(local_workspace: Workspace) -> None:
    spec = PyramidSpec(axes=("c", "y", "x"), shape=(1, 30, 40), dtype="float32", kind="image", nodata=float("nan"))
    pixels = np.full(spec.shape, np.nan, np.float32)
    pixels[0, 3, 4] = 1
    with Staging.begin(local_workspace, "a", "image", PLAN, spec) as staging:
        write(staging, pixels)
        staging.finish(ATTRIBUTES, channels=("height",))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for level in ("", "0/"):
        data = local_workspace.objects.get(f"images/a.ome.zarr/{level}zarr.json")
        json.loads(data or b"", parse_constant=refuse)
    image = local_workspace.image("a")
    assert image.nodata is not None
    assert np.isnan(image.nodata)
    assert image.read_valid(Window((0, 0), (30, 40))).sum() == 1


@pytest.mark.parametrize("side", [1, 2])
def test_parts_of_a_work_unit_write_what_the_unit_writes(tmp_path: Path, side: int) -> None:
    stored = []
    for name, wanted in (("whole", 4), ("parts", side)):
        workspace = Workspace.open(str(tmp_path / name), create=True)
        with Staging.begin(workspace, "a", "image", PLAN, SPEC) as staging:
            windows = staging.windows(wanted)
            for window in reversed(windows):
                writer = staging.writer(window)
                for shard in staging.pending(window):
                    writer.put(shard, picture()[staging.shard_window(shard).slices])
            staging.finish({}, channels=("a", "b", "c"))
        assert verify(workspace) == []
        stored.append({key: workspace.objects.get(key) for key, _ in workspace.objects.list("images")})
    assert stored[0] == stored[1]


def test_a_part_that_is_done_is_not_asked_for_again(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "w"), create=True)
    with Staging.begin(workspace, "a", "image", PLAN, SPEC) as staging:
        first, *others = staging.windows(2)
        writer = staging.writer(first)
        for shard in staging.pending(first):
            writer.put(shard, picture()[staging.shard_window(shard).slices])
    with Staging.begin(workspace, "a", "image", PLAN, SPEC) as staging:
        assert staging.windows(2) == others
        assert staging.is_done(1, (0, 0, 0))


@pytest.mark.parametrize("side", [1, 2, 4])
def test_who_gathers_the_quarters_leaves_nothing_to_finish(tmp_path: Path, side: int) -> None:
    whole, parts = (Workspace.open(str(tmp_path / name), create=True) for name in ("whole", "parts"))
    make(whole, picture())
    with Staging.begin(parts, "a", "image", PLAN, SPEC) as staging:
        gatherer = staging.gatherer()
        for window in reversed(staging.windows(side)):
            writer = staging.writer(window)
            for shard in staging.pending(window):
                writer.put(shard, picture()[staging.shard_window(shard).slices])
            for quarter in writer.quarters:
                gatherer.take(quarter)
        grids = [staging.spec.grid(level) for level in range(len(SPEC.levels))]
        assert set(staging.state.records()) == {
            (level, at) for level, grid in enumerate(grids) for at in grid.indices()
        }
        staging.finish(ATTRIBUTES, channels=("r", "g", "b"))
    assert [parts.objects.get(key) for key, _ in sorted(whole.objects.list("images"))] == [
        whole.objects.get(key) for key, _ in sorted(whole.objects.list("images"))
    ]


def test_what_is_not_gathered_is_built_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segcore.store.unit.MAX_GATHERED_BYTES", 1)
    workspace = Workspace.open(str(tmp_path / "w"), create=True)
    with Staging.begin(workspace, "a", "image", PLAN, SPEC) as staging:
        gatherer = staging.gatherer()
        for window in staging.windows(1):  # in raster order: a row of parents would be open
            writer = staging.writer(window)
            for shard in staging.pending(window):
                writer.put(shard, picture()[staging.shard_window(shard).slices])
            for quarter in writer.quarters:
                gatherer.take(quarter)
        assert len([level for level, _ in staging.state.records() if level == 1]) < staging.spec.grid(1).num_cells
        staging.finish({}, channels=("a", "b", "c"))
    assert verify(workspace) == []
    level = open_with_zarr(workspace.objects, "images/a.ome.zarr/1")
    assert np.array_equal(level.read(Window.whole(level.shape)), SPEC.reduced(picture()))
