"""OME-Zarr made by others, held against what was put in: by zarr, by ome-zarr-py, by segcore itself."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tensorstore
import zarr
from zarr.storage import LocalStore, ObjectStore

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, SourceInfo, members, open_source
from segcore.spatial import Georef, Spacing
from segcore.store import Ngff, Workspace
from tests.conftest import Bucket
from tests.sources.conftest import Compare
from tests.synthetic import put_image

UNITS = {"c": None, "t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
TYPES = {"c": "channel", "t": "time"}


def pixels_of(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    if dtype.endswith("b1"):
        return rng.random(shape) < 0.5
    return (rng.integers(0, 100, shape) - (0 if "u" in dtype else 50)).astype(dtype)


def multiscales(axes: str, num_levels: int = 1, size: float = 0.5) -> dict[str, Any]:
    """NGFF's words for levels of `size` micrometres, z twice as large."""
    described = []
    for axis in axes:
        unit = {"unit": UNITS[axis]} if UNITS[axis] else {}
        described.append({"name": axis, "type": TYPES.get(axis, "space")} | unit)
    datasets = []
    for level in range(num_levels):
        factor = {"z": 2 * size, "y": size * 2**level, "x": size * 2**level}
        scale = [factor.get(axis, 1.0) for axis in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    return {"axes": described, "datasets": datasets}


def write(folder: Path, axes: str, levels: list[np.ndarray], version: int = 3, **how: Any) -> str:
    """An image group as zarr-python writes it; `how` goes to the arrays."""
    scales = multiscales(axes, len(levels))
    ome = {"version": "0.5", "multiscales": [scales]}
    attributes = {"multiscales": [{"version": "0.4", **scales}]} if version == 2 else {"ome": ome}
    group = zarr.open_group(str(folder), mode="w", zarr_format=version, attributes=attributes)
    for at, level in enumerate(levels):
        how = {"chunks": tuple(min(n, 16) for n in level.shape)} | how
        group.create_array(str(at), shape=level.shape, dtype=level.dtype, **how)[...] = level
    return str(folder)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


V2_CODECS = {
    "none": {"compressors": None},
    "zlib": {"compressors": numcodecs.Zlib(1)},
    "gzip": {"compressors": numcodecs.GZip(1)},
    "zstd": {"compressors": numcodecs.Zstd(1)},
    "lz4": {"compressors": numcodecs.LZ4()},
    "bz2": {"compressors": numcodecs.BZ2(1)},
    "lzma": {"compressors": numcodecs.LZMA(preset=0)},
    "blosc": {"compressors": numcodecs.Blosc("zstd", 1, shuffle=2)},
    "delta": {"compressors": numcodecs.Zlib(1), "filters": [numcodecs.Delta("<u2")]},
    "shuffle": {"compressors": numcodecs.Zlib(1), "filters": [numcodecs.Shuffle(2)]},
    "fortran": {"order": "F"},
    "slash": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
}
V3_CODECS = {
    "default": {},
    "none": {"compressors": None},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "blosc": {"compressors": zarr.codecs.BloscCodec()},
    "transpose": {"filters": [zarr.codecs.TransposeCodec(order=(2, 1, 0))]},
    "sharded": {"chunks": (1, 10, 8), "shards": (3, 20, 24)},
    "big": {"serializer": zarr.codecs.BytesCodec(endian="big")},
    "v2-keys": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
}


@pytest.mark.parametrize("codec", V2_CODECS)
def test_zarr_v2_reads_as_what_was_written(tmp_path: Path, assert_reads: Compare, codec: str) -> None:
    pixels = pixels_of((3, 50, 37))
    with open_source(write(tmp_path / "a.zarr", "cyx", [pixels], 2, **V2_CODECS[codec])) as source:
        assert_reads(source, pixels)
        assert source.info.details["kind"] == "OME-Zarr 0.4"


@pytest.mark.parametrize("codec", V3_CODECS)
def test_zarr_v3_reads_as_what_was_written(tmp_path: Path, assert_reads: Compare, codec: str) -> None:
    pixels = pixels_of((3, 50, 37))
    with open_source(write(tmp_path / "a.zarr", "cyx", [pixels], 3, **V3_CODECS[codec])) as source:
        assert_reads(source, pixels)
        assert source.info.details["sharded"] == (codec == "sharded")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["<u1", "<i1", ">u2", "<i2", ">i4", "<u4", "<f4", ">f8", "|b1"])
