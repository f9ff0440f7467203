"""Slides: against OpenSlide itself, on real slides and on small ones of several levels that are made here."""

import builtins
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from PIL import Image

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, members, open_source, suffixes
from segcore.sources.files import SourceFile
from segcore.sources.slide_files import SlideFiles, vendor_of
from segcore.spatial import WantedSpacing


@pytest.fixture
def slide(data_dir: Path) -> Path:
    return data_dir / "wsi" / "CMU-1-Small-Region.svs"


def test_windows_are_those_of_openslide(slide: Path) -> None:
    openslide = pytest.importorskip("openslide")
    rng = np.random.default_rng(0)
    with open_source(str(slide)) as source, openslide.OpenSlide(str(slide)) as oracle:
        assert source.info.shape == (3, 2967, 2220)
        for _ in range(8):
            y, x = int(rng.integers(0, 2900)), int(rng.integers(0, 2100))
            window = Window((0, y, x), (3, min(300, 2967 - y), min(250, 2220 - x)))
            expected = np.asarray(oracle.read_region((x, y), 0, (window.shape[2], window.shape[1])).convert("RGB"))
            np.testing.assert_array_equal(source.read(window), np.moveaxis(expected, -1, 0))
        np.testing.assert_array_equal(
            source.read(Window((1, 5, 7), (1, 9, 8))), source.read(Window((0, 5, 7), (3, 9, 8)))[1:2]
        )


def test_what_the_slide_says(slide: Path) -> None:
    pytest.importorskip("openslide")
    with open_source(str(slide)) as source:
        info = source.info
    assert (info.reader, info.channels, info.has_valid) == ("slide", ("red", "green", "blue"), False)
    assert info.spacing is not None
    assert (info.spacing.values, info.spacing.unit) == ({"y": 0.499, "x": 0.499}, "micrometer")
    assert info.details["tile"] == [240, 240]
    assert "label" not in str(info.model_dump())
    assert "macro" not in str(info.model_dump())


