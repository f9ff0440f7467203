"""HDF5: an array of a file, `stack.h5::/volumes/raw`, read by slicing; nothing that it links to outside is opened."""

import json
import math
from collections import deque
from contextlib import ExitStack
from typing import Any

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources.array_axes import KNOWN_SIZES, arrange, converted, read_as
from segcore.sources.base import Format, Limits, Opening, Pixels, Reader, Source, SourceInfo, default_channels
from segcore.sources.files import MEMBER, SourceFile
from segcore.spatial import Spacing

MAGIC = b"\x89HDF\r\n\x1a\n"

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
"""Filters that come with the library; others would be loaded from wherever plugins lie."""

CACHE_BYTES = 2**28
"""Decoded chunks that are kept: planes are asked for one by one, and a chunk can hold many. The library keeps 1 MiB."""
CACHE_SLOTS = 100_003
"""Prime, and many more than chunks: those that fall into one slot drive each other out."""

MAX_SOFT_LINKS = 16
"""On the way to one array; they can point to each other."""
MIN_SIDE_PX = 16
"""Of an array that looks like an image, where none is named."""
MAX_NAMES_SHOWN = 20

AXIS_NAMES = {name: name[0] for name in ("t", "c", "z", "y", "x", "time", "channel", "channels")}
AXIS_NAMES |= {"depth": "z", "height": "y", "width": "x", "row": "y", "column": "x", "plane": "z"}
"""How files name axes, lower case."""


class Hdf5Source(Source):
    """An array of an HDF5 file."""

    def __init__(self, file: SourceFile, opening: Opening) -> None:
        h5py = _library(file.uri)
        self.uri = file.uri
        with ExitStack() as opened:
            path = file.local_path
            stream = str(path) if path is not None else opened.enter_context(file.open())
            root = opened.enter_context(h5py.File(stream, "r", rdcc_nbytes=CACHE_BYTES, rdcc_nslots=CACHE_SLOTS))
            self._array = _named(root, file.uri, file.member) if file.member else _only(root, file.uri)
            _check_storage(file.uri, self._array, opening.limits)
            named = None if opening.axes else _named_axes(self._array, opening.limits)
            shape, dtype = self._array.shape, self._array.dtype
            self._arrangement = arrange(file.uri, shape, dtype, opening.axes, named, opening.limits)
            self.info = self._described(file, h5py)
            self._close = opened.pop_all().close

    def _described(self, file: SourceFile, h5py: Any) -> SourceInfo:
        arrangement, array = self._arrangement, self._array
        return SourceInfo(
            uri=file.uri,
            reader="hdf5",
            reader_version=f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}",
            axes=arrangement.axes,
            shape=arrangement.shape,
            dtype=read_as(array.dtype),
            channels=default_channels(arrangement.shape[arrangement.axes.index("c")]),
            spacing=_spacing(array, arrangement.axes),
            num_bytes=file.num_bytes,
            details={
                "kind": "HDF5",
                "dataset": array.name,
                "axes_from": arrangement.axes_from,
                "stored_axes": arrangement.stored,
                "stored_dtype": array.dtype.name,
                "chunks": list(array.chunks) if array.chunks else None,
                "filters": [FILTERS[number] for number in _filters(array)],
            },
        )

    def _read(self, window: Window) -> Pixels:
        stored = self._array[self._arrangement.slices(window)]
        return converted(self.uri, self._arrangement.arranged(stored, window.shape))

    def close(self) -> None:
        self._close()


def _library(uri: str) -> Any:
    """h5py, or the line that says what to install."""
    try:
        import h5py
    except ImportError as error:
        raise SourceError(f"{uri}: HDF5 files need the extra `hdf5`: pip install 'segcore[hdf5]'") from error
    return h5py


def _named(root: Any, uri: str, path: str) -> Any:
    """The array at a path, through hard links and soft links of this very file.

    Each step is looked at before it is taken: the library itself would follow a link into another file.
    """
    import h5py

    here, left, num_soft = root, deque(path.split("/")), 0
    while left:
        name = left.popleft().encode()
        if name in (b"", b"."):
            continue
        if not isinstance(here, h5py.Group) or not here.id.links.exists(name):
            raise SourceError(f"{uri}: has no dataset {path}; {_listed(_arrays(root))}")
        kind = here.id.links.get_info(name).type
        if kind == h5py.h5l.TYPE_HARD:
            here = here[name]
            continue
        num_soft += 1
        if kind != h5py.h5l.TYPE_SOFT or num_soft > MAX_SOFT_LINKS:
            raise SourceError(f"{uri}: {path} is a link to another file or to itself, which is not followed")
        target = here.id.links.get_val(name).decode()
        here = root if target.startswith("/") else here
        left.extendleft(reversed(target.split("/")))
    if not isinstance(here, h5py.Dataset):
        raise SourceError(f"{uri}: {path} is a group, no dataset; {_listed(_arrays(root))}")
    return here


def _only(root: Any, uri: str) -> Any:
    """The only array that looks like an image.

    Raises:
        SourceError: naming the candidates, if there are none or several.
    """
    found = _arrays(root)
    if len(found) == 1:
        return root[next(iter(found))]
    wrong = "holds several arrays" if found else f"holds no array with sides of {MIN_SIDE_PX} px and more"
    raise SourceError(f"{uri}: {wrong}; {_listed(found)}")