def test_types_of_both_byte_orders(tmp_path: Path, assert_reads: Compare, version: int, dtype: str) -> None:
    pixels = pixels_of((2, 20, 30), dtype)
    wanted = pixels.astype(np.uint8) if dtype == "|b1" else pixels.astype(pixels.dtype.newbyteorder("="))
    stored = pixels if version == 2 else wanted.astype(pixels.dtype.newbyteorder("="))
    with open_source(write(tmp_path / "a.zarr", "cyx", [stored], version)) as source:
        assert_reads(source, wanted)


@pytest.mark.parametrize(
    ("stored", "shape", "axes"),
    [
        ("yx", (20, 30), "cyx"),
        ("zyx", (4, 20, 30), "czyx"),
        ("tyx", (4, 20, 30), "tcyx"),
        ("tczyx", (1, 3, 1, 20, 30), "cyx"),
        ("tczyx", (1, 2, 3, 20, 30), "czyx"),
        ("tczyx", (3, 2, 1, 20, 30), "tcyx"),
        ("tzyx", (1, 3, 20, 30), "czyx"),
        ("czxy", (2, 3, 30, 20), "czyx"),
    ],
)
def test_axes_become_ours(
    tmp_path: Path, assert_reads: Compare, stored: str, shape: tuple[int, ...], axes: str
) -> None:
    pixels = pixels_of(shape)
    long = [axis for axis in stored if axis in axes]
    ours = pixels.squeeze(tuple(at for at, axis in enumerate(stored) if axis not in axes))
    ours = ours.transpose([long.index(axis) for axis in axes if axis in long])
    if "c" not in stored:
        ours = np.expand_dims(ours, axes.index("c"))
    with open_source(write(tmp_path / "a.zarr", stored, [pixels])) as source:
        assert source.info.axes == tuple(axes)
        assert source.info.spacing is not None
        expected = {"z": 1.0, "y": 0.5, "x": 0.5} if "z" in stored else {"y": 0.5, "x": 0.5}
        assert source.info.spacing.values == expected
        assert_reads(source, ours)


def test_sequences_of_volumes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"sequence of volumes \(t 2, z 3, y 8, x 9\).*one file per time point"):
        open_source(write(tmp_path / "a.zarr", "tzyx", [pixels_of((2, 3, 8, 9))]))


@pytest.mark.parametrize("version", [2, 3])
def test_levels_are_those_of_which_y_and_x_are_smaller(tmp_path: Path, version: int) -> None:
    levels = [pixels_of((2, *yx)) for yx in ((41, 30), (21, 15), (21, 15), (11, 8), (3, 8))]
    levels.insert(3, pixels_of((1, 11, 8)))
    with open_source(write(tmp_path / "a.zarr", "cyx", levels, version)) as source:
        assert source.info.levels == ((41, 30), (21, 15), (11, 8))
        window = Window((0, 2, 3), (2, 9, 4))
        np.testing.assert_array_equal(source.read(window, 2), levels[4][window.slices])