def test_the_name_does_not_matter(slide: Path, tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    other = tmp_path / "slide.tif"
    other.symlink_to(slide)
    with open_source(str(other)) as source:
        assert source.info.reader == "slide"


def test_a_missing_extra_is_named(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "openslide":
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SourceError, match=r"pip install 'segcore\[slides\]'"):
        open_source(str(slide))


APERIO = "Aperio Image Library v1\r\n1 x 1|AppMag = 20|MPP = 0.5|User = nobody"


def write_slide(path: Path, shapes: list[tuple[int, int]], description: str = APERIO, **options: Any) -> list[Any]:
    """A TIFF of Aperio's kind with these levels; its pixels, level by level."""
    rng = np.random.default_rng(0)
    levels = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    with tifffile.TiffWriter(path) as tiff:
        for level, pixels in enumerate(levels):
            said = description if level == 0 else "Aperio level"
            tiff.write(pixels, tile=(64, 64), photometric="rgb", description=said, metadata=None, **options)
    return levels


@pytest.fixture
def openslide() -> Any:
    return pytest.importorskip("openslide")


def test_every_level_is_what_openslide_gives(tmp_path: Path, openslide: Any) -> None:
    levels = write_slide(tmp_path / "a.svs", [(800, 1200), (400, 600), (100, 150)])
    rng = np.random.default_rng(1)
    with open_source(str(tmp_path / "a.svs")) as source, openslide.OpenSlide(str(tmp_path / "a.svs")) as oracle:
        assert source.info.levels == ((800, 1200), (400, 600), (100, 150))
        for level, factor in enumerate((1, 2, 8)):
            height, width = source.shape(level)[1:]
            for _ in range(6):
                y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
                sides = int(rng.integers(1, height - y + 1)), int(rng.integers(1, width - x + 1))
                window = Window((0, y, x), (3, *sides))
                found = oracle.read_region((x * factor, y * factor), level, sides[::-1]).convert("RGB")
                np.testing.assert_array_equal(source.read(window, level), np.moveaxis(np.asarray(found), -1, 0))
                stored = np.moveaxis(levels[level], -1, 0)[window.slices]
                np.testing.assert_array_equal(source.read(window, level), stored)


def test_a_level_between_whole_numbers_is_read_from_the_corners_of_one_grid(tmp_path: Path, openslide: Any) -> None:
    levels = write_slide(tmp_path / "a.svs", [(203, 4603), (50, 1150)])
    with open_source(str(tmp_path / "a.svs")) as source, openslide.OpenSlide(str(tmp_path / "a.svs")) as oracle:
        factor = oracle.level_downsamples[1]
        assert not factor.is_integer()
        whole = source.read(Window.whole((3, 50, 1150)), level=1)
        # The first cell begins in the origin, so its pixels are the stored ones.
        np.testing.assert_array_equal(whole[..., :1024], np.moveaxis(levels[1], -1, 0)[..., :1024])
        second = oracle.read_region((round(1024 * factor), 0), 1, (126, 50)).convert("RGB")
        np.testing.assert_array_equal(whole[..., 1024:], np.moveaxis(np.asarray(second), -1, 0))
        for window in (Window((0, 7, 1000), (3, 30, 100)), Window((1, 49, 1030), (2, 1, 5))):
            np.testing.assert_array_equal(source.read(window, level=1), whole[window.slices])


def test_what_was_not_scanned_is_not_usable(tmp_path: Path, openslide: Any) -> None:
    tiles = np.random.default_rng(0).integers(1, 256, (2, 3, 64, 64, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        scanned = (None if (y, x) == (1, 1) else tiles[y, x] for y in range(2) for x in range(3))
        layout = {"shape": (128, 192, 3), "dtype": np.uint8, "tile": (64, 64)}
        tiff.write(scanned, photometric="rgb", description=APERIO, metadata=None, **layout)  # type: ignore[call-overload]
    expected = np.ones((128, 192), bool)
    expected[64:, 64:128] = False
    with open_source(str(tmp_path / "a.svs")) as source:
        assert source.info.has_valid
        np.testing.assert_array_equal(source.read_valid(Window.whole((128, 192))), expected)
        np.testing.assert_array_equal(source.read_valid(Window((60, 120), (20, 20))), expected[60:80, 120:140])


def test_a_coarser_spacing_is_made_of_the_level_that_is_fine_enough(tmp_path: Path, openslide: Any) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (3, 64, 64, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        layout: dict[str, Any] = {"photometric": "rgb", "metadata": None, "tile": (64, 64), "dtype": np.uint8}
        tiff.write(iter([pixels[0]] * 12 + [None] * 4), shape=(256, 256, 3), description=APERIO, **layout)
        tiff.write(iter([pixels[1]]), shape=(64, 64, 3), description="Aperio level", **layout)
    for said, level in (("2um", 1), ("1.9um", 0)):
        with open_source(str(tmp_path / "a.svs"), Opening(spacing=WantedSpacing.parse(said))) as source:
            assert source.info.details["resampled"]["level"] == level
            assert source.info.spacing is not None
            assert source.info.spacing.origin == "resampled from 0.5 micrometer"
            found = source.read(Window.whole(source.info.shape))
            valid = source.read_valid(Window.whole(source.info.shape[1:]))
        if level == 1:
            with openslide.OpenSlide(str(tmp_path / "a.svs")) as oracle:
                rgba = np.moveaxis(np.asarray(oracle.read_region((0, 0), 1, (64, 64))), -1, 0)
            # OpenSlide does not trust a coarse tile where a finer one is missing.
            np.testing.assert_array_equal(valid, rgba[3] > 0)
            assert (valid[:48].all(), valid[48:].any()) == (True, False)
            np.testing.assert_array_equal(found, np.where(rgba[3] > 0, rgba[:3], 0))
        else:
            assert valid[:51].all(), "row 50 has more than half of its support above the last row of tiles"
            assert not valid[51:].any()


def test_a_slide_without_its_spacing_asks_for_it(tmp_path: Path, openslide: Any) -> None:
    write_slide(tmp_path / "a.svs", [(70, 90)], APERIO.replace("|MPP = 0.5", ""))
    with pytest.raises(SourceError, match=r"µm per pixel; give it: --spacing 0.5um"):
        open_source(str(tmp_path / "a.svs"))
    for said in ("0.25", "0.25um"):
        with open_source(str(tmp_path / "a.svs"), Opening(spacing=WantedSpacing.parse(said))) as source:
            assert source.info.shape == (3, 70, 90)
            assert source.info.spacing is not None
            assert source.info.spacing.model_dump() == {
                "values": {"y": 0.25, "x": 0.25},
                "unit": "micrometer",
                "origin": "user",
            }


def test_a_tiled_pyramid_of_nobody_s_stays_a_tiff(data_dir: Path, tmp_path: Path) -> None:
    with open_source(str(data_dir / "wsi" / "boxes_pyramid.tiff")) as source:
        assert source.info.reader == "tiff"
    write_slide(tmp_path / "a.tif", [(70, 90)], "made by nobody")
    assert vendor_of(SourceFile(str(tmp_path / "a.tif"))) is None


@pytest.mark.parametrize(
    ("vendor", "description", "software", "tag"),
    [
        ("hamamatsu", "", None, (65420, "I", 1, 1, False)),
        ("leica", '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"></scn>', None, None),
        ("philips", '<DataObject ObjectType="DPUfsImport"></DataObject>', "Philips DP v1.0", None),
        ("trestle", "Objective Power=20", "MedScan", None),
        ("ventana", "level=0", None, (700, "B", 22, b'<iScan Z-layers="1" />', False)),
        (None, "level=0", "Philips", (700, "B", 9, b"<x:xmpmeta"[:9], False)),
    ],
)
def test_a_vendor_is_known_by_the_tags_of_its_tiff(
    tmp_path: Path, vendor: str | None, description: str, software: str | None, tag: Any
) -> None:
    write_slide(tmp_path / "a.tif", [(70, 90)], description, software=software, extratags=[tag] if tag else [])
    assert vendor_of(SourceFile(str(tmp_path / "a.tif"))) == vendor


def test_a_slide_of_trestle_opens_under_the_name_of_a_tiff(tmp_path: Path, openslide: Any) -> None:
    resolution = {"resolution": (0.5, 0.5), "software": "MedScan"}
    (pixels,) = write_slide(tmp_path / "a.tif", [(70, 90)], "Objective Power=20", **resolution)
    with open_source(str(tmp_path / "a.tif")) as source:
        assert (source.info.details["kind"], source.info.details["objective_power"]) == ("slide (trestle)", "20")
        np.testing.assert_array_equal(source.read(Window.whole((3, 70, 90))), np.moveaxis(pixels, -1, 0))
        assert source.read_valid(Window.whole((70, 90))).all()


def test_an_ndpi_over_4_gib_is_known(tmp_path: Path) -> None:
    at = 2**32 + 2**20
    with (tmp_path / "a.ndpi").open("wb") as file:
        file.write(b"II*\0" + at.to_bytes(8, "little"))
        file.seek(at)  # a hole in the file: no bytes on the disk
        tag = (65420).to_bytes(2, "little") + b"\x04\0\x01\0\0\0" + b"\x01\0\0\0"
        file.write(b"\x01\0" + tag + b"\0" * 12)
    assert vendor_of(SourceFile(str(tmp_path / "a.ndpi"))) == "hamamatsu"


@pytest.fixture
def dicom(data_dir: Path, tmp_path: Path) -> Path:
    """A folder with the files of one slide, and a note."""
    folder = tmp_path / "slide"
    shutil.copytree(data_dir / "wsi" / "dicom_wsi_tiny", folder)
    (folder / "about.txt").write_text("a note")
    return folder


def test_a_slide_in_dicom_is_a_folder_or_one_of_its_files(dicom: Path, openslide: Any) -> None:
    with openslide.OpenSlide(str(dicom / "boxes_0.dcm")) as oracle:
        expected = np.moveaxis(np.asarray(oracle.read_region((0, 0), 0, (16, 16)).convert("RGB")), -1, 0)
    for uri in (dicom, dicom / "boxes_0.dcm", dicom / "boxes_1.dcm"):
        with open_source(str(uri)) as source:
            info = source.info
            np.testing.assert_array_equal(source.read(Window.whole((3, 16, 16))), expected)
            assert info.spacing is not None
            assert (info.spacing.values["x"], info.has_valid) == (0.499, False)
            assert set(info.details) == {"kind", "levels", "tile", "objective_power"}
    assert members(str(dicom)) == (str(dicom),)
    assert ".dcm" not in suffixes(), "a folder's files would each be taken as an image"


@pytest.fixture
def two_slides(dicom: Path) -> Path:
    """The same folder with the files of a second slide."""
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        content = (dicom / name).read_bytes()
        series = b"1689669825649.4.0"
        assert series in content
        (dicom / f"other_{name}").write_bytes(content.replace(series, b"1689669825649.5.0"))
    return dicom


def test_of_several_slides_in_a_folder_one_is_named(two_slides: Path, openslide: Any) -> None:
    with pytest.raises(SourceError, match=r"holds 2 slides; name one by a file of it: .*::boxes_0.dcm"):
        open_source(str(two_slides))
    names = members(str(two_slides))
    assert names == (f"{two_slides}::boxes_0.dcm", f"{two_slides}::other_boxes_0.dcm")
    for name in names:
        with open_source(name) as source:
            assert source.info.shape == (3, 16, 16)
    with pytest.raises(SourceError, match="expected one of"):
        open_source(f"{two_slides}::about.txt")


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    if system.exists("/slides"):
        system.rm("/slides", recursive=True)


def test_a_remote_slide_of_several_files_is_fetched_and_removed(
    dicom: Path, memory: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, openslide: Any
) -> None:
    for path in dicom.iterdir():
        memory.pipe(f"/slides/a/{path.name}", path.read_bytes())
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    with open_source("memory://slides/a") as source, open_source(str(dicom)) as local:
        whole = Window.whole((3, 16, 16))
        np.testing.assert_array_equal(source.read(whole), local.read(whole))
        assert source.info.num_bytes == local.info.num_bytes
        assert list((tmp_path / "copies").iterdir())
    assert not list((tmp_path / "copies").iterdir())
    with pytest.raises(SourceError, match="max_download_bytes = 9"):
        open_source("memory://slides/a", Opening(limits=Limits(max_download_bytes=9)))
    with pytest.raises(SourceError, match="give the folder"):
        open_source("memory://slides/a/boxes_1.dcm")


VMS = """[Virtual Microscope Specimen]
NoLayers=1
NoJpegColumns=1
NoJpegRows=1
ImageFile=a.jpg
MapFile=map.jpg
OptimisationFile=
MacroImage=macro.jpg
PhysicalWidth=64000
PhysicalHeight=32000
SourceLens=20
"""


@pytest.fixture
def vms(tmp_path: Path) -> Path:
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8), np.ones((16, 16, 1), "u1"))
    folder = tmp_path / "vms"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.jpg", restart_marker_blocks=4, subsampling=0)
    for name in ("map.jpg", "macro.jpg"):
        Image.fromarray(pixels[::2, ::2]).save(folder / name, restart_marker_blocks=2, subsampling=0)
    (folder / "s.vms").write_text(VMS)
    return folder / "s.vms"


def test_a_slide_of_several_files_is_read_from_where_they_are(vms: Path, memory: Any, openslide: Any) -> None:
    for path in vms.parent.iterdir():
        memory.pipe(f"/slides/b/{path.name}", path.read_bytes())
    with openslide.OpenSlide(str(vms)) as oracle:
        expected = np.moveaxis(np.asarray(oracle.read_region((0, 0), 0, (128, 64)).convert("RGB")), -1, 0)
        coarse = np.moveaxis(np.asarray(oracle.read_region((8, 16), 2, (20, 9)).convert("RGB")), -1, 0)
    for uri in (str(vms), "memory://slides/b/s.vms"):
        with open_source(uri) as source:
            assert source.info.details["kind"] == "slide (hamamatsu)"
            np.testing.assert_array_equal(source.read(Window.whole((3, 64, 128))), expected)
            np.testing.assert_array_equal(source.read(Window((0, 4, 2), (3, 9, 20)), level=2), coarse)
            assert source.info.num_bytes == sum(path.stat().st_size for path in vms.parent.iterdir())


def test_a_part_that_is_missing_or_lies_elsewhere_is_named(vms: Path) -> None:
    (vms.parent / "map.jpg").unlink()
    with pytest.raises(SourceError, match=r"'map.jpg' is not beside it"):
        open_source(str(vms))
    vms.write_text(VMS.replace("a.jpg", "../secret.jpg"))
    with pytest.raises(SourceError, match="refused for safety"):
        open_source(str(vms))
    vms.write_text(VMS + "#" * 2**20)
    with pytest.raises(SourceError, match="expected at most 1048576"):
        open_source(str(vms))
    with pytest.raises(SourceError, match="has no part 'macro'"):
        open_source(f"{vms}::macro")


def test_a_mirax_slide_needs_its_folder(tmp_path: Path) -> None:
    slide = tmp_path / "a.mrxs"
    Image.new("RGB", (8, 8)).save(slide, format="jpeg")
    with pytest.raises(SourceError, match="the folder 'a' beside it; copy both"):
        open_source(str(slide))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Slidedat.ini").write_text("[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = ../../b.dat\n")
    with pytest.raises(SourceError, match=r"FILE_0 names '../../b.dat'"):
        open_source(str(slide))


def test_a_remote_mirax_slide_is_laid_out_as_openslide_wants_it(memory: Any) -> None:
    parts = {"Slidedat.ini": b"[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0000.dat\n", "Data0000.dat": b"pixels"}
    memory.pipe("/slides/a.mrxs", b"\xff\xd8 a picture")
    for name, content in (parts | {"notes.txt": b"not ours"}).items():
        memory.pipe(f"/slides/a/{name}", content)
    with contextlib.ExitStack() as kept:
        files = SlideFiles.of(SourceFile("memory://slides/a.mrxs"), "mirax")
        place = files.local_path(2**20, kept)
        assert place.read_bytes() == b"\xff\xd8 a picture"
        assert {path.name: path.read_bytes() for path in place.with_suffix("").iterdir()} == parts
        assert files.num_bytes == sum(map(len, parts.values())) + place.stat().st_size
    assert not place.exists()
