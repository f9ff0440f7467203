"""Pairing: a target that is not found is named with what lies there, and with the line that would name it."""

import csv
from pathlib import Path

import pytest

from segcore.config import IngestConfig
from segcore.errors import SourceError
from segcore.ingest.entries import Entry, check_found, list_entries


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def entry(folder: Path, targets: str) -> Entry:
    config = IngestConfig(
        workspace=str(folder / "w"), sources=(str(folder / "images/21_training.tif"),), targets=targets
    )
    return list_entries(config)[0]


@pytest.mark.parametrize("pattern", ["{stem}.gif", "{stem}*.gif"])
def test_names_that_only_begin_alike_are_shown_with_the_line_for_a_manifest(tmp_path: Path, pattern: str) -> None:
    files(tmp_path, "images/21_training.tif", "manual/21_manual1.gif", "manual/22_manual1.gif")
    with pytest.raises(SourceError) as raised:
        check_found(entry(tmp_path, "{parent}/../manual/" + pattern))
    message = str(raised.value)
    assert "its folder has 21_manual1.gif;" in message
    lines = message.split("'")[1::2]
    (tmp_path / "m.csv").write_text("\n".join([lines[-2], lines[-1]]))
    (row,) = csv.DictReader([lines[-2], lines[-1]])
    assert row["source"] == str(tmp_path / "images/21_training.tif")
    (found,) = list_entries(IngestConfig(workspace=str(tmp_path / "w"), manifest=str(tmp_path / "m.csv")))
    check_found(found)
    assert Path(found.targets[0]).samefile(tmp_path / "manual/21_manual1.gif")


def test_a_folder_that_is_not_there_is_empty_or_holds_nothing_alike(tmp_path: Path) -> None:
    files(tmp_path, "images/21_training.tif", "others/a.gif", "others/b.gif", "others/c.gif", "others/d.gif")
    (tmp_path / "empty").mkdir()
    for folder, said in [
        ("none", "no such folder"),
        ("empty", "is empty"),
        ("others", "a.gif, b.gif, c.gif and 1 more"),
    ]:
        with pytest.raises(SourceError, match=said):
            check_found(entry(tmp_path, f"{tmp_path}/{folder}/{{stem}}.gif"))
