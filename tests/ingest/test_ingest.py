"""Ingest: pixels, labels and geometry arrive; one bad source fails alone; unchanged ones are not read again."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image as Picture

from segcore.config import IngestConfig
from segcore.geometry import Window
from segcore.ingest import entries, ingest
from segcore.isolation import ChildPool
from segcore.results import StageResult
from segcore.store import Workspace, verify
from segcore.until import Until
from tests.synthetic import put_image

RNG = np.random.default_rng(0)
UPPER_HALF = np.arange(40)[:, None].repeat(50, axis=1) < 20


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    return folder


def run(tmp_path: Path, **values: Any) -> StageResult:
    return ingest(IngestConfig.model_validate({"workspace": str(tmp_path / "w"), "processes": 1, **values}))


def whole(workspace: Workspace, image_id: str, name: str = "image") -> np.ndarray:
    found = workspace.image(image_id) if name == "image" else workspace.label(image_id, name)
    return found.read(Window.whole(found.shape()))


def put_tiff(path: Path, pixels: np.ndarray, **options: Any) -> None:
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), compression="deflate", **options)


def test_a_tiff_arrives_with_pixels_spacing_and_digest(tmp_path: Path, sources: Path) -> None:
    pixels = RNG.integers(0, 256, (700, 1100, 3), np.uint8)
    put_tiff(sources / "slide one.tif", pixels, resolution=(20000, 10000), resolutionunit="CENTIMETER")
    result = run(tmp_path, sources=(str(sources / "slide one.tif"),), shard_px=256)
    assert (result.exit_code, [item.state for item in result.items]) == (0, ["done"])
    workspace = Workspace.open(str(tmp_path / "w"))
    (image_id,) = workspace.image_ids()
    image = workspace.image(image_id)
    assert (whole(workspace, image_id) == pixels.transpose(2, 0, 1)).all()
    assert image.spacing is not None
    assert image.spacing.values == pytest.approx({"y": 1.0, "x": 0.5})
    assert image.spacing.unit == "micrometer"
    assert image.digest is not None
    assert len(image.digest) == 64
    assert verify(workspace) == []


def test_a_volume_arrives_with_its_place_in_the_patient(tmp_path: Path, sources: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    pixels = RNG.integers(-999, 999, (40, 30, 20)).astype(np.int16)
    affine = np.array([[0, 0, 3, -10], [-0.8, 0, 0, 20], [0, 0.7, 0, 30], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(pixels, affine), sources / "ct.nii.gz")
    assert run(tmp_path, sources=(str(sources),)).exit_code == 0
    workspace = Workspace.open(str(tmp_path / "w"))
    (image_id,) = workspace.image_ids()
    image = workspace.image(image_id)
    np.testing.assert_array_equal(whole(workspace, image_id), pixels.T[None])
    np.testing.assert_allclose(image.attributes["affine"]["matrix"], affine, rtol=1e-6)
    assert image.attributes["affine"]["orientation"] == "PSR"
    assert image.spacing is not None
    assert image.spacing.values == pytest.approx({"z": 3.0, "y": 0.7, "x": 0.8})


def test_images_and_targets_of_version_0_4_hold_the_same_pixels(tmp_path: Path, sources: Path) -> None:
    put_tiff(sources / "a.tif", RNG.integers(0, 256, (700, 1100, 3), np.uint8))
    Picture.fromarray(RNG.integers(0, 3, (700, 1100), np.uint8)).save(sources / "a.png")
    given = {"sources": (str(sources / "a.tif"),), "targets": "{parent}/{stem}.png", "shard_px": 512}
    found = []
    for ngff in ("0.5", "0.4"):
        result = run(tmp_path / ngff, ngff=ngff, **given)
        assert [(item.state, item.error) for item in result.items] == [("done", None)]
        workspace = Workspace.open(str(tmp_path / ngff / "w"))
        (image_id,) = workspace.image_ids()
        image, target = workspace.image(image_id), workspace.label(image_id, "target")
        assert (image.ngff, target.ngff) == (ngff, ngff)
        window = Window.whole(image.shape(1))
        found.append((image.read(window, 1), target.read(Window.whole(target.shape(1)), 1), target.classes))
        assert verify(workspace) == []
        assert run(tmp_path / ngff, ngff=ngff, **given).items[0].state == "skipped"
    (pixels, ids, classes), (other_pixels, other_ids, other_classes) = found
    assert (pixels == other_pixels).all()
    assert (ids == other_ids).all()
    assert classes == other_classes


def test_an_unchanged_source_is_skipped_and_a_changed_one_replaced(tmp_path: Path, sources: Path) -> None:
    path = sources / "a.png"
    first, second = RNG.integers(0, 256, (2, 60, 70, 3), np.uint8)
    Picture.fromarray(first).save(path)
    assert run(tmp_path, sources=(str(path),)).items[0].state == "done"
    again = run(tmp_path, sources=(str(path),)).items[0]
    assert (again.state, again.details["reason"]) == ("skipped", "unchanged")
    Picture.fromarray(second).save(path)
    os.utime(path, ns=(1, 1))
    assert run(tmp_path, sources=(str(path),)).items[0].state == "done"
    workspace = Workspace.open(str(tmp_path / "w"))
    assert (whole(workspace, workspace.image_ids()[0]) == second.transpose(2, 0, 1)).all()


def test_a_zarr_folder_and_a_part_of_one_arrive(tmp_path: Path, sources: Path) -> None:
    pixels = RNG.integers(0, 256, (2, 300, 200), np.uint8)
    put_image(Workspace.open(str(tmp_path / "other"), create=True), "a", pixels)
    folder = tmp_path / "other/images/a.ome.zarr"
    shutil.copytree(folder, sources / "b.zarr")
    shutil.copytree(folder, sources / "many.zarr/0")
    (sources / "many.zarr/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    given = (str(sources / "b.zarr"), f"{sources}/many.zarr::0")
    result = run(tmp_path, sources=given, shard_px=256)
    assert [(item.state, item.error) for item in result.items] == [("done", None)] * 2
    workspace = Workspace.open(str(tmp_path / "w"))
    assert [image_id.rsplit("-", 1)[0] for image_id in workspace.image_ids()] == ["b", "many-0"]
    first, second = workspace.image_ids()
    assert (whole(workspace, first) == pixels).all()
    assert (whole(workspace, second) == pixels).all()
    assert workspace.image(first).digest != workspace.image(second).digest
    assert [item.state for item in run(tmp_path, sources=given, shard_px=256).items] == ["skipped"] * 2
    (sources / "b.zarr/0/c/0/0/0").write_bytes(b"damaged")
    states = run(tmp_path, sources=given, shard_px=256).items
    assert [item.state for item in states] == ["failed", "skipped"]
    assert "cannot be read" in str(states[0].error)


def test_bad_sources_fail_alone_and_are_named(tmp_path: Path, sources: Path) -> None:
    pixels = RNG.integers(0, 256, (50, 50, 3), np.uint8)
    Picture.fromarray(pixels).save(sources / "good.png")
    (sources / "empty.tif").write_bytes(b"")
    (sources / "text.tif").write_text("no image")
    given = tuple(str(sources / name) for name in ("empty.tif", "good.png", "text.tif", "gone.tif"))
    result = run(tmp_path, sources=given)
    assert [item.state for item in result.items] == ["failed", "done", "failed", "failed"]
    assert result.exit_code == 3
    for item in (result.items[0], *result.items[2:]):
        assert item.error is not None
        assert "\n" not in item.error
        assert item.source is not None
        assert Path(item.source).name in item.error
    assert len(Workspace.open(str(tmp_path / "w")).image_ids()) == 1


def test_instances_become_target_and_ids(tmp_path: Path, sources: Path) -> None:
    Picture.fromarray(RNG.integers(0, 256, (300, 400, 3), np.uint8)).save(sources / "cell.png")
    (sources / "masks").mkdir()
    expected = np.zeros((300, 400), np.uint32)
    for number, (y, x) in enumerate([(10, 10), (100, 200), (250, 350)], start=1):
        mask = np.zeros((300, 400), np.uint8)
        mask[y : y + 30, x : x + 40] = 255
        expected[mask > 0] = number
        Picture.fromarray(mask).save(sources / f"masks/{number}.png")
    run(tmp_path, sources=(str(sources / "cell.png"),), targets="{parent}/masks/*.png", shard_px=256)
    workspace = Workspace.open(str(tmp_path / "w"))
    (image_id,) = workspace.image_ids()
    assert (whole(workspace, image_id, "target") == (expected > 0)).all()
    assert (whole(workspace, image_id, "target_instances") == expected).all()
    assert [c.name for c in workspace.label(image_id, "target").classes] == ["background", "foreground"]


def test_a_target_of_another_size_is_refused_with_both_named(tmp_path: Path, sources: Path) -> None:
    Picture.fromarray(np.zeros((60, 80, 3), np.uint8)).save(sources / "i.png")
    Picture.fromarray(np.zeros((61, 80), np.uint8)).save(sources / "m.png")
    item = run(tmp_path, sources=(str(sources / "i.png"),), targets=str(sources / "m.png")).items[0]
    assert item.state == "failed"
    assert item.error is not None
    assert "60" in item.error
    assert "61" in item.error


def test_valid_and_split_come_from_the_manifest(tmp_path: Path, sources: Path) -> None:
    Picture.fromarray(np.full((60, 80, 3), 9, np.uint8)).save(sources / "i.png")
    valid = np.zeros((60, 80), np.uint8)
    valid[20:40] = 255
    Picture.fromarray(valid).save(sources / "v.png")
    (sources / "m.csv").write_text("source,valid,split,group\ni.png,v.png,test,p7\n")
    run(tmp_path, manifest=str(sources / "m.csv"))
    workspace = Workspace.open(str(tmp_path / "w"))
    image = workspace.image(workspace.image_ids()[0])
    assert (image.split, image.group, image.has_valid) == ("test", "p7", True)
    assert (image.read_valid(Window((0, 0), (60, 80))) == (valid > 0)).all()


def test_alpha_becomes_valid_and_a_wrong_target_colour_is_named(tmp_path: Path, sources: Path) -> None:
    pixels = RNG.integers(1, 256, (40, 50, 4), np.uint8)
    pixels[:20, :, 3] = 0
    pixels[20:, :, 3] = 255
    Picture.fromarray(pixels).save(sources / "a.png")
    run(tmp_path, sources=(str(sources / "a.png"),))
    workspace = Workspace.open(str(tmp_path / "w"))
    image = workspace.image(workspace.image_ids()[0])
    assert image.shape() == (3, 40, 50)
    valid = image.read_valid(Window((0, 0), (40, 50)))
    assert not valid[:20].any()
    assert valid[20:].all()


def test_a_dry_run_writes_nothing(tmp_path: Path, sources: Path) -> None:
    Picture.fromarray(np.zeros((60, 80, 3), np.uint8)).save(sources / "i.png")
    result = run(tmp_path, sources=(str(sources / "i.png"),), dry_run=True)
    assert result.items[0].state == "skipped"
    assert result.items[0].details["shards"] == 1
    assert not (tmp_path / "w").exists()


def test_a_changed_split_is_noted_without_reading_again(tmp_path: Path, sources: Path) -> None:
    Picture.fromarray(RNG.integers(0, 256, (60, 80, 3), np.uint8)).save(sources / "i.png")
    manifest = sources / "m.csv"
    for split in ("train", "val"):
        manifest.write_text(f"source,split\ni.png,{split}\n")
        result = run(tmp_path, manifest=str(manifest))
    assert result.items[0].details == {"shards_written": 0, "shards_resumed": 1}
    workspace = Workspace.open(str(tmp_path / "w"))
    assert workspace.image(workspace.image_ids()[0]).split == "val"


def test_one_file_from_a_pattern_is_one_object(tmp_path: Path, sources: Path) -> None:
    Picture.fromarray(np.zeros((60, 80, 3), np.uint8)).save(sources / "i.png")
    (sources / "masks").mkdir()
    Picture.fromarray(np.full((60, 80), 255, np.uint8)).save(sources / "masks/only.png")
    run(tmp_path, sources=(str(sources / "i.png"),), targets="{parent}/masks/*.png")
    workspace = Workspace.open(str(tmp_path / "w"))
    assert (whole(workspace, workspace.image_ids()[0], "target_instances") == 1).all()


def test_index_masks_without_a_table_share_their_classes(tmp_path: Path, sources: Path) -> None:
    for name, ids in (("a", [0, 1, 2]), ("b", [0, 3, 3])):
        Picture.fromarray(np.zeros((30, 30, 3), np.uint8)).save(sources / f"{name}.png")
        Picture.fromarray(np.repeat(np.array(ids, np.uint8), 300).reshape(30, 30)).save(sources / f"{name}_mask.png")
    given = tuple(str(sources / f"{name}.png") for name in "ab")
    run(tmp_path, sources=given, targets="{parent}/{stem}_mask.png")
    workspace = Workspace.open(str(tmp_path / "w"))
    assert [[c.id for c in workspace.label(i, "target").classes] for i in workspace.image_ids()] == [[0, 1, 2, 3]] * 2


def test_a_refused_image_keeps_its_labels(tmp_path: Path, sources: Path) -> None:
    Picture.fromarray(RNG.integers(0, 256, (600, 600, 3), np.uint8)).save(sources / "i.png")
    mask = np.zeros((600, 600), np.uint8)
    mask[:300] = 255
    Picture.fromarray(mask).save(sources / "m.png")
    given = {"sources": (str(sources / "i.png"),), "targets": str(sources / "m.png")}
    run(tmp_path, **given, shard_px=256)
    Picture.fromarray(255 - mask).save(sources / "m.png")
    os.utime(sources / "m.png", ns=(1, 1))
    assert run(tmp_path, **given, shard_px=512).items[0].state == "failed"
    workspace = Workspace.open(str(tmp_path / "w"))
    assert (whole(workspace, workspace.image_ids()[0], "target") == (mask > 0)).all()
    assert run(tmp_path, **given, shard_px=256).items[0].state == "done"
    assert (whole(workspace, workspace.image_ids()[0], "target") == (mask == 0)).all()


def test_a_changed_source_of_another_size_takes_its_old_target_with_it(tmp_path: Path, sources: Path) -> None:
    path = sources / "i.png"
    Picture.fromarray(RNG.integers(0, 256, (60, 70, 3), np.uint8)).save(path)
    Picture.fromarray(np.zeros((60, 70), np.uint8)).save(sources / "m.png")
    run(tmp_path, sources=(str(path),), targets=str(sources / "m.png"))
    Picture.fromarray(RNG.integers(0, 256, (61, 70, 3), np.uint8)).save(path)
    assert run(tmp_path, sources=(str(path),)).items[0].state == "done"
    workspace = Workspace.open(str(tmp_path / "w"))
    assert workspace.image(workspace.image_ids()[0]).shape() == (3, 61, 70)
    assert workspace.label_names(workspace.image_ids()[0]) == []
    assert verify(workspace) == []


def put_with_valid(tmp_path: Path, sources: Path, valid: np.ndarray) -> np.ndarray:
    """Ingest `i.tif` with a file of its usable pixels; what the image then says is usable."""
    Picture.fromarray(np.where(valid, 255, 0).astype(np.uint8)).save(sources / "v.png")
    (sources / "m.csv").write_text("source,valid\ni.tif,v.png\n")
    result = run(tmp_path, manifest=str(sources / "m.csv"))
    assert [item.error for item in result.items] == [None]
    workspace = Workspace.open(str(tmp_path / "w"))
    image = workspace.image(workspace.image_ids()[0])
    return image.read_valid(Window.whole([n for n, axis in zip(image.shape(), image.axes, strict=True) if axis != "c"]))


def test_nodata_stays_unusable_under_a_valid_file(tmp_path: Path, sources: Path) -> None:
    pixels = np.ones((1, 40, 50), np.int16)
    pixels[:, :, :10] = -9
    options = {"driver": "GTiff", "height": 40, "width": 50, "count": 1, "dtype": "int16", "nodata": -9}
    transform = rasterio.Affine(5, 0, 1e5, 0, -5, 4e6)
    with rasterio.open(sources / "i.tif", "w", crs="EPSG:26914", transform=transform, **options) as opened:
        opened.write(pixels)
    found = put_with_valid(tmp_path, sources, UPPER_HALF)
    assert (found == (UPPER_HALF & (pixels[0] != -9))).all()


def test_missing_floats_stay_unusable_under_a_valid_file(tmp_path: Path, sources: Path) -> None:
    pixels = np.ones((40, 50), np.float32)
    pixels[:, :10] = np.nan
    tifffile.imwrite(sources / "i.tif", pixels)
    found = put_with_valid(tmp_path, sources, UPPER_HALF)
    assert (found == (UPPER_HALF & np.isfinite(pixels))).all()


def test_nodata_that_no_pixel_can_have_hides_none(tmp_path: Path, sources: Path) -> None:
    tag = (42113, "s", 0, "-9999", True)
    tifffile.imwrite(sources / "i.tif", np.zeros((40, 50), np.uint8), extratags=[tag])
    assert (put_with_valid(tmp_path, sources, UPPER_HALF) == UPPER_HALF).all()


def test_shards_are_counted_for_the_image_alone(tmp_path: Path, sources: Path) -> None:
    Picture.fromarray(np.zeros((300, 300, 3), np.uint8)).save(sources / "i.png")
    Picture.fromarray(np.zeros((300, 300), np.uint8)).save(sources / "m.png")
    result = run(tmp_path, sources=(str(sources / "i.png"),), targets=str(sources / "m.png"), shard_px=256)
    assert result.items[0].details["shards_written"] == 4
    assert result.items[0].details["shards_resumed"] == 0


def test_overwrite_makes_lost_shards_again(tmp_path: Path, sources: Path) -> None:
    pixels = RNG.integers(0, 256, (700, 700, 3), np.uint8)
    put_tiff(sources / "i.tif", pixels)
    asked = {"sources": (str(sources / "i.tif"),), "shard_px": 256, "overwrite": True}
    run(tmp_path, **asked)
    workspace = Workspace.open(str(tmp_path / "w"))
    (image_id,) = workspace.image_ids()
    chunks = tmp_path / "w" / "images" / f"{image_id}.ome.zarr" / "0" / "c"
    next(path for path in sorted(chunks.rglob("*")) if path.is_file()).unlink()
    item = run(tmp_path, **asked).items[0]
    assert (item.state, item.details["shards_written"]) == ("done", 1)
    assert verify(workspace) == []
    assert (whole(workspace, image_id) == pixels.transpose(2, 0, 1)).all()
    again = run(tmp_path, **asked).items[0]
    assert (again.state, again.details) == ("skipped", {"reason": "unchanged"})


def test_two_sources_of_one_image_id_are_told_apart(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "image_id_of", lambda uri, ids="name": "same-01234567")
    for name in ("a.png", "b.png"):
        Picture.fromarray(RNG.integers(0, 256, (20, 20, 3), np.uint8)).save(sources / name)
    together = run(tmp_path, sources=(str(sources),)).items
    assert [item.state for item in together] == ["done", "failed"]
    expected = f"{sources}/b.png: its image id same-01234567 is that of {sources}/a.png; rename the file"
    assert together[1].error == expected
    another_night = run(tmp_path, sources=(str(sources / "b.png"),)).items
    assert [item.error for item in another_night] == [expected]


def test_a_class_table_counts_by_what_it_says(tmp_path: Path, sources: Path) -> None:
    Picture.fromarray(np.zeros((30, 30, 3), np.uint8)).save(sources / "i.png")
    Picture.fromarray(np.ones((30, 30), np.uint8)).save(sources / "m.png")
    table = sources / "classes.csv"
    asked = {"sources": (str(sources / "i.png"),), "targets": str(sources / "m.png"), "classes": str(table)}
    table.write_text("id,name\n0,land\n1,water\n")
    assert run(tmp_path, **asked).items[0].state == "done"
    os.utime(table, ns=(1, 1))
    assert run(tmp_path, **asked).items[0].state == "skipped"
    table.write_text("id,name\n0,land\n1,swamp\n")
    assert run(tmp_path, **asked).items[0].state == "done"
    workspace = Workspace.open(str(tmp_path / "w"))
    label = workspace.label(workspace.image_ids()[0], "target")
    assert [info.name for info in label.classes] == ["land", "swamp"]


def test_validity_of_a_float_stack_is_read_plane_by_plane(tmp_path: Path, sources: Path) -> None:
    pixels = np.full((3, 40, 50), np.nan, np.float32)
    pixels[1, :, 20:] = 1
    pixels[2, :, :10] = 1
    tifffile.imwrite(sources / "i.tif", pixels, ome=True, metadata={"axes": "ZYX"})
    found = put_with_valid(tmp_path, sources, UPPER_HALF)
    assert (found == (UPPER_HALF & np.isfinite(pixels))).all()


def test_coarser_levels_are_there_when_the_last_shard_is(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a finished shard is read again")

    put_tiff(sources / "a.tif", RNG.integers(0, 256, (700, 1100, 3), np.uint8))
    monkeypatch.setattr("segcore.store.staging.Staging._from_children", refuse)
    result = run(tmp_path, sources=(str(sources),), shard_px=256)
    assert [item.error for item in result.items] == [None]
    assert verify(Workspace.open(str(tmp_path / "w"))) == []


def test_children_may_serve_several_calls(tmp_path: Path, sources: Path) -> None:
    for name in "ab":
        Picture.fromarray(RNG.integers(0, 256, (40, 50, 3), np.uint8)).save(sources / f"{name}.png")
    with ChildPool(1) as pool:
        for name in "ab":
            config = IngestConfig(workspace=str(tmp_path / "w"), sources=(str(sources / f"{name}.png"),))
            assert ingest(config, pool=pool).items[0].state == "done"
    assert len(Workspace.open(str(tmp_path / "w")).image_ids()) == 2


def test_ingest_takes_no_new_work_after_its_time_and_the_next_call_goes_on(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = RNG.integers(0, 256, (600, 600, 3), np.uint8)
    for name in ("a", "b"):
        put_tiff(sources / f"{name}.tif", pixels)
    asked = [0]

    def is_over(until: Until) -> bool:
        asked[0] += 1
        return until.moment is not None and asked[0] > 4

    monkeypatch.setattr(Until, "is_over", property(is_over))
    given: dict[str, Any] = {"sources": (str(sources),), "shard_px": 256}
    result = run(tmp_path, **given, until="06:00")
    monkeypatch.undo()
    assert result.exit_code == 3
    assert "left" in {item.state for item in result.items} <= {"left", "done"}
    again = run(tmp_path, **given)
    assert again.exit_code == 0
    workspace = Workspace.open(str(tmp_path / "w"))
    assert len(workspace.image_ids()) == 2
    for image_id in workspace.image_ids():
        assert (whole(workspace, image_id) == pixels.transpose(2, 0, 1)).all()
    assert verify(workspace) == []
