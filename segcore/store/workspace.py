"""Workspace: the folder or object-store prefix that holds images, labels, models, state and reports."""

import json
from typing import Any

from segcore.errors import IncompleteError, StoreError
from segcore.store import ngff
from segcore.store.image import Image, Label
from segcore.store.objects import Objects
from segcore.store.plan import canonical_json, latest_plan

MARKER = "segcore.json"


class Workspace:
    """Made by `open`; cheap, and safe to share between threads."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    @classmethod
    def open(cls, uri: str, create: bool = False) -> "Workspace":
        """Open a workspace.

        Args:
            uri: a folder, or `s3://`, `gs://`, `az://`.
            create: make it where there is none.

        Raises:
            StoreError: if there is none and `create` is not set, or the store has no create-only put.
        """
        objects = Objects(uri)
        exists = objects.folder is None or objects.folder.is_dir()
        if create and not exists:
            objects.create()
        elif not exists:
            raise StoreError(f"workspace {uri}: no such folder; make it with `segcore ingest ... --workspace {uri}`")
        workspace = cls(objects)
        if objects.get(MARKER) is None:
            if not create and not objects.folders(""):
                raise StoreError(f"workspace {uri}: nothing there; fill it with `segcore ingest ... --workspace {uri}`")
            if not create and "images" not in objects.folders(""):
                raise StoreError(f"workspace {uri}: not a segcore workspace (no `images` in it)")
            if create and not objects.put_new(MARKER, canonical_json({"layout": 1})) and objects.get(MARKER) is None:
                raise StoreError(f"workspace {uri}: the store has no create-only put; use a local folder or S3")
        return workspace

    @property
    def uri(self) -> str:
        return self.objects.uri

    def describe(self, key: str) -> str:
        """The path or URL of something in the workspace, for people."""
        return self.objects.describe(key)

    def image_ids(self) -> list[str]:
        """Ids of all complete images, sorted."""
        names = (name for name in self.objects.folders("images") if name.endswith(".ome.zarr"))
        return [
            name.removesuffix(".ome.zarr")
            for name in names
            if self.objects.size(f"images/{name}/zarr.json") is not None
        ]

    def has_image(self, image_id: str) -> bool:
        """True if there is a complete image of this id."""
        return self.objects.size(f"{array_prefix(image_id, 'image')}/zarr.json") is not None

    def image(self, image_id: str) -> Image:
        """A complete image.

        Raises:
            StoreError: if there is none of this id.
            IncompleteError: if its ingest did not end.
        """
        attributes = self._attributes(image_id, "image")
        return Image(self.objects, image_id, attributes, lambda: self.label(image_id, "valid"))

    def label_names(self, image_id: str) -> list[str]:
        """Names of an image's complete labels, sorted."""
        prefix = f"{array_prefix(image_id, 'image')}/labels"
        names = self.objects.folders(prefix)
        return [name for name in names if self.objects.size(f"{prefix}/{name}/zarr.json") is not None]

    def label(self, image_id: str, name: str) -> Label:
        """A complete label (target, valid, or a mask) of an image.

        Raises:
            StoreError: if there is none of this name.
            IncompleteError: if the stage that makes it did not end.
        """
        return Label(self.objects, image_id, name, self._attributes(image_id, name))

    def _attributes(self, image_id: str, name: str) -> dict[str, Any]:
        key = f"{array_prefix(image_id, name)}/zarr.json"
        data = self.objects.get(key)
        if data is not None:
            try:
                attributes: dict[str, Any] = json.loads(data)["attributes"]
                attributes["ome"] if "linked" not in attributes["segcore"] else attributes["segcore"]["linked"]
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{self.describe(key)}: damaged metadata; run `verify`") from error
            return attributes
        what = f"image {image_id}" if name == "image" else f"{name} of image {image_id}"
        if latest_plan(self.objects, image_id, name) is not None:
            raise IncompleteError(f"{what} is not complete in {self.uri}: run the command that makes it again")
        raise StoreError(f"no {what} in {self.uri}")


def array_prefix(image_id: str, name: str) -> str:
    """Where an image (`name` = "image") or one of its labels lies."""
    image = f"images/{image_id}.ome.zarr"
    return image if name == "image" else f"{image}/labels/{name}"


def listed_labels(workspace: Workspace, image_id: str) -> list[str]:
    """The labels that `labels/zarr.json` names; viewers see no others."""
    data = workspace.objects.get(f"{array_prefix(image_id, 'image')}/labels/zarr.json")
    try:
        return list(json.loads(data or b"{}")["attributes"]["ome"]["labels"])
    except (ValueError, KeyError, TypeError):  # missing or damaged: as good as empty, it is rebuilt
        return []


def rebuild_label_list(workspace: Workspace, image_id: str) -> None:
    """Write `labels/zarr.json` from the labels that are complete; again, if one ended meanwhile."""
    key = f"{array_prefix(image_id, 'image')}/labels/zarr.json"
    names = workspace.label_names(image_id)
    while True:
        ome = {"version": ngff.VERSION, "labels": names}
        workspace.objects.put(key, canonical_json(ngff.group({"ome": ome})))
        again = workspace.label_names(image_id)
        if again == names:
            return
        names = again
