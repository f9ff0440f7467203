"""Lists, descriptions and values: what the pages are told, also of what is broken."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from segcore.classes import ClassInfo
from segcore.config import IngestConfig
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.reports import Head, table_key
from segcore.scoring.counts import Counts
from segcore.scoring.table import to_parquet
from segcore.spatial import Georef, Spacing
from segcore.store import PyramidSpec, Staging, Workspace
from segcore.view import listing, shelf
from segcore.view.app import FOR_EVER, view_app
from tests.conftest import Bucket
from tests.scoring.test_table import made_score
from tests.synthetic import put_image, put_label, put_objects, write
from tests.view.conftest import Client, Tile
from tests.view.test_tiles import noise, put_layer

EVIL = "<img src=x onerror=alert(1)>"
CLASSES = (ClassInfo(id=0, name="background", color=(0, 0, 0)), ClassInfo(id=1, name=EVIL, color=(9, 8, 7)))


def put_unfinished(workspace: Workspace, image_id: str, name: str = "image") -> None:
    """Half of its shards."""
    spec = PyramidSpec(axes=("c", "y", "x"), shape=(3, 300, 300), dtype="uint8", kind="image", shard_px=256)
    with Staging.begin(workspace, image_id, name, {"source": image_id}, spec) as staging:
        write(staging, noise((3, 300, 300)), stop_after=1)


def put_report(workspace: Workspace, run: str, created: str, scores: dict[str, float | None], mask: str = "m") -> None:
    """What `segcore report` leaves of images of 1000 px of target; None = without one."""
    images = []
    for image_id, score in scores.items():
        found = round(1000 * (score or 0))
        counts = Counts.from_json(
            {"confusion": [[0, 0, 0], [1000 - found, found, 0], [0, 0, 0]], "target_px": [0, 1000, 0]}
            | {"mask_px": [0, 0, 0], "ignored_px": 0, "unpredicted_px": 0, "invalid_px": 0}
        )
        images.append(replace(made_score(0, has_target=score is not None), image_id=image_id, counts=counts))
    head = Head(run=run, created=created, mask=mask, title="t", num_images=len(images), num_failed=0)
    told = {"run": run, "created": created, "mask": mask, "settings": {"both_empty": "undefined"}}
    workspace.objects.put(table_key(run), to_parquet(told, images, ()))
    workspace.objects.put(f"reports/{run}/run.json", head.model_dump_json().encode())


def test_the_list_names_every_image_with_its_state(workspace: Workspace, client: Client) -> None:
    put_image(workspace, "b", noise((3, 20, 30)), split="val", group="P7")
    put_image(workspace, "a", noise((1, 4, 20, 30)), axes=("c", "z", "y", "x"))
    put_unfinished(workspace, "c")
    put_image(workspace, "d", noise((3, 20, 30)))
    workspace.objects.put("images/d.ome.zarr/zarr.json", b"{")
    found = client.get("/api/images").json()
    assert [(row["id"], row["state"], row["size"]) for row in found["rows"]] == [
        ("a", "complete", "30 × 20 px, 4 slices, 1 band"),
        ("b", "complete", "30 × 20 px"),
        ("c", "incomplete", ""),
        ("d", "damaged", ""),
    ]
    assert (found["rows"][1]["split"], found["rows"][1]["group"]) == ("val", "P7")
    assert found["rows"][2]["note"] == "its ingest did not end: run it again"
    assert "damaged metadata; run `verify`" in found["rows"][3]["note"]
    assert (found["num_found"], found["num_images"], found["num_pages"]) == (4, 4, 1)
    assert found["splits"] == ["none", "val"]


def test_lists_are_searched_and_filtered(workspace: Workspace, client: Client) -> None:
    for number in range(4):
        split = "val" if number % 2 else None
        put_image(workspace, f"slide-{number}", noise((1, 8, 8)), split=split, group=f"P{number}")
    client.get("/api/images")  # from now on they are known

    def ids(**query: str) -> list[str]:
        return [row["id"] for row in client.get("/api/images", **query).json()["rows"]]

    assert ids(text="SLIDE 2") == ["slide-2"]
    assert ids(text="p3") == ["slide-3"]
    assert ids(text="nothing") == []
    assert ids(split="val") == ["slide-1", "slide-3"]
    assert ids(split="none") == ["slide-0", "slide-2"]
    assert ids(state="damaged") == []


def test_the_worst_come_first_by_the_newest_report(workspace: Workspace, client: Client) -> None:
    for name in "abcd":
        put_image(workspace, name, noise((1, 8, 8)))
    put_report(workspace, "x", "2026-01-02", {"a": 0.9, "b": 0.2, "c": None}, mask="new")
    put_report(workspace, "y", "2026-01-01", {"a": 0.1, "d": 0.5}, mask="old")
    put_report(workspace, "a", "2026-01-03", {"a": 0.3})
    workspace.objects.put("reports/a/images.parquet", b"PAR1")
    workspace.objects.put("reports/z/run.json", b'{"scores": 3')
    rows = client.get("/api/images", order="worst").json()["rows"]
    assert [(row["id"], row["score"], row["scored_mask"]) for row in rows] == [
        ("b", 0.2, "new"), ("d", 0.5, "old"), ("a", 0.9, "new"), ("c", None, ""),
    ]  # fmt: skip
    told = client.get("/api/images/a").json()
    assert (told["score"], told["before"], told["after"]) == (0.9, None, "b")


def test_a_report_that_is_written_again_is_read_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SCORES_FRESH_S", 0.0)
    found = listing.Listing(workspace)
    put_report(workspace, "nightly", "2026-01-02", {"a": 0.9})
    for number in range(listing.MAX_REPORTS):
        put_report(workspace, f"z{number}", "2026-01-01", {"a": 0.1})
    assert found.score("a") == (0.9, "m")
    put_report(workspace, "nightly", "2026-01-03", {"a": 0.4})
    assert found.score("a") == (0.4, "m")


def test_ten_thousand_images_are_one_listing_and_a_page_of_reads(
    workspace: Workspace, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"i{number:05d}" for number in range(10_000)]
    monkeypatch.setattr(Workspace, "begun_ids", lambda self: ids)
    asked: list[str] = []

    def row_of(_workspace: Workspace, image_id: str, _with_size: bool) -> listing.Row:
        asked.append(image_id)
        return listing.Row(image_id, "complete")

    monkeypatch.setattr(listing.Listing, "_scan_behind", lambda self: None)
    monkeypatch.setattr(listing, "row_of", row_of)
    found = client.get("/api/images", page=3).json()
    assert sorted(asked) == ids[144:192] == [row["id"] for row in found["rows"]]
    assert (found["num_images"], found["num_pages"]) == (10_000, 209)
    assert client.get("/api/images", page=999).json()["rows"] == []


def test_what_is_known_of_all_images_is_found_out_behind(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_ROWS", 1)
    for number in range(5):
        put_image(workspace, f"i{number}", noise((1, 8, 8)), split="val")
    found = listing.Listing(workspace)
    found.page(listing.Query())
    assert found._scanner is not None
    found._scanner.join(timeout=60)
    told = found.page(listing.Query(split="val"))
    assert (told["num_known"], told["num_found"], len(told["rows"])) == (5, 5, 1)


def test_an_image_is_described(workspace: Workspace, client: Client) -> None:
    georef = Georef(crs_wkt=None, epsg=32633, transform=(2.0, 0.0, 500_000.0, 0.0, -2.0, 5_000_000.0))
    spacing = Spacing(values={"y": 2.0, "x": 2.0}, unit="meter", origin="file")
    put_image(workspace, "scene-1", noise((4, 700, 900)) // 4, spacing=spacing, georef=georef, split="test")
    put_label(workspace, "scene-1", "target", np.zeros((700, 900), np.uint8), CLASSES)
    put_objects(workspace, "scene-1", "m_instances", np.zeros((700, 900), np.uint32))
    put_layer(workspace, "scene-1", "m", "probs", noise((2, 700, 900)))
    put_unfinished(workspace, "scene-1", "later")
    told = client.get("/api/images/scene-1").json()
    assert (told["levels"], told["planes"], told["dtype"]) == ([[700, 900], [350, 450]], {}, "uint8")
    assert (told["spacing"], told["unit"]) == ({"y": 2.0, "x": 2.0}, "m")
    assert told["georef"] == {"epsg": 32633, "transform": list(georef.transform)}
    assert (told["source"], told["split"]) == ("scene-1.tif", "test")
    assert (told["bands"]["shown"], len(told["bands"]["limits"])) == ([0, 1, 2], 4)
    coarse = workspace.image("scene-1").read(Window((0, 0, 0), (4, 350, 450)), 1)[:3]
    brightest = max(np.percentile(band, 99.8) for band in coarse)
    assert told["bands"]["stretch"] == [0, brightest], "dark 8-bit images are brightened"
    assert [(each["name"], each["kind"]) for each in told["overlays"]] == [
        ("m_instances", "objects"), ("target", "classes"), ("m.probs", "values"),
    ]  # fmt: skip
    assert told["overlays"][1]["classes"] == [
        {"id": 0, "name": "background", "color": [0, 0, 0], "background": True},
        {"id": 1, "name": EVIL, "color": [9, 8, 7], "background": False},
    ]
    assert told["overlays"][2]["channels"] == ["c0", "c1"]
    assert told["problems"] == ["later is not complete: run the command that makes it again"]


def test_names_stay_hidden_where_ids_are_hashes(workspace: Workspace, client: Client) -> None:
    put_image(workspace, "0123456789abcdef", noise((1, 8, 8)))
    assert client.get("/api/images/0123456789abcdef").json()["source"] == ""


def test_an_image_that_is_not_complete_says_so(workspace: Workspace, client: Client) -> None:
    put_image(workspace, "i0", noise((1, 8, 8)))
    put_unfinished(workspace, "half")
    for address in ("/api/images/half", "/thumbnail/half", "/tile/half/image/image/0/0/0"):
        answer = client.get(address)
        assert (answer.status, "not complete" in answer.json()["error"]) == (409, True)
    assert client.get("/api/images/none").status == 404
    assert client.get("/tile/i0/labels/none/0/0/0").status == 404
    assert client.get("/tile/i0/layers/none/0/0/0").json() == {"error": "layer none: expected mask.kind"}


def test_values_are_those_of_the_store(workspace: Workspace, client: Client) -> None:
    pixels = np.random.default_rng(0).normal(size=(3, 40, 50)).astype(np.float32)
    pixels[1, 7, 9] = np.nan
    ids = noise((40, 50), 1)
    put_image(workspace, "i0", pixels)
    put_label(workspace, "i0", "target", ids, CLASSES)
    put_layer(workspace, "i0", "m", "probs", noise((2, 20, 25), 2), base_level=1)
    found = client.get("/api/images/i0/values?y=7&x=9&of=labels%2Ftarget&of=layers%2Fm.probs").json()
    assert found["bands"] == [float(pixels[0, 7, 9]), None, float(pixels[2, 7, 9])]
    assert found["usable"] is True
    assert found["labels/target"] == ids[7, 9]
    stored = workspace.layer("i0", "m", "probs").read(Window((0, 3, 4), (2, 1, 1))).ravel()
    assert found["layers/m.probs"] == [value / 255 for value in stored.tolist()]
    answer = client.get("/api/images/i0/values", y=40, x=0)
    assert answer.json() == {"error": "pixel: expected y below 40 and x below 50, got 40, 0"}


def test_a_thumbnail_is_the_coarsest_level(workspace: Workspace, client: Client) -> None:
    put_image(workspace, "i0", np.full((3, 900, 600), 200, np.uint8))
    answer = client.get("/thumbnail/i0")
    assert answer.headers["content-type"] == "image/jpeg"
    with Pillow.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (171, 256)
        assert abs(np.asarray(picture).astype(int) - 200).max() <= 2


def test_a_mask_that_is_made_anew_has_other_addresses(
    workspace: Workspace, client: Client, tile: Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "FRESH_S", 0.0)
    put_image(workspace, "i0", noise((3, 20, 20)))

    def version() -> str:
        return str(client.get("/api/images/i0").json()["overlays"][0]["version"])

    def kept(of: str) -> str:
        return client.get("/tile/i0/labels/target/0/0/0", v=of).headers["cache-control"]

    put_label(workspace, "i0", "target", np.full((20, 20), 1, np.uint8), CLASSES, version=1)
    before = version()
    assert version() == before
    assert kept(before) == FOR_EVER
    assert (tile("i0/labels/target/0/0/0")[:20, :20, 3] == 255).all()
    put_label(workspace, "i0", "target", np.zeros((20, 20), np.uint8), CLASSES, version=2)
    after = version()
    assert after != before
    assert kept(before) == "no-store", "an old address is never kept with new pixels"
    assert kept(after) == FOR_EVER
    assert (tile("i0/labels/target/0/0/0")[..., 3] == 0).all()


def test_a_damaged_shard_is_one_error_and_the_rest_goes_on(
    workspace: Workspace, client: Client, tmp_path: Path
) -> None:
    put_image(workspace, "i0", noise((3, 600, 600)))
    shard = tmp_path / "w/images/i0.ome.zarr/0/c/0/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[100:2000] = bytes(1900)
    shard.write_bytes(damaged)
    answer = client.get("/tile/i0/image/image/0/0/0")
    assert answer.status == 500
    assert "cannot be decoded" in answer.json()["error"]
    assert "run `verify`" in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert client.get("/tile/i0/image/image/0/1/1").status == 200
    assert client.get("/tile/i0/image/image/1/0/0").status == 200


def test_an_error_that_nobody_foresaw_ends_one_request(
    workspace: Workspace, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(workspace, "i0", noise((3, 20, 20)))
    with monkeypatch.context() as patch:
        patch.setattr("segcore.view.drawing.tile", lambda *_: 1 / 0)
        answer = client.get("/tile/i0/image/image/0/0/0")
        assert (answer.status, answer.json()) == (500, {"error": "ZeroDivisionError: division by zero"})
    assert client.get("/tile/i0/image/image/0/0/0").status == 200


def test_a_workspace_on_s3_looks_the_same(workspace: Workspace, client: Client, bucket: Bucket) -> None:
    remote = Workspace.open(f"{bucket.uri}/w", create=True)
    for place in (workspace, remote):
        put_image(place, "i0", noise((3, 300, 300)))
        put_label(place, "i0", "target", noise((300, 300)) % 2, CLASSES)
    other = Client(view_app(remote))
    for address in ("/api/images/i0", "/thumbnail/i0", "/tile/i0/image/image/0/0/0", "/tile/i0/labels/target/0/0/0"):
        assert other.get(address).content == client.get(address).content
    assert other.get("/api/images").json()["rows"] == client.get("/api/images").json()["rows"]


def test_a_mask_of_an_earlier_image_is_called_stale(workspace: Workspace, client: Client) -> None:
    put_image(workspace, "i0", noise((3, 20, 20)))
    plan = workspace.image("i0").attributes["plan"]
    for name, seen in (("fresh", plan), ("stale", plan + 1)):
        put_label(
            workspace, "i0", name, noise((20, 20)) % 2, CLASSES, attributes={"predict": {"source": {"plan": seen}}}
        )
    told = client.get("/api/images/i0").json()["overlays"]
    assert {each["name"]: each["stale"] for each in told} == {"fresh": False, "stale": True}


def test_an_image_that_stayed_at_its_source_is_shown(workspace: Workspace, client: Client, tmp_path: Path) -> None:
    pixels = np.moveaxis(noise((3, 60, 50)), 0, -1)
    source = tmp_path / "linked.png"
    Pillow.fromarray(pixels).save(source)
    assert ingest(IngestConfig(workspace=workspace.uri, sources=(str(source),), link=True)).exit_code == 0
    (image_id,) = workspace.image_ids()
    answer = client.get(f"/tile/{image_id}/image/image/0/0/0?lossless=1&low=0&high=255")
    with Pillow.open(io.BytesIO(answer.content)) as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB"))[:60, :50], pixels)
