"""Ingest with targets that are shapes: one set of classes for all images, AOIs, and what makes a target anew."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image as Picture

from segcore.config import IngestConfig
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.results import StageResult
from segcore.store import Workspace
from tests.targets.shapes_made import annotation, covered, feature, save

SHAPE = (300, 420)
BOXES = {"left": shapely.box(10.2, 20.3, 100.7, 280.1), "right": shapely.box(200.2, 30.3, 333.3, 111.1)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one with tumor and stroma, the other with stroma and fat."""
    made = tmp_path / "sources"
    made.mkdir()
    rng = np.random.default_rng(2)
    for name, classes in (("one", ("Tumor", "Stroma")), ("two", ("Stroma", "Fat"))):
        Picture.fromarray(rng.integers(0, 256, (*SHAPE, 3), np.uint8)).save(made / f"{name}.png")
        found = [annotation(box, kind) for box, kind in zip(BOXES.values(), classes, strict=True)]
        save(made / f"{name}.geojson", found)
    return made


def run(folder: Path, **values: Any) -> StageResult:
    given = {"workspace": str(folder.parent / "w"), "processes": 1, "shard_px": 256}
    given |= {"sources": (str(folder / "*.png"),), "targets": "{parent}/{stem}.geojson"}
    return ingest(IngestConfig.model_validate(given | values))


def labels(folder: Path, name: str = "target") -> dict[str, Any]:
    workspace = Workspace.open(str(folder.parent / "w"))
    found = {}
    for image_id in workspace.image_ids():
        label = workspace.label(image_id, name)
        found[image_id.split("-")[0]] = label.read(Window.whole(label.shape()))
    return found


def expected(left: int, right: int) -> Any:
    ids = np.zeros(SHAPE, np.uint8)
    for box, number in zip(BOXES.values(), (left, right), strict=True):
        ids[covered(box, SHAPE)] = number
    return ids


def test_all_images_get_the_names_of_all(folder: Path) -> None:
    result = run(folder)
    assert [item.state for item in result.items] == ["done", "done"]
    workspace = Workspace.open(str(folder.parent / "w"))
    for image_id in workspace.image_ids():
        classes = workspace.label(image_id, "target").classes
        assert [info.name for info in classes] == ["background", "Fat", "Stroma", "Tumor"]
    found = labels(folder)
    np.testing.assert_array_equal(found["one"], expected(3, 2))
    np.testing.assert_array_equal(found["two"], expected(2, 1))
    for objects in labels(folder, "target_instances").values():
        np.testing.assert_array_equal(objects, expected(1, 2))
    assert [item.details.get("reason") for item in run(folder).items] == ["unchanged", "unchanged"]


def test_a_table_decides_and_an_unknown_name_fails_its_image_alone(folder: Path) -> None:
    (folder / "classes.csv").write_text("id,name\n0,background\n5,tumor\n7,STROMA\n")
    result = run(folder, classes=str(folder / "classes.csv"))
    assert [item.state for item in result.items] == ["done", "failed"]
    assert "two.geojson" in str(result.items[1].error)
    assert "Fat: 1" in str(result.items[1].error)
    np.testing.assert_array_equal(labels(folder)["one"], expected(5, 7))


def test_an_aoi_limits_what_is_labelled_and_a_changed_one_makes_a_new_target(folder: Path) -> None:
    area = shapely.box(50, 0, 300, 300)
    path = Path(save(folder / "aoi.geojson", [feature(area)]))
    assert [item.state for item in run(folder, aoi=str(path)).items] == ["done", "done"]
    inside = covered(area, SHAPE)
    np.testing.assert_array_equal(labels(folder)["one"], np.where(inside, expected(3, 2), 255))
    np.testing.assert_array_equal(labels(folder, "target_instances")["one"], np.where(inside, expected(1, 2), 0))
    assert {item.state for item in run(folder, aoi=str(path)).items} == {"skipped"}
    save(path, [feature(shapely.box(50, 0, 310, 300))])
    assert {item.state for item in run(folder, aoi=str(path)).items} == {"done"}
    assert (labels(folder)["one"][:, 305] != 255).all()
    assert {item.state for item in run(folder).items} == {"done"}
    np.testing.assert_array_equal(labels(folder)["one"], expected(3, 2))


