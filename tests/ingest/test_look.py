"""Look: what is read again and what is not; what waits; what is gone."""

import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from werkzeug.serving import WSGIRequestHandler

from segcore.config import IngestConfig
from segcore.ingest import ingest, run
from segcore.results import ItemResult, StageResult
from segcore.store import Workspace
from tests.conftest import Bucket


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    Picture.fromarray(np.full((20, 30, 3), value, np.uint8)).save(path, compress_level=0)
    return path


def ingested(tmp_path: Path, *sources: Path, **values: Any) -> StageResult:
    given = {"workspace": str(tmp_path / "w"), "sources": tuple(map(str, sources)), "processes": 1, **values}
    return ingest(IngestConfig.model_validate(given))


def only(result: StageResult) -> ItemResult:
    (item,) = result.items
    return item


def test_a_file_that_was_only_touched_is_not_ingested_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "in" / "a.png")
    assert only(ingested(tmp_path, path)).state == "done"
    for stamp_ns in (10**9, 2 * 10**9):
        os.utime(path, ns=(stamp_ns, stamp_ns))
        assert only(ingested(tmp_path, path)).details["reason"] == "unchanged"
    # The new stamp is remembered: the digest is not taken again.
    monkeypatch.setattr(run, "source_digest", None)
    assert only(ingested(tmp_path, path)).details["reason"] == "unchanged"


def test_a_remembered_stamp_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    path = picture(tmp_path / "in" / "a.png", 1)
    ingested(tmp_path, path)
    os.utime(path, ns=(10**9, 10**9))
    ingested(tmp_path, path)
    picture(path, 2)
    os.utime(path, ns=(2 * 10**9, 2 * 10**9))
    (seen,) = (tmp_path / "w" / "state").glob("*/seen.json")
    seen.write_text(seen.read_text().replace(str(10**9), str(2 * 10**9)))
    assert only(ingested(tmp_path, path)).state == "done"


def test_other_content_of_the_same_size_is_a_new_version(tmp_path: Path) -> None:
    path = picture(tmp_path / "in" / "a.png", 1)
    ingested(tmp_path, path)
    size = path.stat().st_size
    picture(path, 2)
    os.utime(path, ns=(10**9, 10**9))
    assert path.stat().st_size == size
    assert only(ingested(tmp_path, path)).state == "done"
    workspace = Workspace.open(str(tmp_path / "w"))
    image = workspace.image(workspace.image_ids()[0])
    assert int(image.attributes["request"]["source"]["mtime_ns"]) == 10**9


def test_another_split_does_not_read_the_source_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "in" / "a.png")
    ingested(tmp_path, path)
    monkeypatch.setattr(run, "source_digest", None)
    monkeypatch.setattr(run, "write_windows", None)
    result = only(ingested(tmp_path, path, split="0/1"))
    assert (result.state, result.details) == ("done", {"shards_written": 0, "shards_resumed": 1})
    workspace = Workspace.open(str(tmp_path / "w"))
    image = workspace.image(workspace.image_ids()[0])
    assert image.split == "val"
    assert image.digest is not None


def test_a_file_still_being_written_waits_for_the_next_run(tmp_path: Path) -> None:
    old, new = picture(tmp_path / "in" / "old.png"), picture(tmp_path / "in" / "new.png")
    past = time.time_ns() - 600 * 10**9
    os.utime(old, ns=(past, past))
    result = ingested(tmp_path, tmp_path / "in", quiet_minutes=5)
    assert [Path(item.source or "").name for item in result.items] == ["new.png", "old.png"]
    assert [item.state for item in result.items] == ["skipped", "done"]
    assert "waits for the next run" in result.items[0].details["reason"]
    os.utime(new, ns=(past, past))
    again = ingested(tmp_path, tmp_path / "in", quiet_minutes=5)
    assert [item.state for item in again.items] == ["done", "skipped"]


@pytest.mark.parametrize(("ahead_s", "state"), [(60, "skipped"), (10**6, "done")])
def test_a_time_in_the_future_is_a_wrong_clock_or_none(tmp_path: Path, ahead_s: int, state: str) -> None:
    path = picture(tmp_path / "in" / "a.png")
    future_ns = time.time_ns() + ahead_s * 10**9
    os.utime(path, ns=(future_ns, future_ns))
    item = only(ingested(tmp_path, path, quiet_minutes=5))
    assert item.state == state
    if state == "skipped":
        assert re.search(r"changed [56]\d s from now, by this clock, .* waits", item.details["reason"])


