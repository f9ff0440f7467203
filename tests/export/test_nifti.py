"""NIfTI masks read back by nibabel: they lie on their source's own voxels, whatever the image was resampled to."""

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from segcore.config import ExportConfig, IngestConfig
from segcore.export import export, source_grid
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.sources import open_source
from segcore.spatial import Spacing
from segcore.store import Workspace
from tests.synthetic import put_image, put_label

OBLIQUE = np.array([[0, -2.0, 0.3, 10], [0.7, 0, 0.1, -20], [0.1, 0.2, 4.0, 30], [0, 0, 0, 1]])
REAL = (
    "nifti/sct_t2_cord/t2.nii.gz",
    "nifti/msd_spleen_ct/sub-spleen2_ct.nii.gz",
    "nifti/misc/example4d.nii.gz",
    "nifti/misc/anatomical_bigendian.nii",
)


def _ids(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(8).integers(0, 3, shape).astype(np.uint8)


def _ingested(tmp_path: Path, source: Path, **options: Any) -> tuple[Workspace, str]:
    uri = str(tmp_path / "ws")
    (item,) = ingest(IngestConfig(workspace=uri, sources=(str(source),), processes=1, **options)).items
    assert item.image is not None, item.error
    return Workspace.open(uri), item.image


def _export(ws: Workspace, tmp_path: Path) -> Any:
    (item,) = export(ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path / "out"), format="nifti")).items
    assert item.path is not None, item.error
    return nibabel.load(item.path)


def _write_source(tmp_path: Path, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> Path:
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.int16), affine), path)
    return path


@pytest.mark.parametrize("shape", [(7, 9, 5), (7, 9, 1), (7, 9, 5, 3)])
def test_mask_has_the_affine_and_the_voxels_of_its_source(
    tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_grid, "BAND_PX", 20)  # two rows at once
    source = _write_source(tmp_path, shape, OBLIQUE)
    ws, image_id = _ingested(tmp_path, source)
    axes = tuple(axis for axis in ws.image(image_id).axes if axis != "c")
    ids = _ids(*shape[2::-1]) if "z" in axes else _ids(*shape[1::-1])
    put_label(ws, image_id, "m", ids, axes=axes)
    found = _export(ws, tmp_path)
    assert (found.shape, found.get_data_dtype()) == (shape[:3], np.uint8)
    np.testing.assert_array_equal(found.affine, nibabel.load(source).affine)
    np.testing.assert_array_equal(np.asarray(found.dataobj), ids.reshape(shape[2::-1]).transpose())
    assert found.header.get_xyzt_units()[0] == "mm"


def test_sheared_affine_has_no_qform(tmp_path: Path) -> None:
    sheared = OBLIQUE.copy()
    sheared[0, 2] = 3
    ws, image_id = _ingested(tmp_path, _write_source(tmp_path, (4, 5, 3), sheared))
    put_label(ws, image_id, "m", _ids(3, 5, 4), axes=("z", "y", "x"))
    found = _export(ws, tmp_path)
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (2, 0)
    np.testing.assert_allclose(found.affine, sheared, rtol=1e-6)


def test_small_shear_of_a_long_volume_has_no_qform(tmp_path: Path) -> None:
    """A thousandth of a side per voxel is a whole voxel at the far end."""
    sheared = np.diag([0.5, 0.5, 2, 1])
    sheared[0, 1] = 0.0005
    ws, image_id = _ingested(tmp_path, _write_source(tmp_path, (3, 1000, 2), sheared))
    put_label(ws, image_id, "m", _ids(2, 1000, 3), axes=("z", "y", "x"))
    header = _export(ws, tmp_path).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 0)


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (4, 4), (77, 1)])
def test_space_stays_that_of_the_source(tmp_path: Path, code: int, expected: int) -> None:
    """A mask of a brain in MNI's space (4) is none of the scanner's (1); there is no space 77."""
    path = tmp_path / "scan.nii"
    made = nibabel.Nifti1Image(np.ones((4, 5, 3), np.int16), np.diag([-2, 2, 3, 1]))
    made.set_qform(None)
    made.header["sform_code"] = code
    nibabel.save(made, path)
    ws, image_id = _ingested(tmp_path, path)
    put_label(ws, image_id, "m", _ids(3, 5, 4), axes=("z", "y", "x"))
    header = _export(ws, tmp_path).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (expected, expected)