def test_ome_zarr_py_writes_what_is_read(tmp_path: Path, assert_reads: Compare) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it deprecates what it imports itself
        writer = pytest.importorskip("ome_zarr.writer")
        formats = pytest.importorskip("ome_zarr.format")
    pixels = pixels_of((3, 90, 70), "uint8")
    channels = {"channels": [{"label": name, "color": "FF0000"} for name in ("a", "b", "d")]}
    for fmt in (formats.FormatV04(), formats.FormatV05()):
        folder = tmp_path / f"{fmt.version}.zarr"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer.write_image(pixels, str(folder), fmt=fmt, axes="cyx", metadata={"omero": channels})
        with open_source(str(folder)) as source:
            assert_reads(source, pixels)
            assert source.info.details["kind"] == f"OME-Zarr {fmt.version}"
            assert len(source.info.levels) > 1
            assert source.info.spacing is None


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_own_images_open_with_all_they_know(tmp_path: Path, assert_reads: Compare, ngff: Ngff) -> None:
    workspace = Workspace.open(str(tmp_path), create=True)
    pixels = pixels_of((2, 700, 520))
    georef = Georef(crs_wkt='GEOGCS["x"]', epsg=4326, transform=(0.5, 0.0, 1.0, 0.0, -0.5, 4.0))
    spacing = Spacing(values={"y": 0.5, "x": 0.5}, unit="degree", origin="file")
    put_image(workspace, "a", pixels, spacing=spacing, georef=georef, nodata=7, ngff=ngff)
    with open_source(workspace.describe("images/a.ome.zarr")) as source:
        assert_reads(source, pixels)
        info = source.info
        assert (info.georef, info.nodata, info.spacing) == (georef, 7, spacing)
        assert info.channels == ("band 0", "band 1")
        assert info.levels == ((700, 520), (350, 260))


