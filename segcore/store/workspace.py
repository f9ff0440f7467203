"""Workspace: the folder or object-store prefix that holds images, labels, models, state and reports."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from segcore.errors import DamagedError, IncompleteError, StoreError
from segcore.store import ngff
from segcore.store.image import Image, Label, Layer
from segcore.store.objects import Objects
from segcore.store.places import array_prefix, layer_name
from segcore.store.plan import canonical_json, latest_plan, seal, unseal
from segcore.store.pyramid import Ngff

MARKER = "segcore.json"
THREADS = 8
"""Requests side by side."""


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
            StoreError: if there is none and `create` is not set, its marker is damaged, or the store has no
                create-only put.
        """
        objects = Objects(uri)
        exists = objects.folder is None or objects.folder.is_dir()
        if create and not exists:
            objects.create()
        elif not exists:
            raise StoreError(f"workspace {uri}: no such folder; make it with `segcore ingest ... --workspace {uri}`")
        workspace = cls(objects)
        marker = objects.get(MARKER)
        if marker is not None:
            _check_marker(objects, marker)
        else:
            if not create and not objects.folders(""):
                raise StoreError(f"workspace {uri}: nothing there; fill it with `segcore ingest ... --workspace {uri}`")
            if not create and "images" not in objects.folders(""):
                raise StoreError(f"workspace {uri}: not a segcore workspace (no `images` in it)")
            written = canonical_json(seal({"layout": 1}))
            if create and not objects.put_new(MARKER, written) and objects.get(MARKER) is None:
                raise StoreError(f"workspace {uri}: the store has no create-only put; use a local folder or S3")
        return workspace

    @property
    def uri(self) -> str:
        return self.objects.uri

    def describe(self, key: str) -> str:
        """The path or URL of something in the workspace, for people."""
        return self.objects.describe(key)

    def begun_ids(self) -> list[str]:
        """Ids of all images, complete or not, sorted; one request."""
        names = (name for name in self.objects.folders("images") if name.endswith(".ome.zarr"))
        return [name.removesuffix(".ome.zarr") for name in names]

    def image_ids(self) -> list[str]:
        """Ids of all complete images, sorted."""
        begun = self.begun_ids()
        with ThreadPoolExecutor(THREADS) as threads:
            complete = threads.map(lambda image_id: self.is_complete(image_id, "image"), begun)
            return [image_id for image_id, is_complete in zip(begun, complete, strict=True) if is_complete]

    def is_complete(self, image_id: str, name: str) -> bool:
        """True for an image (`name` = "image") or label that bears its mark."""
        prefix = array_prefix(image_id, name)
        return any(self.objects.size(f"{prefix}/{mark}") is not None for mark in ngff.MARKS.values())

    def ngff_of(self, image_id: str, name: str = "image") -> Ngff:
        """The version of OME-NGFF in which an image or label is stored, also one that is not complete."""
        key = f"{array_prefix(image_id, name)}/{ngff.V2_GROUP}"
        return "0.5" if self.objects.size(key) is None else "0.4"

    def image(self, image_id: str) -> Image:
        """A complete image.

        Raises:
            StoreError: if there is none of this id.
            IncompleteError: if its ingest did not end.
        """
        return self._image(image_id, self._attributes(image_id, "image"))

    def complete_image(self, image_id: str) -> Image | None:
        """An image, or None where there is none that is complete; of one that is, one request.

        Raises:
            StoreError: if its metadata is damaged.
        """
        attributes = self._read_attributes(image_id, "image")
        return None if attributes is None else self._image(image_id, attributes)

    def _image(self, image_id: str, attributes: dict[str, Any]) -> Image:
        return Image(self.objects, image_id, attributes, lambda: self.label(image_id, "valid"))

    def label_names(self, image_id: str) -> list[str]:
        """Names of an image's complete labels, sorted."""
        prefix = f"{array_prefix(image_id, 'image')}/labels"
        names = self.objects.folders(prefix)
        return [name for name in names if self.is_complete(image_id, name)]

    def label(self, image_id: str, name: str) -> Label:
        """A complete label (target, valid, or a mask) of an image.

        Raises:
            StoreError: if there is none of this name.
            IncompleteError: if the stage that makes it did not end.
        """
        return Label(self.objects, image_id, name, self._attributes(image_id, name))

    def layer_names(self, image_id: str) -> list[str]:
        """Names of an image's complete layers, sorted."""
        names = (name.removesuffix(".ome.zarr") for name in self.objects.folders(f"layers/{image_id}"))
        return [name for name in names if self.is_complete(image_id, layer_name(*name.rsplit(".", 1)))]

    def layer(self, image_id: str, mask: str, kind: str) -> Layer:
        """A complete layer of an image.

        Raises:
            StoreError: if the mask has none of this kind.
            IncompleteError: if the stage that makes it did not end.
        """
        name = layer_name(mask, kind)
        return Layer(self.objects, image_id, name, self._attributes(image_id, name))

    def _read_attributes(self, image_id: str, name: str) -> dict[str, Any] | None:
        """What its mark says; None where it bears none."""
        for version, mark in ngff.MARKS.items():
            key = f"{array_prefix(image_id, name)}/{mark}"
            data = self.objects.get(key)
            if data is not None:
                try:
                    attributes = ngff.parsed(version, data)
                    attributes["segcore"].get("linked") or attributes["ome"]["multiscales"]
                except (ValueError, KeyError, TypeError) as error:
                    raise StoreError(f"{self.describe(key)}: damaged metadata; run `verify`") from error
                return attributes
        return None

    def _attributes(self, image_id: str, name: str) -> dict[str, Any]:
        attributes = self._read_attributes(image_id, name)
        if attributes is not None:
            return attributes
        what = f"image {image_id}" if name == "image" else f"{name} of image {image_id}"
        if latest_plan(self.objects, image_id, name) is not None:
            raise IncompleteError(f"{what} is not complete in {self.uri}: run the command that makes it again")
        raise StoreError(f"no {what} in {self.uri}")