def test_where_nothing_is_known_nothing_is_said(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "i", np.ones((1, 6, 4), np.uint8))
    put_label(ws, "i", "m", _ids(6, 4))
    header = _export(ws, tmp_path).header
    assert (header.get_xyzt_units()[0], header.get_zooms()) == ("unknown", (1, 1, 1))


def test_mask_of_a_resampled_image_is_brought_back(tmp_path: Path) -> None:
    """The image has 1 mm and its mask, on the next coarser level, 2 mm along y and x; the source 1 and 0.75 mm."""
    source = _write_source(tmp_path, (1031, 27, 2), np.diag([0.75, 1, 4, 1]))
    ws, image_id = _ingested(tmp_path, source, spacing="1mm")
    assert ws.image(image_id).shape(1) == (1, 2, 14, 387)
    ids = _ids(2, 14, 387)
    put_label(ws, image_id, "m", ids, axes=("z", "y", "x"), base_level=1)
    found = _export(ws, tmp_path)
    expected = np.empty((1031, 27, 2), np.uint8)
    for x, y, z in np.ndindex(expected.shape):
        expected[x, y, z] = ids[z, int((y + 0.5) / 2), min(386, int((x + 0.5) * 0.75 / 2))]
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_allclose(found.affine, nibabel.load(source).affine, atol=1e-6)


def test_without_an_affine_there_is_spacing_alone(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    spacing = Spacing(values={"y": 250.0, "x": 500.0}, unit="micrometer", origin="file")
    put_image(ws, "i", np.ones((1, 6, 4), np.uint8), spacing=spacing)
    put_label(ws, "i", "m", _ids(6, 4))
    found = _export(ws, tmp_path)
    assert found.header.get_zooms() == (0.5, 0.25, 1.0)
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (0, 0)
    with open_source(found.get_filename()) as source:
        assert source.info.affine is None
        assert source.info.spacing is not None
        assert source.info.spacing.values == {"y": 0.25, "x": 0.5}
        np.testing.assert_array_equal(source.read(Window.whole(source.info.shape))[0], _ids(6, 4))


def test_sides_over_32767_are_nifti_2(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "i", np.ones((1, 2, 32768), np.uint8))
    put_label(ws, "i", "m", _ids(2, 32768))
    found = _export(ws, tmp_path)
    assert isinstance(found, nibabel.Nifti2Image)
    np.testing.assert_array_equal(np.asarray(found.dataobj)[..., 0], _ids(2, 32768).T)


def test_rerun_keeps_it_and_equal_masks_give_equal_bytes(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "i", np.ones((1, 6, 4), np.uint8))
    put_label(ws, "i", "m", _ids(6, 4))
    config = ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path / "out"), format="nifti")
    (path,) = export(config).paths
    first = Path(path).read_bytes()
    assert export(config).items[0].state == "skipped"
    export(config.model_copy(update={"overwrite": True}))
    assert Path(path).read_bytes() == first
    for foreign in (b"", b"mine", first[:200], gzip.compress(b"mine")):
        Path(path).write_bytes(foreign)
        assert export(config).items[0].state == "failed"


@pytest.mark.parametrize("name", REAL)
def test_real_scans(data_dir: Path, tmp_path: Path, name: str) -> None:
    ws, image_id = _ingested(tmp_path, data_dir / name)
    source = nibabel.load(data_dir / name)
    ids = _ids(*source.shape[2::-1])
    put_label(ws, image_id, "m", ids, axes=("z", "y", "x"))
    found = _export(ws, tmp_path)
    assert found.shape == source.shape[:3]
    np.testing.assert_allclose(found.affine, source.affine, rtol=1e-6, atol=1e-5)
    assert nibabel.aff2axcodes(found.affine) == nibabel.aff2axcodes(source.affine)
    np.testing.assert_array_equal(np.asarray(found.dataobj), ids.transpose())
