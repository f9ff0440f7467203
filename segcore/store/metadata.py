"""Metadata: what a group of arrays says of itself and of each level, by NGFF, GeoZarr and our own words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segcore.classes import ClassInfo
from segcore.geometry import Window
from segcore.spatial import Affine, Georef, Spacing
from segcore.store import ngff
from segcore.store.arrays import array_metadata, open_array
from segcore.store.objects import Objects
from segcore.store.plan import canonical_json
from segcore.store.pyramid import Pixels, PyramidSpec


def array_documents(prefix: str, spec: PyramidSpec) -> dict[str, bytes]:
    """The metadata of every level's array, by key; of a linked image there are none."""
    levels = enumerate([] if spec.linked else spec.levels)
    name = ngff.ARRAY_FILES[spec.ngff]
    return {f"{prefix}/{level}/{name}": canonical_json(array_metadata(spec, shape)) for level, shape in levels}


class Group:
    """One image's or label's group.

    Args:
        name: "image" or the label's name.
        prefix: of its keys.
        spec: layout of the pyramid.
        plan_number: by which it is made.
        link: where a linked image's pixels are read.
    """

    def __init__(
        self, name: str, prefix: str, spec: PyramidSpec, plan_number: int, link: dict[str, Any] | None
    ) -> None:
        self.name, self.prefix, self.spec, self._number, self._link = name, prefix, spec, plan_number, link

    def documents(
        self,
        attributes: dict[str, Any],
        objects: Objects,
        classes: Sequence[ClassInfo] = (),
        channels: Sequence[str] = (),
    ) -> dict[str, bytes]:
        """The group's metadata, by key.

        Args:
            attributes: JSON for the key `segcore`; see `Staging.finish`.
            objects: where the finished levels are, a sample of which tells how to show an image.
            classes: of a label.
            channels: names of an image's channels.
        """
        spec = self.spec
        spacing = Spacing.model_validate(attributes["spacing"]) if attributes.get("spacing") else None
        georef = Georef.model_validate(attributes["georef"]) if attributes.get("georef") else None
        ome: dict[str, Any] = {"multiscales": ngff.multiscales(self.name, spec, spacing)}
        own: dict[str, Any] = {
            **attributes,
            **_at_level(attributes, spec.base_level),
            "kind": spec.kind,
            "nodata": _json_number(spec.nodata),
            "plan": self._number,
            **({"base_level": spec.base_level} if spec.base_level else {}),
        }
        if spec.linked:
            own["linked"] = {**(self._link or {}), "spec": spec.model_dump(mode="json")}
            ome = {}  # there are no arrays that could be listed
            own["channels"] = list(channels)
        elif spec.kind == "image":
            ome["omero"] = ngff.omero(channels, self._sample(objects), spec.axes)
            own["channels"] = list(channels)
        else:
            ome["image-label"] = ngff.image_label(classes, spec.ngff)
            own["classes"] = [c.model_dump(mode="json") for c in classes]
        extra = ngff.geozarr(georef.at_level(spec.base_level), spec.shape[-2:]) if georef else {}
        found = ngff.group(spec.ngff, ome, {"segcore": own, **extra})
        return {f"{self.prefix}/{name}": data for name, data in found.items()}

    def _sample(self, objects: Objects) -> Pixels:
        """The middle plane of z or t of the coarsest level, all channels."""
        coarsest = open_array(objects, f"{self.prefix}/{len(self.spec.levels) - 1}", self.spec.ngff)
        sides = zip(self.spec.axes, coarsest.shape, strict=True)
        places = [(n // 2, 1) if axis in "zt" else (0, n) for axis, n in sides]
        return coarsest.read(Window(tuple(a for a, _ in places), tuple(n for _, n in places)))


def _at_level(attributes: Mapping[str, Any], level: int) -> dict[str, Any]:
    """Where an array whose finest level is this one lies, by the words of its image."""
    kinds: dict[str, type[Spacing | Georef | Affine]] = {"spacing": Spacing, "georef": Georef, "affine": Affine}
    if level == 0:
        return {}
    told = {key: kind.model_validate(attributes[key]) for key, kind in kinds.items() if attributes.get(key)}
    return {key: value.at_level(level).model_dump(mode="json") for key, value in told.items()}


def _json_number(value: float | None) -> float | str | None:
    """A number that any JSON parser reads; NaN as a word, which `float` understands."""
    return value if value is None or np.isfinite(value) else str(value)