def test_names_and_transformations(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    write(folder, "cyx", [pixels_of((2, 20, 30))], 2)
    scales = multiscales("cyx")
    scales["axes"][1]["unit"] = "millimeter"
    scales["coordinateTransformations"] = [{"type": "scale", "scale": [1, 2, 3]}]
    channels = [{"label": "DAPI"}, {"label": "Cy5"}]
    edit(folder / ".zattrs", multiscales=[scales], omero={"channels": channels})
    with open_source(str(folder)) as source:
        assert source.info.channels == ("DAPI", "Cy5")
        spacing = source.info.spacing
        assert spacing is not None
        assert (spacing.values, spacing.unit) == (pytest.approx({"y": 1000.0, "x": 1.5}), "micrometer")
    del scales["axes"][2]["unit"]
    edit(folder / ".zattrs", multiscales=[scales], omero={"channels": channels[:1]})
    with open_source(str(folder)) as source:
        assert source.info.channels == ("channel 0", "channel 1")
        assert source.info.spacing is None


def bioformats2raw(folder: Path, num_series: int, version: int, listed: bool) -> list[np.ndarray]:
    """Several images below one folder, as bioformats2raw lays them out."""
    layout = {"bioformats2raw.layout": 3}
    attributes = layout if version == 2 else {"ome": {"version": "0.5", **layout}}
    group = zarr.open_group(str(folder), mode="w", zarr_format=version, attributes=attributes)
    images = [pixels_of((1, 20 + number, 30)) for number in range(num_series)]
    if listed:
        series: dict[str, Any] = {"series": [str(number) for number in range(num_series)]}
        group.create_group("OME", attributes=series if version == 2 else {"ome": series})
    for number, image in enumerate(images):
        write(folder / str(number), "cyx", [image], version)
    return images


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("version", [2, 3])
def test_series_of_bioformats2raw(tmp_path: Path, assert_reads: Compare, version: int, listed: bool) -> None:
    uri = str(tmp_path / "a.zarr")
    images = bioformats2raw(tmp_path / "a.zarr", 2, version, listed)
    assert members(uri) == (f"{uri}::0", f"{uri}::1")
    with open_source(f"{uri}::1") as source:
        assert_reads(source, images[1])
        assert source.info.uri == f"{uri}::1"
    with pytest.raises(SourceError, match=r"it holds 2 images; name the one that is meant: .*a\.zarr::0"):
        open_source(uri)
    (only,) = bioformats2raw(tmp_path / "b.zarr", 1, version, listed)
    with open_source(str(tmp_path / "b.zarr")) as source:
        assert_reads(source, only)


def test_fields_of_a_plate_are_named(tmp_path: Path, assert_reads: Compare) -> None:
    plate = {"plate": {"wells": [{"path": "B/3", "rowIndex": 1, "columnIndex": 2}], "rows": [], "columns": []}}
    zarr.open_group(str(tmp_path / "p.zarr"), mode="w", zarr_format=2, attributes=plate)
    well = {"well": {"images": [{"path": "0"}]}}
    zarr.open_group(str(tmp_path / "p.zarr/B/3"), mode="w", zarr_format=2, attributes=well)
    pixels = pixels_of((1, 20, 30))
    write(tmp_path / "p.zarr/B/3/0", "cyx", [pixels], 2)
    uri = str(tmp_path / "p.zarr")
    with pytest.raises(SourceError, match=r"plate of many fields; name one of them: .*p\.zarr::B/3/0"):
        open_source(uri)
    with pytest.raises(SourceError, match=r"well of a plate; name one of its fields: .*p\.zarr::B/3/0"):
        open_source(f"{uri}::B/3")
    with open_source(f"{uri}::B/3/0") as source:
        assert_reads(source, pixels)


def test_fill_values_as_some_write_them(tmp_path: Path) -> None:
    for number, (dtype, written, fill) in enumerate(
        (("uint16", 9.0, 9), ("float32", 9, 9), ("float32", float("nan"), np.nan), ("float64", None, 0))
    ):
        folder = tmp_path / f"{number}.zarr"
        write(folder, "cyx", [pixels_of((1, 32, 16), dtype)], 2)
        edit(folder / "0/.zarray", fill_value=written)
        (folder / "0/0.1.0").unlink()
        with open_source(str(folder)) as source:
            read = source.read(Window((0, 16, 0), (1, 16, 16)))
        np.testing.assert_array_equal(read, np.full((1, 16, 16), fill, dtype))


def test_a_missing_chunk_is_the_fill_value(tmp_path: Path) -> None:
    for version in (2, 3):
        folder = tmp_path / f"{version}.zarr"
        write(folder, "cyx", [pixels_of((1, 32, 16))], version, fill_value=9)
        (folder / ("0/0.1.0" if version == 2 else "0/c/0/1/0")).unlink()
        with open_source(str(folder)) as source:
            read = source.read(Window.whole((1, 32, 16)))
            assert (read[:, 16:] == 9).all()
            assert not (read[:, :16] == 9).all()


HOSTILE_V2: dict[str, tuple[dict[str, Any], str]] = {
    "pickle": ({"filters": [{"id": "pickle"}]}, r"filter 'pickle' is not read; expected one of delta, shuffle"),
    "json2": ({"filters": [{"id": "json2"}]}, r"filter 'json2' is not read"),
    "vlen": ({"filters": [{"id": "vlen-utf8"}], "dtype": "|O"}, r"type '\|O' are not read"),
    "object": ({"dtype": "|O"}, r"type '\|O' are not read"),
    "struct": ({"dtype": [["a", "<u2"]]}, r"dtype: Input should be a valid string"),
    "string": ({"dtype": "<U8"}, r"type '<U8' are not read"),
    "wide": ({"dtype": "<i8"}, r"type int64 are not read"),
    "half": ({"dtype": "<f2"}, r"type float16 are not read"),
    "delta of objects": ({"filters": [{"id": "delta", "dtype": "O"}]}, r"filter delta is of type \['O', None\]"),
    "codec": ({"compressor": {"id": "evil"}}, r"compressor 'evil' is not read; expected one of zlib, gzip"),
    "nested": ({"compressor": {"id": "zlib", "level": {"a": 1}}}, r"compressor\.level"),
    "huge chunk": ({"chunks": [1, 2**20, 2**20]}, r"over the limit max_tile_bytes = 268435456"),
    "huge": ({"shape": [1, 2**30, 2**30]}, r"over the limit max_px"),
    "empty": ({"shape": [1, 0, 9]}, r"greater than or equal to 1"),
    "chunks": ({"chunks": [16, 16]}, r"chunks of \(16, 16\) in an array of"),
    "axes": ({"shape": [9, 9], "chunks": [9, 9]}, r"0 has 2 axes, but its metadata names 3"),
    "fill": ({"fill_value": "AAAA"}, r"fill_value"),
    "many filters": ({"filters": [{"id": "shuffle"}] * 1000}, r"filters: Tuple should have at most 16 items"),
}
SHARDED = {"chunk_shape": [2, 16, 16], "codecs": [{"name": "bytes"}], "index_codecs": [{"name": "bytes"}]}
HOSTILE_V3: dict[str, tuple[dict[str, Any], str]] = {
    "codec": ({"codecs": [{"name": "numcodecs.pickle"}]}, r"codec 'numcodecs.pickle' is not read; expected one of"),
    "vlen": ({"codecs": [{"name": "vlen-utf8"}], "data_type": "string"}, r"type 'string' are not read"),
    "struct": ({"data_type": {"name": "structured"}}, r"data_type: Input should be a valid string"),
    "bytes": ({"data_type": "r16"}, r"type 'r16' are not read"),
    "grid": ({"chunk_grid": {"name": "rectilinear"}}, r"chunk grid 'rectilinear' is not read"),
    "transformer": ({"storage_transformers": [{"name": "x"}]}, r"storage_transformers"),
    "inner codec": (
        {"codecs": [{"name": "sharding_indexed", "configuration": {**SHARDED, "codecs": [{"name": "evil"}]}}]},
        r"codec 'evil' is not read",
    ),
    "index codec": (
        {"codecs": [{"name": "sharding_indexed", "configuration": {**SHARDED, "index_codecs": [{"name": "evil"}]}}]},
        r"codec 'evil' is not read",
    ),
    "shard in shard": (
        {
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {**SHARDED, "codecs": [{"name": "sharding_indexed", "configuration": SHARDED}]},
                }
            ]
        },
        r"shards inside other codecs",
    ),
    "uneven shard": (
        {"codecs": [{"name": "sharding_indexed", "configuration": {**SHARDED, "chunk_shape": [1, 5, 16]}}]},
        r"shards of \(2, 16, 16\) with chunks of \(1, 5, 16\)",
    ),
    "huge index": (
        {
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 2**20, 2**20]}},
            "codecs": [{"name": "sharding_indexed", "configuration": {**SHARDED, "chunk_shape": [1, 1, 1]}}],
        },
        r"index of a shard takes",
    ),
    "huge shape": ({"shape": [2, 2**30, 2**30]}, r"over the limit max_px"),
    "many codecs": (
        {"codecs": [{"name": "bytes"}, *[{"name": "gzip"}] * 100_000]},
        r"codecs: Tuple should have at most",
    ),
}


