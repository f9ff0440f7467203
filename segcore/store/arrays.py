"""Arrays: pixels <-> the objects of a shard, one in Zarr v3 and one per chunk in Zarr v2; opens our own arrays.

Shards are encoded in memory and put in one piece, so that size and digest of the object are known and a
shard is never half written. Local arrays are read by tensorstore, others by zarr through obstore: the
same pixels, as the tests show.
"""

import json
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tensorstore
import zarr
from zarr.storage import ObjectStore

from segcore.errors import StoreError
from segcore.geometry import Grid, Ints, Window
from segcore.store.objects import Objects
from segcore.store.plan import sharded_key
from segcore.store.pyramid import Ngff, Pixels, PyramidSpec

ZLIB_LEVEL = 1


def array_metadata(spec: PyramidSpec, shape: Ints) -> dict[str, Any]:
    """What describes one level: its `zarr.json` or `.zarray`."""
    return _metadata_v2(spec, shape) if spec.ngff == "0.4" else _metadata_v3(spec, shape)


def _metadata_v2(spec: PyramidSpec, shape: Ints) -> dict[str, Any]:
    """The `.zarray` of one level: zlib level 1, planar, one object per chunk.

    Source: Zarr v2 specification.
    """
    return {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(spec.chunk),
        "dtype": _little(spec).str,
        "compressor": {"id": "zlib", "level": ZLIB_LEVEL},
        "filters": None,
        "fill_value": _fill_value(spec),
        "order": "C",
        "dimension_separator": "/",
    }


def _little(spec: PyramidSpec) -> np.dtype[Any]:
    return np.dtype(spec.dtype).newbyteorder("<")


def _metadata_v3(spec: PyramidSpec, shape: Ints) -> dict[str, Any]:
    """The `zarr.json` of one level: sharded, zstd level 1 with checksum, channels interleaved where few.

    Source: Zarr v3 core specification, and its `sharding_indexed` and `transpose` codecs.
    """
    inner: list[dict[str, Any]] = []
    if spec.is_interleaved:
        order = [i for i, axis in enumerate(spec.axes) if axis != "c"] + [spec.axes.index("c")]
        inner.append({"name": "transpose", "configuration": {"order": order}})
    wide = np.dtype(spec.dtype).itemsize > 1
    inner.append({"name": "bytes", "configuration": {"endian": "little"}} if wide else {"name": "bytes"})
    inner.append({"name": "zstd", "configuration": {"level": 1, "checksum": True}})
    sharding = {
        "chunk_shape": list(spec.chunk),
        "codecs": inner,
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": np.dtype(spec.dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _fill_value(spec),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": list(spec.axes),
        "storage_transformers": [],
    }


def _fill_value(spec: PyramidSpec) -> float | int | bool | str:
    dtype = np.dtype(spec.dtype)
    if dtype == np.bool_:
        return bool(spec.fill)
    if np.issubdtype(dtype, np.integer):
        return int(spec.fill)
    if np.isfinite(spec.fill):
        return float(spec.fill)
    return "NaN" if np.isnan(spec.fill) else "Infinity" if spec.fill > 0 else "-Infinity"


def object_keys(spec: PyramidSpec, level: int, shard: Ints) -> list[str]:
    """Keys, below its level, of all objects that a shard can have."""
    if spec.ngff == "0.4":
        return [_chunk_key(chunk) for chunk in _chunks(spec, level, shard)]
    return [sharded_key(shard)]


def _chunks(spec: PyramidSpec, level: int, shard: Ints) -> Iterator[Ints]:
    """Indices of the chunks of a shard."""
    return Grid(spec.levels[level], spec.chunk).touching(spec.grid(level).window(shard))


def _chunk_key(chunk: Ints) -> str:
    return "/".join(map(str, chunk))


def encode_objects(spec: PyramidSpec, level: int, shard: Ints, pixels: Pixels) -> dict[str, bytes]:
    """The objects of a shard, by their keys below the level; none for what is all fill value.

    Args:
        spec: the array's layout.
        level: its level.
        shard: its index.
        pixels: of the shard's window, C order.
    """
    if spec.ngff == "0.5":
        data = encode_shard(spec, pixels)
        return {} if data is None else {sharded_key(shard): data}
    grid = Grid(spec.levels[level], spec.chunk)
    origin = spec.grid(level).window(shard).start
    found = {}
    for chunk in _chunks(spec, level, shard):
        values = pixels[grid.window(chunk).relative_to(origin).slices]
        if not _is_fill(spec, values):
            whole = np.full(spec.chunk, spec.fill, dtype=_little(spec))  # at the border too, chunks are whole
            whole[Window.whole(values.shape).slices] = values
            found[_chunk_key(chunk)] = zlib.compress(whole.tobytes(), ZLIB_LEVEL)
    return found


