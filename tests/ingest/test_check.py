"""The check: what the targets of a run hold, also where an earlier run wrote a part of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from segcore.classes import ClassInfo, default_classes
from segcore.config import IngestConfig
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.ingest.check import described, noted, noted_objects, num_objects, summary, summed
from segcore.ingest.entries import list_entries
from segcore.results import ItemResult, StageResult
from segcore.store import Staging, Workspace

RNG = np.random.default_rng(3)


def run(tmp_path: Path, **values: Any) -> StageResult:
    return ingest(IngestConfig.model_validate({"workspace": str(tmp_path / "w"), "processes": 1, **values}))


def picture(path: Path, pixels: Any) -> str:
    Picture.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return str(path)


def label(tmp_path: Path, at: int = 0) -> Any:
    workspace = Workspace.open(str(tmp_path / "w"))
    return workspace.label(workspace.image_ids()[at], "target")


def ids_of(tmp_path: Path) -> Any:
    found = label(tmp_path)
    return found.read(Window.whole(found.shape()))


def test_pixels_add_over_shards() -> None:
    ids = RNG.choice([0, 3, 255], size=(50, 70)).astype(np.uint8)
    total = summed([noted(ids[:20]), noted(ids[20:])])
    assert total == {value: int((ids == value).sum()) for value in (0, 3, 255)}
    assert summed([noted(ids), {}]) is None


def test_shares_are_named_and_an_empty_target_is_noted() -> None:
    classes = default_classes(2)
    said = described({0: 30, 1: 50, 255: 20}, classes, ["a note"])
    assert said["target"]["pixels"] == {"background": 30, "foreground": 50, "ignored": 20}
    assert said["target"]["shares"] == {"background": 0.3, "foreground": 0.5, "ignored": 0.2}
    assert said["notes"] == ["a note"]
    assert "notes" not in described({1: 9}, classes, ())
    assert described({0: 9, 255: 1}, classes, ())["notes"] == ["the target is empty: nothing but 'background'"]
    water = (ClassInfo(id=1, name="water", color=(0, 0, 9)),)
    assert described({255: 9}, water, ())["notes"] == ["the target is empty: nothing but ignored pixels"]
    assert described(None, classes, ()) == {}


def test_the_summary_weighs_images_by_their_pixels() -> None:
    classes = default_classes(2)
    items = [
        ItemResult(state="done", source="a", details=described({0: 10}, classes, ())),
        ItemResult(state="done", source="b", details=described({0: 10, 1: 80}, classes, ["overlap"])),
        ItemResult(state="failed", source="c"),
    ]
    assert summary(items) == {
        "targets": {"written": 2, "empty": 1, "shares": {"background": 0.2, "foreground": 0.8, "ignored": 0.0}},
        "notes": {"a": "the target is empty: nothing but 'background'", "b": "overlap"},
    }
    assert summary(items[2:]) == {}
    gap = ItemResult(state="done", source="a", details=described({0: 1, 3: 1}, default_classes(4), ()))
    assert summary([gap])["targets"]["shares"] == {"class 0": 0.5, "class 3": 0.5, "ignored": 0.0}


def test_a_resumed_run_counts_what_the_first_one_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "i.tif", RNG.integers(0, 256, (700, 600), np.uint8))
    ids = RNG.integers(0, 3, (700, 600), np.uint8)
    tifffile.imwrite(tmp_path / "m.tif", ids)
    asked = {"sources": (str(tmp_path / "i.tif"),), "targets": str(tmp_path / "m.tif"), "shard_px": 256}

    def killed(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "finish", killed)
        assert run(tmp_path, **asked).items[0].state == "failed"
    item = run(tmp_path, **asked).items[0]
    assert (item.details["shards_written"], item.details["shards_resumed"]) == (0, 9)
    expected = {number: int((ids == number).sum()) for number in range(3)}
    assert item.details["target"]["pixels"] == {f"class {n}": count for n, count in expected.items()} | {"ignored": 0}
    assert label(tmp_path).attributes["pixels"] == {str(number): count for number, count in expected.items()}


@pytest.fixture
def fibre(tmp_path: Path) -> dict[str, Any]:
    """A picture with one mask per class; returns what the two hold."""
    picture(tmp_path / "i.png", RNG.integers(0, 256, (60, 80)))
    held = {"axon": np.zeros((60, 80), bool), "myelin": np.zeros((60, 80), bool)}
    held["axon"][10:30, 10:30] = held["myelin"][25:50, 25:50] = True
    for name, where in held.items():
        picture(tmp_path / f"i_{name}.png", where * 255)
    return held


@pytest.mark.parametrize("is_manifest", [True, False])
def test_one_file_per_class(tmp_path: Path, fibre: dict[str, Any], is_manifest: bool) -> None:
    if is_manifest:
        (tmp_path / "m.csv").write_text("source,target\ni.png,axon=i_axon.png; myelin = i_myelin.png\n")
        result = run(tmp_path, manifest=str(tmp_path / "m.csv"))
    else:
        pattern = "axon={parent}/{stem}_axon.*;myelin={parent}/{stem}_myelin.png"
        result = run(tmp_path, sources=(str(tmp_path / "i.png"),), targets=pattern)
    assert [item.error for item in result.items] == [None]
    np.testing.assert_array_equal(ids_of(tmp_path), np.where(fibre["myelin"], 2, np.where(fibre["axon"], 1, 0)))
    assert [info.name for info in label(tmp_path).classes] == ["background", "axon", "myelin"]
    assert result.items[0].details["notes"] == [
        "'axon' and 'myelin' overlap on 25 px; 'myelin', the later one, has them"
    ]


def test_another_class_for_the_same_file_makes_the_target_again(tmp_path: Path, fibre: dict[str, Any]) -> None:
    asked = {"sources": (str(tmp_path / "i.png"),)}
    run(tmp_path, **asked, targets="axon={parent}/i_axon.png")
    assert run(tmp_path, **asked, targets="axon={parent}/i_axon.png").items[0].state == "skipped"
    assert run(tmp_path, **asked, targets="nerve={parent}/i_axon.png").items[0].state == "done"
    assert label(tmp_path).classes[1].name == "nerve"


def test_another_threshold_makes_the_target_again(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (60, 80))
    asked = {"sources": (picture(tmp_path / "i.png", grey),), "targets": picture(tmp_path / "m.png", grey)}
    for threshold in (100, 200):
        item = run(tmp_path, **asked, threshold=threshold).items[0]
        assert item.state == "done"
        np.testing.assert_array_equal(ids_of(tmp_path), grey > threshold)


def test_classes_that_disagree_need_a_table(tmp_path: Path, fibre: dict[str, Any]) -> None:
    picture(tmp_path / "j.png", RNG.integers(0, 256, (60, 80)))
    rows = "source,target\ni.png,axon=i_axon.png;myelin=i_myelin.png\nj.png,myelin=i_myelin.png\n"
    (tmp_path / "m.csv").write_text(rows)
    result = run(tmp_path, manifest=str(tmp_path / "m.csv"))
    assert [item.state for item in result.items] == ["done", "failed"]
    assert "its class 1 is 'myelin', that of" in str(result.items[1].error)
    (tmp_path / "t.csv").write_text("id,name\n0,none\n1,axon\n2,myelin\n")
    result = run(tmp_path, manifest=str(tmp_path / "m.csv"), classes=str(tmp_path / "t.csv"))
    assert [item.state for item in result.items] == ["done", "done"]
    assert set(result.items[1].details["target"]["pixels"]) == {"none", "axon", "myelin", "ignored"}


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path) -> None:
    def entry(targets: str) -> Any:
        asked = {"workspace": "w", "sources": (str(tmp_path / "i.png"),), "targets": targets}
        return list_entries(IngestConfig.model_validate(asked))[0]

    picture(tmp_path / "i.png", np.zeros((5, 5)))
    (tmp_path / "set=1").mkdir()
    assert entry("{parent}/set=1/{stem}.png").class_names == ()
    assert entry("./set=1/m.png").targets == ("./set=1/m.png",)
    (tmp_path / "m=1").mkdir()
    picture(tmp_path / "m=1" / "m.png", np.zeros((5, 5)))
    (tmp_path / "m.csv").write_text("source,target\ni.png,m=1/m.png\n")
    (row,) = list_entries(IngestConfig(workspace="w", manifest=str(tmp_path / "m.csv")))
    assert (row.class_names, row.targets) == ((), (f"{tmp_path}/m=1/m.png",))
    named = entry("a b={parent}/set=1/{stem}.png;c={parent}/x*.png")
    assert named.class_names == ("a b", "c")
    assert named.targets == (f"{tmp_path}/set=1/i.png", f"{tmp_path}/x*.png")
    with pytest.raises(ConfigError, match=r"expected name=file;name=file, got 'm\.png' without a name"):
        entry("a=x.png;m.png")


def test_a_stack_with_its_masks(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (4, 60, 70), np.uint8)
    ids = RNG.integers(0, 3, (4, 60, 70), np.uint8)
    for name, found in (("i", pixels), ("m", ids)):
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", found, ome=True, metadata={"axes": "ZYX"})
    result = run(tmp_path, sources=(str(tmp_path / "i.ome.tif"),), targets=str(tmp_path / "m.ome.tif"))
    assert [item.error for item in result.items] == [None]
    np.testing.assert_array_equal(ids_of(tmp_path), ids)
    assert sum(result.items[0].details["target"]["pixels"].values()) == ids.size


def test_black_and_white_beside_ids_is_refused(tmp_path: Path) -> None:
    """255 is ignore beside ids, and foreground beside nothing but 0: which of them, a mask of both cannot tell."""
    ids = np.kron(RNG.integers(0, 3, (3, 4)), np.ones((10, 10)))
    ids[0, :3], ids[-1, -1] = (0, 1, 2), 255
    for name, mask in (("a", ids), ("b", (ids == 255) * 255), ("c", ids == 1)):
        picture(tmp_path / f"{name}.png", np.zeros(ids.shape))
        picture(tmp_path / f"{name}_mask.png", mask)
    sources = tuple(str(tmp_path / f"{name}.png") for name in "abc")
    result = run(tmp_path, sources=sources, targets="{parent}/{stem}_mask.png")
    assert [item.state for item in result.items] == ["done", "failed", "done"]
    assert "b.png: its mask holds 0 and 255 alone" in str(result.items[1].error)
    assert "a.png holds ids up to 2, where 255 would mean ignore" in str(result.items[1].error)
    (tmp_path / "classes.csv").write_text("name\none\ntwo\nthree\n")
    result = run(tmp_path, sources=sources, targets="{parent}/{stem}_mask.png", classes=str(tmp_path / "classes.csv"))
    assert [item.state for item in result.items] == ["done", "done", "done"]
    assert result.items[1].details["target"]["pixels"] == {"one": 1199, "two": 0, "three": 0, "ignored": 1}


def test_objects_are_counted_once_over_shards() -> None:
    numbers = RNG.choice([0, 1, 2, 3, 9, 10, 70, 2**32 - 1], size=(40, 60)).astype(np.uint32)
    numbers[:, :3] = 5  # lies in both shards
    assert noted_objects(numbers[:1, :3]) == {"objects": [[5, 5]]}
    assert noted_objects(np.zeros((4, 4), np.uint32)) == {"objects": []}
    assert num_objects([noted_objects(numbers[:20]), noted_objects(numbers[20:])]) == len(np.unique(numbers)) - 1
    assert num_objects([noted_objects(numbers), {}]) is None
    assert num_objects([{"objects": [[1, 9]]}, {"objects": [[2, 3], [8, 12]]}]) == 12


def numbered(tmp_path: Path) -> tuple[str, Any]:
    """A source over several shards, with a mask of 30 objects, one of which lies in all of them."""
    source = picture(tmp_path / "cells.png", RNG.integers(0, 256, (300, 400, 3)))
    numbers = np.zeros((300, 400), np.uint16)
    for number in range(2, 31):
        y, x = divmod(number, 6)
        numbers[y * 40 : y * 40 + 20, x * 60 : x * 60 + 30] = 1000 * number
    numbers[250:262, 250:262] = 7
    tifffile.imwrite(tmp_path / "cells_mask.tif", numbers)
    return source, numbers


@pytest.mark.parametrize("is_manifest", [False, True])
def test_a_mask_of_object_numbers(tmp_path: Path, is_manifest: bool) -> None:
    source, numbers = numbered(tmp_path)
    if is_manifest:
        (tmp_path / "m.csv").write_text("source,target,target_values\ncells.png,cells_mask.tif,objects\n")
        asked: dict[str, Any] = {"manifest": str(tmp_path / "m.csv")}
    else:
        asked = {"sources": (source,), "targets": "{parent}/{stem}_mask.tif", "target_values": "objects"}
    result = run(tmp_path, shard_px=256, **asked)
    assert result.exit_code == 0
    assert result.details["targets"]["objects"] == 30
    workspace = Workspace.open(str(tmp_path / "w"))
    found = workspace.label(workspace.image_ids()[0], "target_instances")
    np.testing.assert_array_equal(found.read(Window.whole(found.shape())), numbers)
    np.testing.assert_array_equal(ids_of(tmp_path), numbers > 0)
    assert [info.name for info in label(tmp_path).classes] == ["background", "object"]
    assert [item.state for item in run(tmp_path, shard_px=256, **asked).items] == ["skipped"]


def test_a_mask_of_object_numbers_that_nobody_called_so_is_refused_and_then_taken(tmp_path: Path) -> None:
    source, numbers = numbered(tmp_path)
    asked = {"sources": (source,), "targets": "{parent}/{stem}_mask.tif"}
    (item,) = run(tmp_path, **asked).items
    assert "--target-values objects" in str(item.error)
    assert run(tmp_path, **asked, target_values="objects").exit_code == 0
    np.testing.assert_array_equal(ids_of(tmp_path), numbers > 0)


def test_objects_that_are_classes_after_all_leave_no_object_ids(tmp_path: Path) -> None:
    source, numbers = numbered(tmp_path)
    asked = {"sources": (source,), "targets": "{parent}/{stem}_mask.tif"}
    run(tmp_path, **asked, target_values="objects")
    tifffile.imwrite(tmp_path / "cells_mask.tif", (numbers > 0).astype(np.uint16))
    assert run(tmp_path, **asked, target_values="classes").exit_code == 0
    workspace = Workspace.open(str(tmp_path / "w"))
    (image_id,) = workspace.image_ids()
    np.testing.assert_array_equal(ids_of(tmp_path), numbers > 0)
    assert "target" in workspace.label_names(image_id)
    assert "target_instances" not in workspace.label_names(image_id)


def test_target_values_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("source,target,target_values\na.png,b.png,objekts\n")
    with pytest.raises(ConfigError, match="line 2: target_values must be classes or objects, got 'objekts'"):
        run(tmp_path, manifest=str(tmp_path / "m.csv"))
    with pytest.raises(ValueError, match="object numbers need none"):
        run(tmp_path, sources=("a.png",), targets="b.png", target_values="objects", threshold=0)


def test_numbers_and_one_file_per_object_give_the_same_objects(tmp_path: Path, data_dir: Path) -> None:
    folder = min((data_dir / "dsb2018").rglob("images"), key=lambda found: str(found)).parent
    source = next((folder / "images").glob("*.png"))
    numbers = np.zeros(())
    for number, file in enumerate(sorted((folder / "masks").glob("*.png")), 1):
        pixels = np.asarray(Picture.open(file))
        numbers = np.zeros(pixels.shape, np.uint32) if numbers.ndim == 0 else numbers
        numbers[(numbers == 0) & (pixels > 0)] = 3 * number
    tifffile.imwrite(tmp_path / "numbers.tif", numbers)
    by_file = {"sources": (str(source),), "targets": f"{folder}/masks/*.png"}
    by_number = by_file | {"targets": str(tmp_path / "numbers.tif"), "target_values": "objects"}
    labels, counted = [], []
    for name, asked in (("files", by_file), ("numbers", by_number)):
        (tmp_path / name).mkdir()
        counted.append(run(tmp_path / name, **asked).details["targets"]["objects"])
        workspace = Workspace.open(str(tmp_path / name / "w"))
        (image_id,) = workspace.image_ids()
        found = [workspace.label(image_id, label) for label in ("target", "target_instances")]
        labels.append([label.read(Window.whole(label.shape())) for label in found])
    (targets, objects), (same_targets, same_objects) = labels
    np.testing.assert_array_equal(targets, same_targets)
    np.testing.assert_array_equal(objects * 3, same_objects)
    assert counted[0] == counted[1] == len(np.unique(numbers)) - 1