def _arrays(root: Any) -> dict[str, str]:
    """Arrays that look like images, by path: shape and type. Links are not followed."""
    import h5py

    found: dict[str, str] = {}

    def look(name: str, thing: Any) -> None:
        if not isinstance(thing, h5py.Dataset) or thing.dtype.kind not in "biuf":
            return
        if thing.ndim in KNOWN_SIZES and sum(n >= MIN_SIDE_PX for n in thing.shape) >= 2:
            found[f"/{name}"] = f"{' x '.join(str(n) for n in thing.shape)} {thing.dtype.name}"

    root.visititems(look)
    return found


def _listed(found: dict[str, str]) -> str:
    """What to write, and what there is."""
    shown = [f"{path} ({text})" for path, text in list(found.items())[:MAX_NAMES_SHOWN]]
    rest = f" and {len(found) - MAX_NAMES_SHOWN} more" if len(found) > MAX_NAMES_SHOWN else ""
    return f"name one as FILE{MEMBER}/PATH, of {', '.join(shown)}{rest}" if shown else "name one as FILE::/PATH"


def _check_storage(uri: str, array: Any, limits: Limits) -> None:
    """Refuse values that lie in other files, filters that are not built in, chunks over the limit, no numbers."""
    import h5py

    if array.dtype.kind not in "biuf" or array.shape is None:
        raise SourceError(f"{uri}: {array.name} holds {array.dtype}; expected an array of numbers")
    if array.is_virtual or array.id.get_create_plist().get_external_count():
        raise SourceError(f"{uri}: the values of {array.name} lie in other files; copy them into one (h5repack)")
    for number in _filters(array):
        if number not in FILTERS or not h5py.h5z.filter_avail(number):
            raise SourceError(
                f"{uri}: {array.name} is compressed with filter {number} of a plugin, which is not loaded; expected "
                f"one of {', '.join(FILTERS.values())}: h5repack -f GZIP=4 IN OUT"
            )
    chunk_bytes = math.prod(array.chunks or (0,)) * array.dtype.itemsize
    if chunk_bytes > limits.max_tile_bytes:
        raise SourceError(
            f"{uri}: a chunk of {array.name} has {chunk_bytes} bytes, over the limit max_tile_bytes = "
            f"{limits.max_tile_bytes}; store it in smaller chunks (h5repack -l CHUNK=...)"
        )


def _filters(array: Any) -> list[int]:
    """Numbers of the filters that chunks go through."""
    plan = array.id.get_create_plist()
    return [int(plan.get_filter(i)[0]) for i in range(plan.get_nfilters())]


def _named_axes(array: Any, limits: Limits) -> list[str] | None:
    """A letter per axis, where the file names them all: axistags (vigra, ilastik), dimension labels, or scales."""
    names = _axistags(array, limits)
    if names is None:
        names = []
        for dimension in array.dims:
            scales = dimension.keys() if not dimension.label else []
            names.append(dimension.label or (scales[0].rsplit("/", 1)[-1] if scales else ""))
    letters = [AXIS_NAMES.get(name.strip().lower(), "") for name in names]
    whole = len(letters) == array.ndim and len(set(letters)) == len(letters) and {"y", "x"} <= set(letters)
    return letters if whole and "" not in letters else None


def _axistags(array: Any, limits: Limits) -> list[str] | None:
    """The keys of the attribute `axistags`, which is JSON."""
    text = _text(array, "axistags", limits.max_metadata_bytes)
    if text is None:
        return None
    try:
        return [str(axis["key"]) for axis in json.loads(text)["axes"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _text(array: Any, name: str, max_bytes: int) -> str | None:
    """An attribute that is one text."""
    if name not in array.attrs or array.attrs.get_id(name).shape != ():
        return None
    value = array.attrs[name]
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text if isinstance(text, str) and len(text) <= max_bytes else None


def _spacing(array: Any, axes: tuple[str, ...]) -> Spacing | None:
    """`element_size_um`: micrometres along z, y, x (or y, x); what makes no sense is unknown, not an error."""
    name = "element_size_um"
    if name not in array.attrs or array.attrs.get_id(name).shape not in ((2,), (3,)):
        return None
    values = np.asarray(array.attrs[name])
    if values.dtype.kind not in "iuf" or not bool((np.isfinite(values) & (values > 0)).all()):
        return None
    sizes = dict(zip("zyx"[-len(values) :], values.tolist(), strict=True))
    spatial = [axis for axis in axes if axis in "zyx"]
    if not set(spatial) <= sizes.keys():
        return None
    return Spacing(values={axis: float(sizes[axis]) for axis in spatial}, unit="micrometer", origin="file")


READER = Reader(
    name="HDF5",
    rank=30,
    matches=lambda file: file.head.startswith(MAGIC),
    open=Hdf5Source,
    formats=(
        Format(
            "HDF5 (ilastik, BigDataViewer, netCDF 4...)",
            (".h5", ".hdf5"),
            "`file.h5::/path`, or its only array; axes from `--array-axes`, the file, or guessed",
        ),
    ),
    extra="hdf5",
)