def test_another_buffer_makes_a_new_target(folder: Path) -> None:
    line = shapely.LineString([(50, 50), (250, 50)])
    save(folder / "one.geojson", [annotation(line, "road")])
    only = (str(folder / "one.png"),)
    assert "--buffer" in str(run(folder, sources=only).items[0].error)
    for buffer in (4.0, 9.0):
        assert run(folder, sources=only, buffer=buffer).items[0].state == "done"
        np.testing.assert_array_equal(labels(folder)["one"], covered(line.buffer(buffer), SHAPE))


def test_pixels_of_the_source_are_placed_on_a_resampled_image(folder: Path) -> None:
    path = folder / "scan.tif"
    pixels = np.random.default_rng(3).integers(0, 256, SHAPE, np.uint8)
    tifffile.imwrite(path, pixels, resolution=(40000, 20000), resolutionunit="CENTIMETER")  # 0.5 um high, 0.25 wide
    save(folder / "scan.geojson", [annotation(BOXES["left"], "a")])
    assert run(folder, sources=(str(path),), spacing="1um").items[0].state == "done"
    smaller = shapely.transform(BOXES["left"], lambda at: at / [4, 2])
    np.testing.assert_array_equal(labels(folder)["scan"], covered(smaller, (150, 105)))


def test_the_manifest_names_targets_and_aois(folder: Path) -> None:
    save(folder / "aoi.geojson", [feature(shapely.box(0, 0, 420, 100))])
    (folder / "m.csv").write_text("source,target,aoi\none.png,one.geojson,aoi.geojson\ntwo.png,two.geojson,\n")
    run(folder, sources=(), targets=None, manifest=str(folder / "m.csv"))
    found = labels(folder)
    assert (found["one"][100:] == 255).all()
    np.testing.assert_array_equal(found["one"][:100], expected(3, 2)[:100])
    np.testing.assert_array_equal(found["two"], expected(2, 1))
    (folder / "m.csv").write_text("source,target,aoi\none.png,,aoi.geojson\n")
    with pytest.raises(ConfigError, match="line 2: an aoi but no target"):
        run(folder, sources=(), targets=None, manifest=str(folder / "m.csv"))


def test_a_change_beside_a_shapefile_is_seen(folder: Path, data_dir: Path) -> None:
    scene = data_dir / "geotiff/landsat7_labelled"
    for name in ("training_data.shp", "training_data.shx", "training_data.dbf", "training_data.prj"):
        (folder / name).write_bytes((scene / name).read_bytes())
    given = {"sources": (str(scene / "LE70220491999322EDC01_stack.gtif"),), "targets": str(folder / "training_data.*")}
    assert run(folder, **given).items[0].state == "done"
    assert run(folder, **given).items[0].state == "skipped"
    table = folder / "training_data.dbf"
    table.write_bytes(table.read_bytes().replace(b"barren", b"desert"))
    os.utime(table, ns=(1, 1))
    assert run(folder, **given).items[0].state == "done"
    workspace = Workspace.open(str(folder.parent / "w"))
    classes = workspace.label(workspace.image_ids()[0], "target").classes
    assert [info.name for info in classes] == ["background", "desert", "forest", "herbaceous", "urban", "water"]


def test_the_command_tells_what_it_concluded(folder: Path) -> None:
    found = [annotation(shapely.box(-20, 10, 60, 60), "Tumor"), annotation(shapely.box(900, 900, 950, 950), "Tumor")]
    save(folder / "one.geojson", found)
    call = [sys.executable, "-m", "flows", "ingest", str(folder / "one.png")]
    call += ["--targets", "{parent}/{stem}.geojson", "--processes", "1", "--workspace"]
    shown = subprocess.run([*call, str(folder.parent / "a")], capture_output=True, text=True, check=False)
    done = subprocess.run([*call, str(folder.parent / "b"), "--json"], capture_output=True, text=True, check=False)
    assert (shown.returncode, done.returncode) == (0, 0), done.stderr
    notes = json.loads(done.stdout)["sources"][0]["details"]["notes"]
    assert notes == ["1 features outside the image", "1 features cut by the image's border"]
    assert "one.png: 1 features outside the image; 1 features cut by" in shown.stdout + shown.stderr
