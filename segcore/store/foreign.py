"""Foreign: Zarr arrays that others made, opened only after all that their metadata names was found harmless.

    .zarray or zarr.json (parsed JSON) --> check_array --> ForeignArray --> open_foreign --> Reader

The libraries get the metadata that was checked, and never read it themselves. Blosc is read here, though segcore
never writes it: most OME-Zarr 0.4 has it. It decodes damaged data unsafely, so pixels are read in child processes.
"""

import math
import re
from importlib.metadata import version
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import tensorstore
import zarr
from obstore.store import HTTPStore, from_url
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from zarr.storage import LocalStore, ObjectStore, StorePath

from segcore.errors import SourceError
from segcore.geometry import Ints
from segcore.store.arrays import Reader, TensorstoreReader, ZarrReader
from segcore.store.chunks import KeptChunks

COMPRESSORS = ("zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "blosc")
"""Compressors of Zarr v2 that are read."""
FILTERS = ("delta", "shuffle")
"""Filters of Zarr v2 that are read. Others can hold objects (pickle, json2, vlen-...) or lose values."""
CODECS = ("bytes", "transpose", "zstd", "gzip", "blosc", "crc32c", "sharding_indexed")
"""Codecs of Zarr v3 that are read."""
TENSORSTORE_COMPRESSORS = (None, "zlib", "gzip", "zstd", "bz2", "blosc")
OBJECT_STORES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az"}
"""Schemes of fsspec, and of obstore."""
WEB = ("http", "https")
MAX_CODECS = 16
"""In a row; the libraries go through them by recursion."""
INDEX_BYTES_PER_CHUNK = 16
CACHE_BYTES = 2**28
"""Decoded chunks that are kept: planes are asked for one by one, and a chunk can hold many."""
READER_VERSION = f"zarr {version('zarr')}, tensorstore {version('tensorstore')}"

_DTYPE = re.compile(r"[<>|][buif][1248]")
_NUMBERS = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")
_Side = Annotated[int, Field(strict=True, ge=1)]
_Fill = Annotated[
    bool | int | float | Annotated[str, Field(pattern=r"^(NaN|-?Infinity|0x[0-9a-fA-F]{1,16})$")], Field()
]


class _CodecV2(BaseModel):
    """A compressor or filter: its id, and plain values."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, int | str | None]
    id: str


class _ArrayV2(BaseModel):
    """`.zarray`. Source: Zarr v2 specification."""

    zarr_format: Literal[2]
    shape: tuple[_Side, ...]
    chunks: tuple[_Side, ...]
    dtype: str
    compressor: _CodecV2 | None
    filters: Annotated[tuple[_CodecV2, ...], Field(max_length=MAX_CODECS)] | None = None
    order: Literal["C", "F"]
    fill_value: _Fill | None
    dimension_separator: Literal[".", "/"] = "."


class _Named(BaseModel):
    """An extension point of Zarr v3."""

    model_config = ConfigDict(frozen=True)

    name: str
    configuration: dict[str, Any] = {}


_Codecs = Annotated[tuple[_Named, ...], Field(max_length=MAX_CODECS)]


class _Sharding(BaseModel):
    """Configuration of `sharding_indexed`."""

    chunk_shape: tuple[_Side, ...]
    codecs: _Codecs
    index_codecs: _Codecs


class _ArrayV3(BaseModel):
    """The `zarr.json` of an array. Source: Zarr v3 core specification."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: tuple[_Side, ...]
    data_type: str
    chunk_grid: _Named
    chunk_key_encoding: _Named
    fill_value: _Fill
    codecs: _Codecs
    storage_transformers: tuple[()] = ()


_Model = TypeVar("_Model", bound=BaseModel)


class ForeignArray(BaseModel):
    """An array whose metadata was checked."""

    model_config = ConfigDict(frozen=True)

    shape: Ints
    dtype: str
    """As stored: numpy's name, of either byte order."""
    chunk: Ints
    """The smallest unit that is decoded."""
    codecs: tuple[str, ...]
    sharded: bool
    metadata: dict[str, Any]
    """What is given to the libraries."""


def check_array(document: Any, where: str, max_chunk_bytes: int) -> ForeignArray:
    """Hold the metadata of an array, `.zarray` or `zarr.json`, against what may be opened.

    Args:
        document: the parsed JSON.
        where: what errors name.
        max_chunk_bytes: decoded size of the smallest unit that is read.

    Raises:
        SourceError: naming the codec, the type or the value that is not read.
    """
    is_v2 = isinstance(document, dict) and document.get("zarr_format") == 2
    array = _checked_v2(document, where) if is_v2 else _checked_v3(document, where, max_chunk_bytes)
    num_bytes = math.prod(array.chunk) * np.dtype(array.dtype).itemsize
    if len(array.chunk) != len(array.shape):
        raise SourceError(f"{where}: damaged metadata: chunks of {array.chunk} in an array of {array.shape}")
    if num_bytes > max_chunk_bytes:
        raise SourceError(
            f"{where}: chunks of {' x '.join(map(str, array.chunk))} take {num_bytes} bytes each, "
            f"over the limit max_tile_bytes = {max_chunk_bytes}; write it anew with smaller chunks"
        )
    return array


def _checked_v2(document: Any, where: str) -> ForeignArray:
    found = _parsed(_ArrayV2, document, where)
    if not _DTYPE.fullmatch(found.dtype):
        raise SourceError(f"{where}: pixels of type {found.dtype!r} are not read; expected integers or floats")
    if found.compressor is not None and found.compressor.id not in COMPRESSORS:
        raise SourceError(_unread(where, "compressor", found.compressor.id, COMPRESSORS))
    for codec in found.filters or ():
        if codec.id not in FILTERS:
            raise SourceError(_unread(where, "filter", codec.id, FILTERS))
        types = [(codec.model_extra or {}).get(key) for key in ("dtype", "astype")]
        if not all(value is None or (isinstance(value, str) and _DTYPE.fullmatch(value)) for value in types):
            raise SourceError(f"{where}: its filter {codec.id} is of type {types}; expected integers or floats")
    codecs = [*(codec.id for codec in found.filters or ()), *([found.compressor.id] if found.compressor else [])]
    return ForeignArray(
        shape=found.shape,
        dtype=found.dtype,
        chunk=found.chunks,
        codecs=tuple(codecs),
        sharded=False,
        metadata=_strict(found.model_dump(mode="json"), found.dtype),
    )


def _checked_v3(document: Any, where: str, max_chunk_bytes: int) -> ForeignArray:
    found = _parsed(_ArrayV3, document, where)
    if not _NUMBERS.fullmatch(found.data_type):
        raise SourceError(f"{where}: pixels of type {found.data_type!r} are not read; expected integers or floats")
    if found.chunk_grid.name != "regular":
        raise SourceError(_unread(where, "chunk grid", found.chunk_grid.name, ("regular",)))
    if found.chunk_key_encoding.name not in ("default", "v2"):
        raise SourceError(_unread(where, "chunk key encoding", found.chunk_key_encoding.name, ("default", "v2")))
    outer = _parsed(_Grid, found.chunk_grid.configuration, where).chunk_shape
    chunk, codecs = outer, _codec_names(found.codecs, where)
    sharded = [codec.name for codec in found.codecs] == ["sharding_indexed"]
    if sharded:
        inner = _parsed(_Sharding, found.codecs[0].configuration, where)
        _codec_names(inner.index_codecs, where)
        chunk, codecs = inner.chunk_shape, _codec_names(inner.codecs, where)
        if len(chunk) != len(outer) or any(n % m for n, m in zip(outer, chunk, strict=True)):
            raise SourceError(f"{where}: damaged metadata: shards of {outer} with chunks of {chunk}")
        index_bytes = INDEX_BYTES_PER_CHUNK * math.prod(outer) // math.prod(chunk)
        if index_bytes > max_chunk_bytes:
            raise SourceError(
                f"{where}: the index of a shard takes {index_bytes} bytes, over the limit "
                f"max_tile_bytes = {max_chunk_bytes}; write it anew with smaller shards"
            )
    if "sharding_indexed" in codecs:
        raise SourceError(f"{where}: shards inside other codecs are not read; write it anew with one level of shards")
    return ForeignArray(
        shape=found.shape,
        dtype=found.data_type,
        chunk=chunk,
        codecs=codecs,
        sharded=sharded,
        metadata=_strict(found.model_dump(mode="json"), found.data_type),
    )


class _Grid(BaseModel):
    """Configuration of a regular chunk grid."""

    chunk_shape: tuple[_Side, ...]


def _codec_names(codecs: tuple[_Named, ...], where: str) -> tuple[str, ...]:
    for codec in codecs:
        if codec.name not in CODECS:
            raise SourceError(_unread(where, "codec", codec.name, CODECS))
    return tuple(codec.name for codec in codecs)


def _unread(where: str, what: str, name: str, known: tuple[str, ...]) -> str:
    return f"{where}: its {what} {name!r} is not read; expected one of {', '.join(known)}"


def _parsed(model: type[_Model], document: Any, where: str) -> _Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise SourceError(f"{where}: no Zarr metadata that is read: {place}: {first['msg']}") from error


def _strict(metadata: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Some writers leave NaN and infinity bare, which no JSON has, or give whole numbers as floats."""
    fill = metadata["fill_value"]
    if isinstance(fill, float) and fill.is_integer() and np.dtype(dtype).kind in "iu":
        metadata["fill_value"] = int(fill)
    elif isinstance(fill, float) and not math.isfinite(fill):
        metadata["fill_value"] = "NaN" if math.isnan(fill) else "Infinity" if fill > 0 else "-Infinity"
    return metadata


def open_foreign(array: ForeignArray, root: str, path: str) -> Reader:
    """Open a checked array for reading.

    Args:
        array: from `check_array`.
        root: a folder, or an `s3://`, `gs://`, `az://`, `https://` prefix.
        path: of the array below it.

    Raises:
        SourceError: if arrays are not read from such a place.
    """
    scheme = root.partition("://")[0] if "://" in root else ""
    if not scheme and _is_for_tensorstore(array):
        spec = {
            "driver": "zarr" if array.metadata["zarr_format"] == 2 else "zarr3",
            "kvstore": {"driver": "file", "path": f"{root}/{path}"},
            "metadata": array.metadata,
            "context": {"cache_pool": {"total_bytes_limit": CACHE_BYTES}},
        }
        return TensorstoreReader(tensorstore.open(spec, open=True, read=True, assume_metadata=True).result())
    store = StorePath(_zarr_store(root, scheme), path)
    return KeptChunks(ZarrReader(zarr.Array.from_dict(store, array.metadata)), array.chunk, CACHE_BYTES)


def _is_for_tensorstore(array: ForeignArray) -> bool:
    compressor = array.metadata.get("compressor")
    return not array.metadata.get("filters") and (compressor and compressor["id"]) in TENSORSTORE_COMPRESSORS


def _zarr_store(root: str, scheme: str) -> Any:
    if not scheme:
        return LocalStore(root, read_only=True)
    options: Any = {"allow_http": True}
    if scheme in WEB:
        return ObjectStore(HTTPStore.from_url(root, client_options=options), read_only=True)
    if scheme not in OBJECT_STORES:
        known = ", ".join(f"{name}://" for name in (*WEB, *OBJECT_STORES))
        raise SourceError(f"{root}: Zarr is not read from {scheme}://; expected a local folder or one of {known}")
    place = f"{OBJECT_STORES[scheme]}://{root.partition('://')[2]}"
    return ObjectStore(from_url(place, client_options=options), read_only=True)