class Notes:
    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, stage: str, total: int, unit: str) -> None:
        return

    def advance(self, amount: int = 1) -> None:
        return

    def note(self, message: str) -> None:
        self.said.append(message)


@pytest.mark.parametrize("pattern", ["", "/*.png"])
def test_a_source_that_vanished_is_named_and_its_image_stays(tmp_path: Path, pattern: str) -> None:
    picture(tmp_path / "in" / "stays.png")
    gone = picture(tmp_path / "in" / "gone.png")
    picture(tmp_path / "other" / "elsewhere.png")
    ingested(tmp_path, tmp_path / "in", tmp_path / "other")
    gone.unlink()
    (tmp_path / "other" / "elsewhere.png").unlink()
    notes = Notes()
    config = IngestConfig(workspace=str(tmp_path / "w"), sources=(f"{tmp_path / 'in'}{pattern}",), processes=1)
    result = ingest(config, notes)
    assert result.exit_code == 0
    assert result.details["vanished"] == [str(gone)]
    assert any(str(gone) in line and "is gone" in line for line in notes.said)
    assert len(Workspace.open(str(tmp_path / "w")).image_ids()) == 3


def test_of_many_that_vanished_a_few_are_noted_and_all_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "MAX_NAMED", 2)
    for number in range(5):
        picture(tmp_path / "in" / f"{number}.png")
    ingested(tmp_path, tmp_path / "in")
    for number in range(1, 5):
        (tmp_path / "in" / f"{number}.png").unlink()
    notes = Notes()
    result = ingest(IngestConfig(workspace=str(tmp_path / "w"), sources=(str(tmp_path / "in"),), processes=1), notes)
    assert len(result.details["vanished"]) == 4
    assert sum("is gone" in line for line in notes.said) == 2
    assert notes.said[-1] == "gone too: 2 more; their images stay in the workspace"


def test_a_prefix_of_a_bucket_is_looked_at_again(tmp_path: Path, bucket: Bucket) -> None:
    pytest.importorskip("s3fs")
    for name in ("stays", "gone"):
        bucket.put(picture(tmp_path / f"{name}.png"), f"in/2026/{name}.png")
    config = IngestConfig(workspace=str(tmp_path / "w"), sources=(f"{bucket.uri}/in/",), processes=1)
    assert [item.state for item in ingest(config).items] == ["done", "done"]
    bucket.client.delete_object(Bucket=bucket.name, Key="in/2026/gone.png")
    result = ingest(config)
    assert [(item.source, item.state) for item in result.items] == [(f"{bucket.uri}/in/2026/stays.png", "skipped")]
    assert result.details["vanished"] == [f"{bucket.uri}/in/2026/gone.png"]


def test_an_unchanged_image_takes_three_requests(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    num_images = 5
    for value in range(num_images):
        bucket.put(picture(tmp_path / "in" / f"{value}.png", value), f"in/{value}.png")
    settings = {"workspace": f"{bucket.uri}/w", "sources": (f"{bucket.uri}/in/*.png",), "split": "0.6/0.2/0.2"}
    config = IngestConfig.model_validate({**settings, "processes": 1})
    assert [item.state for item in ingest(config).items] == ["done"] * num_images
    asked: list[str] = []

    def note(handler: WSGIRequestHandler, *_: Any) -> None:
        asked.append(f"{handler.command} {handler.path.partition('?')[0].removeprefix(f'/{bucket.name}')}")

    monkeypatch.setattr(WSGIRequestHandler, "log_request", note)
    assert [item.details for item in ingest(config).items] == [{"reason": "unchanged"}] * num_images
    kinds = Counter("/".join(name.split("/")[:3]).removesuffix(".json") for name in asked)
    assert max(Counter(asked).values()) <= 2, "the listings of sources and images alone have one name"
    assert sum("/in/" in name for name in kinds.elements()) == num_images, "the stamp of each source"
    assert kinds["GET /w/images"] == kinds["GET /w/splits"] == num_images
    assert len(asked) == 3 * num_images + 3, asked
