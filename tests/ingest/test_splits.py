"""Splits: shares are met by whole groups, stay as they are from call to call, and never divide a patient."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from segcore.config import IngestConfig, parse_shares
from segcore.errors import ConfigError, StoreError
from segcore.ingest import ingest
from segcore.ingest.entries import Entry
from segcore.ingest.splits import assign, in_splits
from segcore.store import Workspace


@pytest.mark.parametrize(
    ("text", "shares"), [("80/10/10", (0.8, 0.1, 0.1)), ("0.75/0.25", (0.75, 0.25, 0)), ("1/0/1", (0.5, 0, 0.5))]
)
def test_shares_are_normalised(text: str, shares: tuple[float, ...]) -> None:
    assert parse_shares(text) == pytest.approx(shares)


@pytest.mark.parametrize("text", ["80", "a/b", "0/0", "-1/2", "1/2/3/4", "nan/1"])
def test_wrong_shares_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="80/10/10"):
        parse_shares(text)


def test_shares_are_met_as_closely_as_whole_groups_allow() -> None:
    found = assign([f"patient {i}" for i in range(20)], (0.7, 0.2, 0.1), 0, {}, {})
    assert Counter(found.values()) == {"train": 14, "val": 4, "test": 2}


def test_the_order_of_the_groups_does_not_matter_and_the_seed_does() -> None:
    groups = [f"patient {i}" for i in range(20)]
    assert assign(groups, (0.5, 0.5, 0), 0, {}, {}) == assign(groups[::-1], (0.5, 0.5, 0), 0, {}, {})
    assert assign(groups, (0.5, 0.5, 0), 0, {}, {}) != assign(groups, (0.5, 0.5, 0), 1, {}, {})


def test_known_groups_stay_and_new_ones_fill_up_what_lacks() -> None:
    known = {f"old {i}": "train" for i in range(8)}
    found = assign([*known, "new 1", "new 2"], (0.8, 0.2, 0), 0, known, {})
    assert {group: found[group] for group in known} == known
    assert {found["new 1"], found["new 2"]} == {"val"}


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        Picture.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / name)


def splits(workspace: Path) -> dict[str, str | None]:
    """Split by the name of the source."""
    found = Workspace.open(str(workspace))
    images = [found.image(image_id) for image_id in found.image_ids()]
    return {Path(image.source).stem: image.split for image in images}


def test_a_group_lies_on_one_side_and_stays_there_in_later_calls(tmp_path: Path) -> None:
    names = [f"p{patient}_s{scan}.png" for patient in range(6) for scan in range(2)]
    put(tmp_path / "in", *names)
    asked = {"sources": (str(tmp_path / "in"),), "split": "50/50", "group": r"(p\d+)_", "processes": 1}
    first = ingest(IngestConfig.model_validate({"workspace": str(tmp_path / "w"), **asked}))
    assert first.details["split"] == {"train": 6, "val": 6}
    before = splits(tmp_path / "w")
    for patient in range(6):
        assert before[f"p{patient}_s0"] == before[f"p{patient}_s1"]
    put(tmp_path / "in", "p0_s2.png", "p5_s2.png", "p9_s0.png")
    ingest(IngestConfig.model_validate({"workspace": str(tmp_path / "w"), **asked}))
    after = splits(tmp_path / "w")
    assert {name: after[name] for name in before} == before
    assert (after["p0_s2"], after["p5_s2"]) == (before["p0_s0"], before["p5_s0"])
    assert after["p9_s0"] in ("train", "val")


def test_the_names_of_groups_stay_out_of_the_workspaces_keys(tmp_path: Path) -> None:
    put(tmp_path / "in", "smith_1.png")
    asked = {"sources": (str(tmp_path / "in"),), "split": "1/1", "group": r"([a-z]+)_", "ids": "hash", "processes": 1}
    ingest(IngestConfig.model_validate({"workspace": str(tmp_path / "w"), **asked}))
    (kept,) = (tmp_path / "w" / "splits").iterdir()
    assert "smith" not in kept.name + kept.read_text()


def test_a_split_that_was_changed_is_named(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.png")
    config = IngestConfig(workspace=str(tmp_path / "w"), sources=(str(tmp_path / "in"),), split="1/0", processes=1)
    ingest(config)
    (kept,) = (tmp_path / "w" / "splits").iterdir()
    kept.write_text(kept.read_text().replace('"train"', '"trais"'))
    with pytest.raises(StoreError, match=rf"{kept.name}: damaged; delete it"):
        ingest(config)


@pytest.mark.parametrize("per_call", [1, 3])
def test_shares_are_met_over_many_calls(tmp_path: Path, per_call: int) -> None:
    workspace = Workspace.open(str(tmp_path / "w"), create=True)
    entries = [Entry(source=f"/in/{i}.png", image_id=str(i), group=f"patient {i}") for i in range(30)]
    found: list[Entry] = []
    for i in range(0, 30, per_call):
        found += in_splits(entries[i : i + per_call], "70/20/10", 0, workspace)
    assert Counter(entry.split for entry in found) == {"train": 21, "val": 6, "test": 3}
    assert in_splits(entries[::-1], "1/1/1", 7, workspace) == found[::-1]


def manifest(tmp_path: Path, *rows: str) -> dict[str, Any]:
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "m.csv").write_text("\n".join(["source,split,group", *rows]))
    return {"workspace": str(tmp_path / "w"), "manifest": str(tmp_path / "m.csv"), "processes": 1}


@pytest.mark.parametrize("split", [{}, {"split": "1/1"}])
def test_a_manifest_that_gives_a_group_two_splits_is_refused(tmp_path: Path, split: dict[str, str]) -> None:
    asked = manifest(tmp_path, "a.png,train,p1", "b.png,val,p1") | split
    with pytest.raises(ConfigError) as refused:
        ingest(IngestConfig.model_validate(asked))
    said = str(refused.value)
    assert "\n" not in said
    for part in ("'p1'", f"train ({tmp_path}/a.png)", f"val ({tmp_path}/b.png)"):
        assert part in said


def test_a_split_that_a_manifest_gave_stays_and_counts(tmp_path: Path) -> None:
    ingest(IngestConfig.model_validate(manifest(tmp_path, "a.png,val,p1", "b.png,,p2") | {"split": "1/1"}))
    assert splits(tmp_path / "w") == {"a": "val", "b": "train"}
    ingest(IngestConfig.model_validate(manifest(tmp_path, "a.png,,p1", "b.png,,p2", "c.png,,p1") | {"split": "1/1"}))
    assert splits(tmp_path / "w") == {"a": "val", "b": "train", "c": "val"}
    refused = IngestConfig.model_validate(manifest(tmp_path, "a.png,test,p1", "b.png,,p2") | {"split": "1/1"})
    with pytest.raises(ConfigError, match="group 'p1' is test, but val in the workspace"):
        ingest(refused)


def test_a_group_that_is_no_expression_is_refused(tmp_path: Path) -> None:
    for pattern in ("p(", "p.*"):
        with pytest.raises(ValueError, match="regular expression"):
            IngestConfig(workspace=str(tmp_path), sources=("a",), group=pattern)


def test_a_wrong_limit_is_one_error(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.png")
    for limit, said in (("max_pxx=3", "did you mean 'max_px'"), ("max_px=many", "max_px=NUMBER")):
        config = IngestConfig(workspace=str(tmp_path / "w"), sources=(str(tmp_path / "in"),), limits=(limit,))
        with pytest.raises(ConfigError, match=said):
            ingest(config)
    config = IngestConfig(workspace=str(tmp_path / "w"), sources=(str(tmp_path / "in"),), limits=("max_whole_px=100",))
    (item,) = ingest(config).items
    assert item.error is not None
    assert "over the limit max_whole_px = 100" in item.error
