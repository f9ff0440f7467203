"""Listing: images below a prefix, and the Items of a catalogue, held against what was put there."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from segcore.config import IngestConfig
from segcore.errors import SourceError
from segcore.ingest.entries import list_entries
from segcore.ingest.listing import images_below, items_of
from segcore.roots import SOURCE_ROOTS


@pytest.fixture
def prefix() -> Iterator[str]:
    """A folder in fsspec's memory."""
    name = f"memory://{uuid.uuid4()}"
    yield name
    fsspec.filesystem("memory").rm(name, recursive=True)


def put(uri: str, content: Any = b"x") -> None:
    with fsspec.open(uri, "wb") as opened:
        opened.write(content if isinstance(content, bytes) else json.dumps(content).encode())


def below(prefix: str, found: list[str]) -> list[str]:
    return [name.split(prefix.partition("://")[2])[1] for name in found]


def test_images_below_a_prefix(prefix: str) -> None:
    for name in ("b.tif", "a/c.PNG", "notes.txt", "z.ome.zarr/zarr.json", "z.ome.zarr/0/zarr.json", "z.ome.zarr/t.png"):
        put(f"{prefix}/{name}")
    assert below(prefix, images_below(f"{prefix}/")) == ["/a/c.PNG", "/b.tif", "/z.ome.zarr"]
    sources = [entry.source for entry in list_entries(IngestConfig(workspace="w", sources=(f"{prefix}/",)))]
    assert below(prefix, sources) == ["/a/c.PNG", "/b.tif", "/z.ome.zarr"]


def test_a_prefix_that_is_one_image_stays_one(prefix: str) -> None:
    put(f"{prefix}/zarr.json")
    assert images_below(f"{prefix}/") == []


def catalogue(kind: str, **links: list[str]) -> dict[str, Any]:
    return {"type": kind, "links": [{"rel": rel, "href": href} for rel, hrefs in links.items() for href in hrefs]}


def test_items_of_a_catalogue_and_its_children_each_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    top = catalogue("Catalog", item=["./a.json"], child=["sub/collection.json"], self=["https://example.org/c.json"])
    sub = catalogue("Collection", item=["b.json", "../a.json"], child=["../catalog.json"], root=["../catalog.json"])
    (tmp_path / "catalog.json").write_text(json.dumps(top))
    (tmp_path / "sub" / "collection.json").write_text(json.dumps(sub))
    expected = [f"{tmp_path}/a.json", f"{tmp_path}/sub/b.json"]
    assert items_of(f"{tmp_path}/catalog.json") == expected
    entries = list_entries(IngestConfig(workspace="w", sources=(f"{tmp_path}/catalog.json",)))
    assert [entry.source for entry in entries] == expected


def test_items_of_an_answer_page_by_page(prefix: str) -> None:
    def page(name: str, *following: str) -> dict[str, Any]:
        feature = {"type": "Feature", "links": [{"rel": "self", "href": f"{name}.json"}, {"rel": "root", "href": "r"}]}
        return catalogue("FeatureCollection", next=list(following)) | {"features": [feature]}

    put(f"{prefix}/1.json", page("a", "2.json"))
    put(f"{prefix}/2.json", page("b", "1.json"))
    assert below(prefix, items_of(f"{prefix}/1.json")) == ["/a.json", "/b.json"]


@pytest.mark.parametrize(
    "text", ["[1]", '{"type": "Feature", "links": [{"rel": "item", "href": "x.json"}]}', "{", "{}"]
)
def test_other_json_is_no_catalogue(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert items_of(f"{tmp_path}/a.json") == []


def test_a_catalogue_from_elsewhere_reaches_no_local_file(prefix: str) -> None:
    put(f"{prefix}/c.json", catalogue("Catalog", item=["file:///etc/passwd"]))
    with pytest.raises(SourceError, match="local file"):
        items_of(f"{prefix}/c.json")


def test_a_catalogue_leads_to_no_catalogue_outside_the_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.json").write_text(json.dumps(catalogue("Catalog", item=["a.json"])))
    (tmp_path / "in" / "c.json").write_text(json.dumps(catalogue("Catalog", child=["../secret.json"])))
    assert items_of(f"{tmp_path}/in/c.json") == [f"{tmp_path}/a.json"]
    monkeypatch.setenv(SOURCE_ROOTS, f"{tmp_path}/in")
    with pytest.raises(SourceError, match=r"secret\.json: lies outside"):
        items_of(f"{tmp_path}/in/c.json")


def test_a_catalogue_that_leads_on_and_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segcore.ingest.listing.MAX_DOCUMENTS", 3)
    for number in range(9):
        (tmp_path / f"{number}.json").write_text(json.dumps(catalogue("Catalog", child=[f"{number + 1}.json"])))
    with pytest.raises(SourceError, match="more than 3 catalogues"):
        items_of(f"{tmp_path}/0.json")