def _check_marker(objects: Objects, data: bytes) -> None:
    try:
        unseal(data)
    except ValueError as error:
        remedy = "delete it: the next `segcore ingest` writes it anew"
        raise DamagedError(f"{objects.describe(MARKER)}: damaged ({error}); {remedy}") from error


def listed_labels(workspace: Workspace, image_id: str) -> list[str]:
    """The labels that the list beside them names; viewers see no others."""
    version = workspace.ngff_of(image_id)
    data = workspace.objects.get(f"{array_prefix(image_id, 'image')}/labels/{ngff.MARKS[version]}")
    try:
        return list(ngff.parsed(version, data or b"{}")["ome"]["labels"])
    except (ValueError, KeyError, TypeError):  # missing or damaged: as good as empty, it is rebuilt
        return []


def labels_to_list(workspace: Workspace, image_id: str) -> list[str]:
    """The complete labels of the image's own version of OME-NGFF; a viewer could not open others beside it."""
    version = workspace.ngff_of(image_id)
    return [name for name in workspace.label_names(image_id) if workspace.ngff_of(image_id, name) == version]


def label_list(workspace: Workspace, image_id: str, names: list[str]) -> dict[str, bytes]:
    """The objects that say which labels there are, by key."""
    folder = f"{array_prefix(image_id, 'image')}/labels"
    objects = ngff.group(workspace.ngff_of(image_id), {"labels": names})
    return {f"{folder}/{name}": data for name, data in objects.items()}


def rebuild_label_list(workspace: Workspace, image_id: str) -> None:
    """Write the list of the labels that are complete; again, if one ended meanwhile."""
    version = workspace.ngff_of(image_id)
    folder = f"{array_prefix(image_id, 'image')}/labels"
    other = {*ngff.MARKS.values(), ngff.V2_GROUP} - ngff.group(version, {}).keys()
    for name in sorted(other):  # left by an image that was of the other version
        workspace.objects.delete(f"{folder}/{name}")
    names = labels_to_list(workspace, image_id)
    while True:
        for key, data in label_list(workspace, image_id, names).items():
            workspace.objects.put(key, data)
        again = labels_to_list(workspace, image_id)
        if again == names:
            return
        names = again