def _is_fill(spec: PyramidSpec, values: Pixels) -> bool:
    return bool(np.isnan(values).all() if np.isnan(spec.fill) else (values == values.dtype.type(spec.fill)).all())


def encode_shard(spec: PyramidSpec, pixels: Pixels) -> bytes | None:
    """The bytes of one shard of Zarr v3, or None where all its pixels are the fill value (Zarr keeps no object then).

    Args:
        spec: the array's layout.
        pixels: axes as in `spec`, at most one shard; less at the array's border.
    """
    encoder = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "memory"}, "metadata": _metadata_v3(spec, pixels.shape)},
        create=True,
        context=tensorstore.Context(),
    ).result()
    encoder.write(pixels).result()
    assert encoder.kvstore is not None
    found = encoder.kvstore.read("/".join(["c", *("0" for _ in pixels.shape)])).result()
    return bytes(found.value) if found.state == "value" else None


class Reader(Protocol):
    """One level, open for reading; safe to use from many threads."""

    shape: Ints
    dtype: np.dtype[Any]

    def read(self, window: Window) -> Pixels:
        """The pixels of a window that lies inside the level."""


class TensorstoreReader:
    """An array that tensorstore opened."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: Ints = tuple(array.shape)
        self.dtype = np.dtype(array.dtype.numpy_dtype)
        order = array.chunk_layout.inner_order
        self._order: Ints = tuple(range(array.rank)) if order is None else tuple(order)
        """Axes in the order of a chunk's bytes."""

    def read(self, window: Window) -> Pixels:
        # Interleaved channels are copied as they lie and put in order at one go: a third faster than chunk by chunk.
        stored = self._array[window.slices].transpose(self._order).read().result()
        return np.ascontiguousarray(stored.transpose(np.argsort(self._order)))


class ZarrReader:
    """An array that zarr opened."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: Ints = tuple(array.shape)
        self.dtype = np.dtype(array.dtype)

    def read(self, window: Window) -> Pixels:
        return np.ascontiguousarray(self._array[window.slices])


def _open_with_tensorstore(path: str, ngff: Ngff) -> TensorstoreReader:
    spec = {"driver": "zarr" if ngff == "0.4" else "zarr3", "kvstore": {"driver": "file", "path": path}}
    return TensorstoreReader(tensorstore.open(spec, open=True, read=True).result())


def open_with_zarr(objects: Objects, key: str, ngff: Ngff = "0.5") -> ZarrReader:
    """Through obstore, from wherever the workspace lies."""
    store: Any = ObjectStore(objects.raw, read_only=True)
    return ZarrReader(zarr.open_array(store, path=key, mode="r", zarr_format=2 if ngff == "0.4" else 3))


def open_array(objects: Objects, key: str, ngff: Ngff) -> Reader:
    """Open the array at `key` for reading.

    Raises:
        StoreError: if there is none, or its metadata is damaged.
    """
    try:
        if objects.folder is not None:
            return _DecodingErrors(_open_with_tensorstore(str(objects.folder / key), ngff), objects.describe(key))
        return _DecodingErrors(open_with_zarr(objects, key, ngff), objects.describe(key))
    except (ValueError, KeyError, FileNotFoundError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{objects.describe(key)}: not a readable Zarr array ({reason}); run `verify`") from error


class _DecodingErrors:
    """Turns a damaged chunk into one line that names the array."""

    def __init__(self, reader: Reader, where: str) -> None:
        self._reader, self._where = reader, where
        self.shape, self.dtype = reader.shape, reader.dtype

    def read(self, window: Window) -> Pixels:
        assert Window.whole(self.shape).contains(window), f"{window} not inside {self._where} of shape {self.shape}"
        try:
            return self._reader.read(window)
        except (ValueError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreError(
                f"{self._where}: pixels at {window.start} cannot be decoded ({reason}); run `verify`"
            ) from error
