"""Standalone: a label, with all its levels, as an OME-Zarr 0.4 of its own, outside any workspace."""

from collections.abc import Iterator
from typing import Any

from segcore.store import ngff
from segcore.store.arrays import array_metadata, encode_objects
from segcore.store.image import Image, Label
from segcore.store.plan import canonical_json
from segcore.store.pyramid import CHUNK_PX_V2, PyramidSpec


def standalone_label(image: Image, label: Label, more: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The objects of a label store as QuPath reads it: key and bytes, one chunk in memory; the attributes come last.

    Args:
        image: of the label.
        label: class or object ids.
        more: attributes of others, at the root.
    """
    spec = PyramidSpec(
        axes=label.axes,
        shape=label.shape(),
        dtype=label.dtype.name,
        kind="instances" if label.tells_objects else "mask",
        shard_px=CHUNK_PX_V2,
        ngff="0.4",
        base_level=label.base_level,
    )
    for level, shape in enumerate(spec.levels):
        grid = spec.grid(level)
        for index in grid.indices():
            pixels = label.read(grid.window(index), level)
            for key, data in encode_objects(spec, level, index, pixels).items():
                yield f"{level}/{key}", data
        yield f"{level}/{ngff.ARRAY_FILES[spec.ngff]}", canonical_json(array_metadata(spec, shape))
    words = ngff.image_label(label.classes, spec.ngff)
    del words["source"]  # no image lies above it
    georef = image.georef and image.georef.at_level(label.base_level)
    place = {} if georef is None else ngff.geozarr(georef, label.shape()[-2:])
    ome = {"multiscales": ngff.multiscales(label.name, spec, image.spacing), "image-label": words}
    yield from ngff.group(spec.ngff, ome, {**place, **more}).items()