@pytest.mark.parametrize(("version", "case"), [(2, case) for case in HOSTILE_V2] + [(3, case) for case in HOSTILE_V3])
def test_what_is_not_harmless_is_refused_by_name(tmp_path: Path, version: int, case: str) -> None:
    changes, message = (HOSTILE_V2 if version == 2 else HOSTILE_V3)[case]
    folder = tmp_path / "a.zarr"
    write(folder, "cyx", [pixels_of((2, 40, 30))], version)
    edit(folder / "0" / (".zarray" if version == 2 else "zarr.json"), **changes)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"\.zattrs: damaged metadata: no JSON"),
        ("[" * 100_000, r"\.zattrs: damaged metadata: no JSON"),
        ("[]", r"expected a JSON object, got a list"),
        ("{}", r"Zarr without an OME-Zarr image"),
        ('{"multiscales": [{"version": "0.1", "datasets": [{"path": "0"}]}]}', r"OME-Zarr 0\.1 is not read"),
        ('{"multiscales": [{"datasets": [{"path": "0"}]}]}', r"multiscales: axes: Field required"),
        ('{"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": []}]}', r"multiscales: datasets"),
        (
            '{"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "../b/0"}]}]}',
            r"path '\.\./b/0' is not read",
        ),
        (
            '{"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "none"}]}]}',
            r"names the level none, but there is no none/\.zarray",
        ),
    ],
)
def test_damaged_groups_are_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "a.zarr"
    write(folder, "cyx", [pixels_of((2, 40, 30))], 2)
    (folder / ".zattrs").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_source(str(folder))


