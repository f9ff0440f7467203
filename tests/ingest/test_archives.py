"""Real archives as their users have them: a folder of DICOM, volumes with labels, several series, part of a file."""

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import zarr
from pydicom.data import get_testdata_file

from segcore.config import IngestConfig
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.results import StageResult
from segcore.store import Workspace, verify


def run(workspace: Path, **values: Any) -> StageResult:
    return ingest(IngestConfig.model_validate({"workspace": str(workspace), "processes": 1, **values}))


def whole(workspace: Workspace, image_id: str, name: str = "image") -> Any:
    found = workspace.image(image_id) if name == "image" else workspace.label(image_id, name)
    return found.read(Window.whole(found.shape()))


def test_a_folder_of_dicom_is_one_volume_under_its_nifti_labels(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "dicom" / "ct_series_jp2k"
    (labels,) = (data_dir / "dicom").glob("*seg_pseudolabel.nii.gz")
    result = run(tmp_path / "w", sources=(str(folder),), targets=str(labels))
    assert [item.error for item in result.items] == [None]
    workspace = Workspace.open(str(tmp_path / "w"))
    (image_id,) = workspace.image_ids()
    image = workspace.image(image_id)
    assert image.axes == ("c", "z", "y", "x")
    assert image.spacing is not None
    assert image.spacing.values["z"] == pytest.approx(2.0)
    stored: Any = nibabel.load(labels)
    # Both files lie in the patient: the label's voxels are brought to the image's by the two affines.
    world = np.array(image.attributes["affine"]["matrix"])
    back = np.linalg.inv(stored.affine) @ world
    ids = np.asarray(stored.dataobj)
    target = whole(workspace, image_id, "target")
    for z, y, x in [(0, 100, 100), (7, 256, 300), (19, 511, 0), (12, 200, 333)]:
        place = np.rint(back @ [x, y, z, 1])[:3].astype(int)
        inside = all(0 <= at < n for at, n in zip(place, ids.shape, strict=True))
        assert target[z, y, x] == (ids[tuple(place)] if inside else workspace.label(image_id, "target").ignore)
    assert len(np.unique(target)) > 5
    assert verify(workspace) == []


def test_several_series_in_a_folder_are_several_images(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "patient"
    folder.mkdir()
    for number, path in enumerate(sorted((data_dir / "dicom" / "ct_series_jp2k").iterdir())[:4]):
        for series in "12":
            dataset = pydicom.dcmread(path)
            dataset.SeriesInstanceUID = f"1.2.3.{series}"
            dataset.save_as(folder / f"{series}{number:03d}")
    result = run(tmp_path / "w", sources=(str(folder),))
    assert [item.state for item in result.items] == ["done", "done"], result.items
    sources = [str(item.source) for item in result.items]
    assert all(source.startswith(f"{folder}::series-") for source in sources)
    workspace = Workspace.open(str(tmp_path / "w"))
    assert len(workspace.image_ids()) == 2
    first, second = (whole(workspace, image_id) for image_id in workspace.image_ids())
    np.testing.assert_array_equal(first, second)
    assert [item.state for item in run(tmp_path / "w", sources=(str(folder),)).items] == ["skipped", "skipped"]


def small_series(folder: Path, uid: str, prefix: str, num_slices: int = 3) -> None:
    """Slices of one picture, a file each."""
    folder.mkdir(exist_ok=True)
    for z in range(num_slices):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        dataset.SeriesInstanceUID, dataset.ImagePositionPatient = uid, [0, 0, 2 * z]
        dataset.save_as(folder / f"{prefix}{z}")


@pytest.mark.parametrize("kept", [{}, {"link": True}, {"copy_source": True}])
def test_a_series_is_the_same_image_whatever_else_arrives(tmp_path: Path, kept: dict[str, bool]) -> None:
    folder = tmp_path / "patient"
    small_series(folder, "1.2.3.1", "a b")
    asked = {"sources": (f"{folder}/",), **kept}
    (first,) = run(tmp_path / "w", **asked).items
    assert (first.state, first.error) == ("done", None)
    small_series(folder, "1.2.3.2", "b", 4)
    items = {str(item.source): item for item in run(tmp_path / "w", **asked).items}
    assert sorted((item.state, item.details.get("reason")) for item in items.values()) == [
        ("done", None),
        ("skipped", "unchanged"),
    ]
    assert items[str(first.source)].image == first.image
    named = run(tmp_path / "w", **kept, sources=(str(first.source).replace("/::", "::"),)).items
    assert [(item.state, item.image) for item in named] == [("skipped", first.image)]
    (folder / "b3").unlink()
    states = {item.source: item.state for item in run(tmp_path / "w", **asked).items}
    assert states.pop(first.source) == "skipped"
    assert list(states.values()) == ["done"]
    workspace = Workspace.open(str(tmp_path / "w"))
    assert sorted(workspace.image(image_id).shape()[1] for image_id in workspace.image_ids()) == [3, 3]
    expected = np.stack([pydicom.dcmread(get_testdata_file("CT_small.dcm")).pixel_array] * 3)
    for image_id in workspace.image_ids():
        np.testing.assert_array_equal(whole(workspace, image_id)[0], expected.astype(np.int32) - 1024)
    assert verify(workspace) == []


def test_a_slice_that_is_a_link_out_of_the_folder_is_not_copied(tmp_path: Path) -> None:
    small_series(tmp_path / "patient", "1.2.3.1", "a")
    (tmp_path / "patient" / "a1").rename(tmp_path / "elsewhere")
    (tmp_path / "patient" / "a1").symlink_to(tmp_path / "elsewhere")
    (item,) = run(tmp_path / "w", sources=(str(tmp_path / "patient"),), copy_source=True).items
    assert item.error is not None
    assert f"patient/a1: is a link to {tmp_path}/elsewhere" in item.error


def test_a_volume_with_its_labels(data_dir: Path, tmp_path: Path) -> None:
    (image_path,) = (
        path for path in (data_dir / "nifti" / "msd_spleen_ct").rglob("*.nii.gz") if "seg" not in path.name
    )
    (label_path,) = (path for path in (data_dir / "nifti" / "msd_spleen_ct").rglob("*.nii.gz") if "seg" in path.name)
    result = run(tmp_path / "w", sources=(str(image_path),), targets=str(label_path))
    assert [item.error for item in result.items] == [None]
    workspace = Workspace.open(str(tmp_path / "w"))
    (image_id,) = workspace.image_ids()
    image: Any = nibabel.load(image_path)
    label: Any = nibabel.load(label_path)
    np.testing.assert_array_equal(whole(workspace, image_id), np.asarray(image.dataobj, np.float32).T[None])
    np.testing.assert_array_equal(whole(workspace, image_id, "target"), np.asarray(label.dataobj).T)


def test_other_peoples_zarr_is_found_in_a_folder_and_by_a_pattern(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 600, 700), dtype=np.uint8)
    for name in ("a.zarr", "b.zarr"):
        group = zarr.open_group(tmp_path / "in" / name, mode="w", zarr_format=2)
        group.create_array("0", data=pixels, chunks=(1, 256, 256))
        scale = {"type": "scale", "scale": [1.0, 0.5, 0.5]}
        group.attrs["multiscales"] = [
            {
                "version": "0.4",
                "axes": [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space"} for axis in "yx")],
                "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
            }
        ]
    for number, given in enumerate((str(tmp_path / "in"), f"{tmp_path}/in/*.zarr")):
        result = run(tmp_path / f"w{number}", sources=(given,))
        assert [item.state for item in result.items] == ["done", "done"], result.items
        workspace = Workspace.open(str(tmp_path / f"w{number}"))
        for image_id in workspace.image_ids():
            np.testing.assert_array_equal(whole(workspace, image_id), pixels)
    linked = run(tmp_path / "linked", sources=(str(tmp_path / "in" / "a.zarr"),), link=True)
    assert [item.state for item in linked.items] == ["done"], linked.items
    workspace = Workspace.open(str(tmp_path / "linked"))
    np.testing.assert_array_equal(whole(workspace, workspace.image_ids()[0]), pixels)


def test_a_folder_that_moved_on_is_another_version(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "series"
    shutil.copytree(data_dir / "dicom" / "ct_series_jp2k", folder)
    assert run(tmp_path / "w", sources=(str(folder),)).items[0].state == "done"
    last = max(
        folder.iterdir(), key=lambda path: pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]
    )
    last.unlink()
    assert run(tmp_path / "w", sources=(str(folder),)).items[0].state == "done"
    workspace = Workspace.open(str(tmp_path / "w"))
    assert workspace.image(workspace.image_ids()[0]).shape()[1] == 19
