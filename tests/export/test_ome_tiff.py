"""OME-TIFFs read back by tifffile and OpenSlide, against the levels of the mask in the workspace."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import tifffile
from openslide import OpenSlide

from segcore.classes import ClassInfo, default_classes
from segcore.config import ExportConfig, IngestConfig
from segcore.export import export, ome_tiff
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.results import ItemResult
from segcore.sources import open_source
from segcore.spatial import Spacing
from segcore.store import Workspace
from tests.synthetic import put_image, put_label, put_objects

PIXELS = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}Pixels"
SPACING = Spacing(values={"z": 3.0, "y": 0.5, "x": 0.25}, unit="micrometer", origin="file")


def _workspace(tmp_path: Path, ids: npt.NDArray[Any], axes: tuple[str, ...] = ("y", "x")) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    at = axes.index("z") if "z" in axes else 1 if "t" in axes else 0
    image = np.ones((*ids.shape[:at], 1, *ids.shape[at:]), np.uint8)
    put_image(ws, "i", image, spacing=SPACING, axes=(*axes[:at], "c", *axes[at:]))
    put_label(ws, "i", "m", ids, default_classes(4), axes=axes)
    return ws


def _noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 4, shape).astype(np.uint8)


def _export(ws: Workspace, tmp_path: Path, **options: Any) -> ItemResult:
    config = {"workspace": ws.uri, "model": "m", "output": str(tmp_path / "out"), "format": "ome-tiff"} | options
    (item,) = export(ExportConfig.model_validate(config)).items
    return item


def _path(item: ItemResult) -> str:
    assert item.path is not None, item.error
    return item.path


@pytest.mark.parametrize(
    ("axes", "shape"), [(("y", "x"), (1100, 701)), (("z", "y", "x"), (3, 601, 530)), (("t", "y", "x"), (2, 520, 513))]
)
def test_levels_are_those_of_the_mask(tmp_path: Path, axes: tuple[str, ...], shape: tuple[int, ...]) -> None:
    ws = _workspace(tmp_path, _noise(*shape), axes)
    mask = ws.label("i", "m")
    with tifffile.TiffFile(_path(_export(ws, tmp_path))) as found:
        (series,) = found.series
        assert (series.axes, series.dtype, found.is_bigtiff) == ("".join(axes).upper(), np.uint8, False)
        assert series.pages[0].is_tiled
        assert [level.shape for level in series.levels] == [mask.shape(n) for n in range(mask.num_levels)]
        for n, level in enumerate(series.levels):
            np.testing.assert_array_equal(level.asarray(), mask.read(Window.whole(mask.shape(n)), n))
    np.testing.assert_array_equal(mask.read(Window.whole(shape)), _noise(*shape))


def test_physical_size_channel_and_lineage_are_in_the_xml(tmp_path: Path) -> None:
    ws = _workspace(tmp_path, _noise(2, 40, 30), ("z", "y", "x"))
    with tifffile.TiffFile(_path(_export(ws, tmp_path))) as found:
        assert found.ome_metadata is not None
        tree = ElementTree.fromstring(found.ome_metadata)
    pixels = next(tree.iter(PIXELS)).attrib
    sizes = {f"PhysicalSize{axis.upper()}": str(size) for axis, size in SPACING.values.items()}
    assert {key: pixels[key] for key in sizes} == sizes
    assert {pixels[f"{key}Unit"] for key in sizes} == {"µm"}
    assert next(tree.iter(PIXELS.replace("Pixels", "Channel"))).attrib["Name"] == "m"
    told = {each.attrib["K"]: each.text for each in tree.iter(PIXELS.replace("Pixels", "M"))}
    assert (told["SEGCORE_STAMP"], told["plan_digest"], told["class 1"]) == ("m-0", "m-0", "class 1 #e69f00")


def test_names_with_control_characters_leave_the_xml_readable(tmp_path: Path) -> None:
    ws = _workspace(tmp_path, _noise(40, 30))
    odd = ClassInfo(id=1, name='<M K="SEGCORE_STAMP">\x01a\0b\ud800', color=(1, 2, 3))
    put_label(ws, "i", "m", _noise(40, 30), (odd,), version=1)
    with tifffile.TiffFile(_path(_export(ws, tmp_path))) as found:
        assert found.ome_metadata is not None
        tree = ElementTree.fromstring(found.ome_metadata)
    told = {each.attrib["K"]: each.text for each in tree.iter(PIXELS.replace("Pixels", "M"))}
    assert (told["class 1"], told["SEGCORE_STAMP"]) == ('<M K="SEGCORE_STAMP"> a b  #010203', "m-1")
    assert _export(ws, tmp_path).state == "skipped"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_openslide_gdal_and_our_reader_see_the_levels(tmp_path: Path) -> None:
    ws = _workspace(tmp_path, _noise(1100, 701))
    mask = ws.label("i", "m")
    levels = [mask.read(Window.whole(mask.shape(n)), n) for n in range(mask.num_levels)]
    path = _path(_export(ws, tmp_path))
    with OpenSlide(path) as slide:
        assert slide.level_dimensions == tuple(found.shape[::-1] for found in levels)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)
        for n, found in enumerate(levels):
            region = np.asarray(slide.read_region((0, 0), n, found.shape[::-1]))
            np.testing.assert_array_equal(region[..., 0], found)
    with rasterio.open(path, OVERVIEW_LEVEL=1) as dataset:
        np.testing.assert_array_equal(dataset.read(1), levels[2])
    with open_source(path) as source:
        assert source.info.spacing is not None
        assert source.info.spacing.values == {"y": 0.5, "x": 0.25}
        assert source.info.levels == tuple(found.shape for found in levels)
        np.testing.assert_array_equal(source.read(Window.whole(source.info.shape))[0], levels[0])


def test_a_real_slide(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "wsi" / "CMU-1-Small-Region.svs"
    uri = str(tmp_path / "ws")
    (item,) = ingest(IngestConfig(workspace=uri, sources=(str(source),), processes=1, link=True)).items
    assert item.image is not None, item.error
    ws = Workspace.open(uri)
    ids = _noise(*ws.image(item.image).shape()[1:])
    put_label(ws, item.image, "m", ids, default_classes(4))
    with OpenSlide(str(source)) as slide, OpenSlide(_path(_export(ws, tmp_path))) as mask:
        assert mask.dimensions == slide.dimensions
        for axis in "xy":
            mpp = float(slide.properties[f"openslide.mpp-{axis}"])
            assert float(mask.properties[f"openslide.mpp-{axis}"]) == pytest.approx(mpp)
        region = np.asarray(mask.read_region((1000, 2000), 0, (900, 700)))
    np.testing.assert_array_equal(region[..., 0], ids[2000:2700, 1000:1900])


def test_large_ones_are_bigtiffs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ome_tiff, "BIG_BYTES", 1000)
    with tifffile.TiffFile(_path(_export(_workspace(tmp_path, _noise(40, 30)), tmp_path))) as found:
        assert found.is_bigtiff
        np.testing.assert_array_equal(found.asarray(), _noise(40, 30))


def test_objects_keep_their_ids_up_to_32_bits(tmp_path: Path) -> None:
    ws = _workspace(tmp_path, _noise(40, 30))
    ids = _noise(40, 30).astype(np.uint32) * 70000
    put_objects(ws, "i", "m_instances", ids, {"mask": "m", "mask_digest": "m-0"})
    np.testing.assert_array_equal(tifffile.imread(_path(_export(ws, tmp_path, model="m_instances"))), ids)
    put_objects(ws, "i", "m_instances", ids.astype(np.uint64), {"mask": "m", "mask_digest": "m-0"})
    error = _export(ws, tmp_path, model="m_instances", overwrite=True).error
    assert error == "image i: an OME-TIFF holds ids of up to 32 bits, got uint64"


@pytest.mark.parametrize("file_format", ["geotiff", "cog", "png", "geojson"])
def test_format_of_one_plane_names_those_that_hold_volumes(tmp_path: Path, file_format: str) -> None:
    ws = _workspace(tmp_path, _noise(2, 40, 30), ("z", "y", "x"))
    assert _export(ws, tmp_path, format=file_format).error == (
        f"image i: {file_format} holds no masks with the axes (z, y, x); "
        "export it as ome-tiff, ome-zarr, nifti or dicom-seg"
    )