def test_long_metadata_is_not_parsed(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    write(folder, "cyx", [pixels_of((2, 40, 30))], 2)
    with pytest.raises(SourceError, match="over the limit max_metadata_bytes = 100"):
        open_source(str(folder), Opening(limits=Limits(max_metadata_bytes=100)))


def test_members_that_lead_out_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", "cyx", [pixels_of((2, 40, 30))], 2)
    write(tmp_path / "b.zarr", "cyx", [pixels_of((2, 40, 30))], 2)
    with pytest.raises(SourceError, match=r"path '\.\./b\.zarr' is not read"):
        open_source(f"{tmp_path}/a.zarr::../b.zarr")
    with pytest.raises(SourceError, match=r"no Zarr group at none in it; expected one of zarr\.json"):
        open_source(f"{tmp_path}/a.zarr::none")


def test_a_damaged_chunk_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    for version, codec in ((2, numcodecs.Zlib(1)), (2, numcodecs.LZ4()), (3, zarr.codecs.ZstdCodec())):
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, "cyx", [pixels_of((1, 16, 16))], version, compressors=codec)
        (folder / ("0/0.0.0" if version == 2 else "0/c/0/0/0")).write_bytes(b"damaged")
        with open_source(str(folder)) as source, pytest.raises(SourceError, match="cannot be read at c 0") as caught:
            source.read(Window.whole((1, 16, 16)))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_of_many_planes_are_decoded_once(tmp_path: Path, version: int) -> None:
    pixels = pixels_of((32, 64, 64))
    write(tmp_path / "a.zarr", "zyx", [pixels], version, chunks=(32, 32, 32))

    def num_bytes() -> int:
        found = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
        return sum(metric["values"][0].get("value", 0) for metric in found)

    before = num_bytes()
    with open_source(str(tmp_path / "a.zarr")) as source:
        for z in range(32):
            np.testing.assert_array_equal(source.read(Window((0, z, 0, 0), (1, 1, 64, 64)))[0, 0], pixels[z])
    stored = sum(path.stat().st_size for path in (tmp_path / "a.zarr" / "0").rglob("*") if path.name[0] != ".")
    assert 0 < num_bytes() - before <= stored


def test_object_stores_and_web_servers_read_alike(tmp_path: Path, bucket: Bucket, assert_reads: Compare) -> None:
    pixels = pixels_of((3, 50, 37))
    found: list[SourceInfo] = []
    for name, version, how in (("a", 2, {}), ("b", 3, V3_CODECS["sharded"]), ("d", 2, V2_CODECS["shuffle"])):
        write(tmp_path / f"{name}.zarr", "cyx", [pixels, pixels[:, ::2, ::2]], version, **how)
        bucket.put(tmp_path / f"{name}.zarr", f"{name}.zarr")
        for place in (bucket.uri, bucket.address):
            with open_source(f"{place}/{name}.zarr") as source:
                assert_reads(source, pixels, num_windows=3)
                found.append(source.info)
    assert {info.levels for info in found} == {((50, 37), (25, 19))}
    with pytest.raises(SourceError, match=r"none\.zarr: no Zarr group there; expected one of zarr\.json"):
        open_source(f"{bucket.address}/none.zarr")
    bioformats2raw(tmp_path / "r.zarr", 2, 2, listed=False)
    bucket.put(tmp_path / "r.zarr", "r.zarr")
    uri = f"{bucket.address}/r.zarr"
    assert members(uri) == (f"{uri}::0", f"{uri}::1")


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_chunk_of_many_planes_is_fetched_and_decoded_once(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    pixels = pixels_of((20, 50, 37))
    uri = write(tmp_path / "a.zarr", "zyx", [pixels], 2, chunks=(8, 32, 32), **V2_CODECS["lz4"])
    store = LocalStore
    if place == "s3":
        bucket = request.getfixturevalue("bucket")
        bucket.put(tmp_path / "a.zarr", "a.zarr")
        uri, store = f"{bucket.uri}/a.zarr", ObjectStore
    fetched: list[str] = []
    theirs = store.get

    async def get(self: Any, key: str, *args: Any, **options: Any) -> Any:
        fetched.append(key)
        return await theirs(self, key, *args, **options)

    monkeypatch.setattr(store, "get", get)
    with open_source(uri) as source:
        assert not fetched
        for z in range(20):
            np.testing.assert_array_equal(source.read(Window((0, z, 0, 0), (1, 1, 50, 37)))[0, 0], pixels[z])
    assert len(fetched) == len(set(fetched)) == 3 * 2 * 2
