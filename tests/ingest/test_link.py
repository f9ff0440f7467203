"""Linked images: no pixel is copied, or the source byte for byte; every level reads as if it had been."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Picture

from segcore.config import IngestConfig
from segcore.errors import StoreError
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.store import Image, Staging, Workspace, verify

RNG = np.random.default_rng(5)


def run(workspace: Path, source: Path, **values: Any) -> Workspace:
    given = {"workspace": str(workspace), "sources": (str(source),), "processes": 1, "shard_px": 256, **values}
    (item,) = ingest(IngestConfig.model_validate(given)).items
    assert item.error is None, item.error
    return Workspace.open(str(workspace))


def only_image(workspace: Workspace) -> Image:
    (image_id,) = workspace.image_ids()
    return workspace.image(image_id)


@pytest.fixture
def tiff(tmp_path: Path) -> Path:
    path = tmp_path / "scan.tif"
    pixels = RNG.integers(0, 256, (1301, 1703, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), compression="deflate")
    return path


@pytest.mark.parametrize("how", ["link", "copy_source"])
def test_every_level_of_a_linked_image_equals_that_of_an_ingested_one(tmp_path: Path, tiff: Path, how: str) -> None:
    linked, stored = only_image(run(tmp_path / "l", tiff, **{how: True})), only_image(run(tmp_path / "s", tiff))
    assert (linked.axes, linked.num_levels, linked.dtype) == (stored.axes, stored.num_levels, stored.dtype)
    assert (linked.channels, linked.digest) == (stored.channels, stored.digest)
    for level in range(stored.num_levels):
        assert linked.shape(level) == stored.shape(level)
        whole = Window.whole(stored.shape(level))
        np.testing.assert_array_equal(linked.read(whole, level), stored.read(whole, level))
    window = Window((1, 200, 301), (2, 77, 120))
    np.testing.assert_array_equal(linked.read(window, 1), stored.read(window, 1))


def test_a_linked_image_holds_no_pixels_and_its_labels_are_its_own(tmp_path: Path, tiff: Path) -> None:
    Picture.fromarray((RNG.random((1301, 1703)) > 0.5).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    workspace = run(tmp_path / "w", tiff, link=True, targets=str(tmp_path / "mask.png"))
    image = only_image(workspace)
    stored = [key for key, _ in workspace.objects.list(f"images/{image.image_id}.ome.zarr")]
    assert all("/labels/" in key or key.endswith("ome.zarr/zarr.json") for key in stored)
    with Picture.open(tmp_path / "mask.png") as picture:
        expected = np.asarray(picture) > 0
    label = workspace.label(image.image_id, "target")
    assert (label.read(Window.whole(label.shape())) == expected).all()
    assert verify(workspace) == []


def test_stored_levels_are_used_where_they_are_the_pyramids(tmp_path: Path) -> None:
    """The coarse level of the file is told apart from the fine one by other pixels."""
    with tifffile.TiffWriter(tmp_path / "p.tif") as writer:
        options: dict[str, Any] = {"photometric": "rgb", "tile": (256, 256)}
        writer.write(np.full((1600, 1600, 3), 10, np.uint8), subifds=1, **options)
        writer.write(np.full((400, 400, 3), 20, np.uint8), subfiletype=1, **options)
    image = only_image(run(tmp_path / "w", tmp_path / "p.tif", link=True))
    assert image.num_levels == 3
    values = [np.unique(image.read(Window.whole(image.shape(level)), level)).tolist() for level in range(3)]
    assert values == [[10], [10], [20]]


def test_a_source_that_changed_since_is_not_read_for_what_it_was(tmp_path: Path, tiff: Path) -> None:
    image = only_image(run(tmp_path / "w", tiff, link=True))
    os.utime(tiff, ns=(1, 1))
    with pytest.raises(StoreError, match="changed since it was linked"):
        image.read(Window.whole(image.shape()))


def test_a_copy_stands_alone_and_damage_to_it_is_found(tmp_path: Path, tiff: Path) -> None:
    pixels = tifffile.imread(tiff)
    original = tiff.read_bytes()
    workspace = run(tmp_path / "w", tiff, copy_source=True)
    tiff.unlink()
    image = only_image(workspace)
    assert (image.read(Window.whole(image.shape())) == pixels.transpose(2, 0, 1)).all()
    copy = tmp_path / "w" / "sources" / image.image_id / "scan.tif"
    assert copy.read_bytes() == original
    assert verify(workspace) == []
    copy.write_bytes(original[:-1] + b"\0" + b"\0")
    (problem,) = verify(workspace)
    assert "another digest" in problem.what
    copy.unlink()
    (problem,) = verify(workspace)
    assert "missing" in problem.what


def test_pixels_take_the_place_of_a_link_only_when_asked(tmp_path: Path, tiff: Path) -> None:
    run(tmp_path / "w", tiff, link=True)
    given = {"workspace": str(tmp_path / "w"), "sources": (str(tiff),), "processes": 1}
    (item,) = ingest(IngestConfig.model_validate(given)).items
    assert item.error is not None
    assert "another plan" in item.error
    stored = only_image(run(tmp_path / "w", tiff, overwrite=True))
    assert (stored.read(Window.whole(stored.shape())) == tifffile.imread(tiff).transpose(2, 0, 1)).all()


def test_a_link_and_a_copy_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="link, or copy_source"):
        IngestConfig(workspace=str(tmp_path), sources=("a",), link=True, copy_source=True)


@pytest.mark.parametrize("instead", [{}, {"link": True}])
def test_the_copy_goes_with_the_image_that_was_linked_to_it(
    tmp_path: Path, tiff: Path, instead: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = only_image(run(tmp_path / "w", tiff, copy_source=True)).image_id
    copy = tmp_path / "w" / "sources" / image_id / "scan.tif"
    given = {"workspace": str(tmp_path / "w"), "sources": (str(tiff),), "processes": 1, "shard_px": 256, **instead}
    with monkeypatch.context() as patched:
        patched.setattr(Staging, "finish", lambda *_, **__: (_ for _ in ()).throw(StoreError("killed")))
        (item,) = ingest(IngestConfig.model_validate({**given, "overwrite": True})).items
    assert item.error == "killed"
    workspace = run(tmp_path / "w", tiff, overwrite=True, **instead)
    assert not copy.parent.exists()
    whole = Window.whole((3, 1301, 1703))
    assert (only_image(workspace).read(whole) == tifffile.imread(tiff).transpose(2, 0, 1)).all()
    assert verify(workspace) == []


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_link_that_leads_out_of_a_folder_is_not_copied(tmp_path: Path, where: str) -> None:
    pixels = RNG.integers(0, 255, (3, 300, 300), dtype=np.uint8)
    folder = tmp_path / "a.zarr"
    zarr.create_array(str(folder / "0"), data=pixels, chunks=(3, 300, 300))
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    scales = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    zarr.open_group(str(folder), attributes={"ome": {"version": "0.5", "multiscales": [scales]}})
    (tmp_path / "named.zarr").symlink_to(folder)
    copied = only_image(run(tmp_path / "w", tmp_path / "named.zarr", copy_source=True))  # named itself: fine
    assert (copied.read(Window.whole(copied.shape())) == pixels).all()
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "id_rsa").write_text("key")
    (folder / "0" / "more").symlink_to(secret / "id_rsa" if where == "file" else secret)
    given = {"workspace": str(tmp_path / "w2"), "sources": (str(folder),), "processes": 1, "copy_source": True}
    (item,) = ingest(IngestConfig.model_validate(given)).items
    assert item.error is not None
    assert f"{folder}/0/more: is a link to {secret}" in item.error
    assert not [path for path in (tmp_path / "w2" / "sources").rglob("*") if path.is_file()]


def test_a_copied_workspace_may_move(tmp_path: Path, tiff: Path) -> None:
    run(tmp_path / "w", tiff, copy_source=True)
    shutil.move(tmp_path / "w", tmp_path / "elsewhere")
    image = only_image(Workspace.open(str(tmp_path / "elsewhere")))
    assert image.read(Window((0, 0, 0), (3, 5, 5))).shape == (3, 5, 5)


def test_a_copy_stays_one_when_only_the_split_changes(tmp_path: Path, tiff: Path) -> None:
    pixels = tifffile.imread(tiff)
    run(tmp_path / "w", tiff, copy_source=True)
    workspace = run(tmp_path / "w", tiff, copy_source=True, split="0/1")
    tiff.unlink()
    image = only_image(workspace)
    assert image.split == "val"
    assert (image.read(Window.whole(image.shape())) == pixels.transpose(2, 0, 1)).all()
    assert verify(workspace) == []


def test_a_link_holds_wherever_it_is_read_from(tmp_path: Path, tiff: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = run(tmp_path / "w", Path(tiff.name), link=True)
    monkeypatch.chdir("/")
    assert only_image(workspace).read(Window((0, 0, 0), (3, 5, 5))).shape == (3, 5, 5)


def test_a_linked_file_that_was_touched_is_read_again_after_the_next_ingest(tmp_path: Path, tiff: Path) -> None:
    run(tmp_path / "w", tiff, link=True)
    os.utime(tiff, ns=(10**9, 10**9))
    image = only_image(run(tmp_path / "w", tiff, link=True))
    assert (image.read(Window.whole(image.shape())) == tifffile.imread(tiff).transpose(2, 0, 1)).all()


def test_a_new_copy_is_not_read_as_the_old_one(tmp_path: Path) -> None:
    values = []
    for value in (10, 20):
        Picture.fromarray(np.full((30, 40, 3), value, np.uint8)).save(tmp_path / "a.png", compress_level=0)
        os.utime(tmp_path / "a.png", ns=(value * 10**9, value * 10**9))
        image = only_image(run(tmp_path / "w", tmp_path / "a.png", copy_source=True))
        values.append(int(image.read(Window((0, 0, 0), (1, 1, 1)))[0, 0, 0]))
    assert values == [10, 20]


def test_volumes_are_linked_and_their_split_may_change(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 99, (5, 60, 70), np.uint8)
    tifffile.imwrite(tmp_path / "v.tif", pixels, ome=True, metadata={"axes": "ZYX"})
    for number, options in enumerate(({"link": True}, {"copy_source": True}, {})):
        run(tmp_path / f"w{number}", tmp_path / "v.tif", **options)
        image = only_image(run(tmp_path / f"w{number}", tmp_path / "v.tif", split="1/0", **options))
        assert image.split == "train"
        assert (image.read(Window.whole(image.shape())) == pixels[None]).all()


def test_frames_that_are_linked_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").mkdir()
    frames = RNG.integers(0, 255, (3, 20, 30, 3), np.uint8)
    for number, frame in enumerate(frames):
        Picture.fromarray(frame).save(tmp_path / "f" / f"{number}.png")
    for how in ("link", "copy_source"):
        given = {"workspace": str(tmp_path / how), "sources": ("f/*.png",), "frames": True, "processes": 1, how: True}
        for state in ("done", "skipped"):
            (item,) = ingest(IngestConfig.model_validate(given)).items
            assert (item.state, item.error) == (state, None)
        image = only_image(Workspace.open(str(tmp_path / how)))
        assert (image.read(Window.whole(image.shape())) == np.moveaxis(frames, -1, 1)).all()


def test_a_copied_folder_keeps_no_file_of_an_older_version(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "z.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=RNG.integers(0, 255, (1, 40, 50), np.uint8), chunks=(1, 40, 50))
    scale = {"type": "scale", "scale": [1.0, 1.0, 1.0]}
    axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space"} for axis in "yx")]
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    (tmp_path / "z.zarr" / "old").write_text("x")
    run(tmp_path / "w", tmp_path / "z.zarr", copy_source=True)
    (tmp_path / "z.zarr" / "old").unlink()
    workspace = run(tmp_path / "w", tmp_path / "z.zarr", copy_source=True)
    assert not list((tmp_path / "w" / "sources").rglob("old"))
    assert verify(workspace) == []
