"""Arrays: pixels <-> the bytes of a Zarr v3 shard; the only file that opens arrays.

Shards are encoded in memory and put in one piece, so that size and digest of the object are known and a
shard is never half written. Local arrays are read by tensorstore, others by zarr through obstore: the
same pixels, as the tests show.
"""

import json
from typing import Any, Protocol

import numpy as np
import tensorstore
import zarr
from zarr.storage import ObjectStore

from segcore.errors import StoreError
from segcore.geometry import Ints, Window
from segcore.store.objects import Objects
from segcore.store.pyramid import Pixels, PyramidSpec


def array_metadata(spec: PyramidSpec, shape: Ints) -> dict[str, Any]:
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
    return "NaN" if np.isnan(spec.fill) else float(spec.fill)


def shard_key(prefix: str, level: int, shard: Ints) -> str:
    """The key of a shard's object."""
    return f"{prefix}/{level}/c/{'/'.join(map(str, shard))}"


def encode_shard(spec: PyramidSpec, pixels: Pixels) -> bytes | None:
    """The bytes of one shard, or None where all its pixels are the fill value (Zarr keeps no object then).

    Args:
        spec: the array's layout.
        pixels: axes as in `spec`, at most one shard; less at the array's border.
    """
    encoder = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "memory"}, "metadata": array_metadata(spec, pixels.shape)},
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


class _TensorstoreReader:
    def __init__(self, path: str) -> None:
        self._array = tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, open=True, read=True
        ).result()
        self.shape: Ints = tuple(self._array.shape)
        self.dtype = np.dtype(self._array.dtype.numpy_dtype)

    def read(self, window: Window) -> Pixels:
        return np.ascontiguousarray(self._array[window.slices].read().result())


class _ZarrReader:
    def __init__(self, objects: Objects, key: str) -> None:
        store: Any = ObjectStore(objects.raw, read_only=True)
        self._array: Any = zarr.open_array(store, path=key, mode="r", zarr_format=3)
        self.shape: Ints = tuple(self._array.shape)
        self.dtype = np.dtype(self._array.dtype)

    def read(self, window: Window) -> Pixels:
        return np.ascontiguousarray(self._array[window.slices])


def open_array(objects: Objects, key: str) -> Reader:
    """Open the array at `key` for reading.

    Raises:
        StoreError: if there is none, or its metadata is damaged.
    """
    try:
        if objects.folder is not None:
            return _DecodingErrors(_TensorstoreReader(str(objects.folder / key)), objects.describe(key))
        return _DecodingErrors(_ZarrReader(objects, key), objects.describe(key))
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
