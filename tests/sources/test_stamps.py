"""Stamps and digests: they change with every file that is part of an image."""

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from segcore.errors import SourceError
from segcore.sources import companions
from segcore.sources.stamps import content_digest, stamp


def item(*hrefs: str, **more: Any) -> str:
    assets = {str(i): {"href": href, "roles": ["data"]} for i, href in enumerate(hrefs)}
    return json.dumps({"type": "Feature", "stac_version": "1.0.0", "assets": assets} | more)


def put(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)
        os.utime(path, ns=(10**9, 10**9))


MIRAX = {"a.mrxs": "x", "a/Slidedat.ini": "[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = D.dat\n", "a/D.dat": "pixels"}
VMS = {"a.vms": "[Virtual Microscope Specimen]\nImageFile=a.jpg\nMapFile=m.jpg\nMacroImage=o.jpg\n"}


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({"a.json": item("b.tif", "c/d.tif"), "b.tif": "b", "c/d.tif": "d"}, "c/d.tif"),
        ({"a": item("b.tif"), "b.tif": "b"}, "b.tif"),
        (MIRAX, "a/D.dat"),
        (VMS | {"a.jpg": "1", "m.jpg": "2", "o.jpg": "3"}, "a.jpg"),
    ],
)
def test_a_part_that_changes_changes_the_whole(tmp_path: Path, files: dict[str, str], part: str) -> None:
    put(tmp_path, files)
    uri = str(tmp_path / next(iter(files)))
    before, digest = stamp(uri), content_digest(uri, lambda: None)
    assert (stamp(uri), content_digest(uri, lambda: None)) == (before, digest)
    assert before["uri"] == uri
    assert before["size"] == sum(map(len, files.values()))
    assert before["mtime_ns"] == 10**9
    (tmp_path / part).write_text("?" * len(files[part]))
    after = stamp(uri)
    assert after["size"] == before["size"]  # so that the digest decides
    assert after["version"] != before["version"]
    assert after["mtime_ns"] > 10**9
    assert content_digest(uri, lambda: None) != digest


@pytest.mark.parametrize("files", [{"a.json": item("b.tif")}, VMS | {"m.jpg": "2", "o.jpg": "3"}, {"a.mrxs": "x"}])
def test_a_part_that_is_missing_is_named(tmp_path: Path, files: dict[str, str]) -> None:
    put(tmp_path, files)
    uri = str(tmp_path / next(iter(files)))
    for asked in (stamp, lambda uri: content_digest(uri, lambda: None)):
        with pytest.raises(SourceError, match=r"b\.tif: cannot be opened|'a\.jpg' is not beside|folder 'a' beside"):
            asked(uri)


def test_of_an_item_those_assets_that_are_wanted(tmp_path: Path) -> None:
    put(tmp_path, {"a.json": item("b.tif", "c.tif"), "b.tif": "b", "c.tif": "c"})
    before = stamp(f"{tmp_path}/a.json::0")
    (tmp_path / "c.tif").write_text("changed")
    assert stamp(f"{tmp_path}/a.json::0") == before
    (tmp_path / "b.tif").write_text("changed")
    assert stamp(f"{tmp_path}/a.json::0") != before


def test_a_remote_item(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/stamped/a.json": item("b.tif").encode(), "/stamped/b.tif": b"b"})
    info = type(memory).info
    version = {"b.tif": "1"}
    monkeypatch.setattr(
        type(memory), "info", lambda self, path, **more: info(self, path) | {"ETag": version.get(path[-5:], "0")}
    )
    before = stamp("memory://stamped/a.json")
    assert stamp("memory://stamped/a.json") == before
    version["b.tif"] = "2"
    assert stamp("memory://stamped/a.json") != before


def test_other_files_are_one_file(tmp_path: Path) -> None:
    put(
        tmp_path, {"a.json": "{}", "b.geojson": '{"type": "Feature"}', "c.vms": "text", "d": "text", "e.tif": item("x")}
    )
    for path in tmp_path.iterdir():
        assert companions(str(path)) == ()
        assert stamp(str(path)) == {"uri": str(path), "size": path.stat().st_size, "mtime_ns": 10**9}


def test_an_item_that_names_itself_ends(tmp_path: Path) -> None:
    put(tmp_path, {"a.json": item("a.json")})
    assert stamp(str(tmp_path / "a.json"))["size"] == 2 * (tmp_path / "a.json").stat().st_size


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (item(), "no asset with the role data"),
        (item("../../x.tif"), "cannot be opened"),
        (item("x.tif", type="Collection"), "give its Items"),
        (item(*["x.tif"] * 2049), "2049 assets are over the limit"),
    ],
)
def test_an_item_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    put(tmp_path, {"a.json": content})
    with pytest.raises(SourceError, match=said):
        stamp(str(tmp_path / "a.json"))
