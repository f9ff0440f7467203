"""Selection: the `--model` and `--images` of score, report and export -> *finished masks* to work on."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segcore.config import RESERVED_NAMES
from segcore.errors import ConfigError, SegcoreError, StoreError
from segcore.store import Image, Label, Layer, Objects, Workspace, is_instances, layer_name

log = logging.getLogger("segcore.selection")

OF_MASK_ALONE = ("thresholds", "min_confidence")
"""In the plan of a mask, what its layers' plans leave out."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Masked:
    """An image with its mask; or, where it cannot be worked on, the reason in one line."""

    image_id: str
    image: Image | None = None
    mask: Label | None = None
    error: str | None = None

    def opened(self) -> tuple[Image, Label]:
        """Image and mask.

        Raises:
            StoreError: with the reason, if it cannot be worked on.
        """
        if self.image is None or self.mask is None:
            raise StoreError(self.error or f"image {self.image_id}: no mask")
        return self.image, self.mask


def failure(image_id: str, error: Exception) -> str:
    """Why an image came to nothing, in one line; an error that nobody foresaw is named with its type."""
    known = isinstance(error, SegcoreError)
    log.debug("image %s failed", image_id, exc_info=error)
    return " ".join((str(error) if known else f"image {image_id}: {type(error).__name__}: {error}").split())


def mask_name(workspace: Workspace, model: str, option: str = "--model") -> str:
    """The name under `labels/` that a `--model` or `--against` stands for.

    Args:
        workspace: where the masks are; a mask's name comes before a folder's of the same name.
        model: a mask's name (by default the model's id), or the folder or URI of a model package.
        option: what the user gave it as.

    Raises:
        ConfigError: if it is neither a name nor a package, or the name of a label that no model makes.
    """
    if model in RESERVED_NAMES:
        raise ConfigError(f"{option} {model}: expected a mask or a model, '{model}' is the workspace's own")
    is_name = _NAME.fullmatch(model) is not None
    if is_name and not (Path(model, "SHA256SUMS").is_file() and not _is_mask(workspace, model)):
        return model
    reason = "no package there"
    try:
        found = _package_id(model)
    except (SegcoreError, OSError, ValueError, KeyError, TypeError) as error:
        found, reason = None, " ".join(str(error).split()) or type(error).__name__
    if found is None:
        raise ConfigError(
            f"{option} {model}: expected the name of a mask or a model package's folder, got neither ({reason})"
        )
    return found


def _is_mask(workspace: Workspace, name: str) -> bool:
    return any(_has_mask(workspace, image_id, name) for image_id in workspace.image_ids())


def _has_mask(workspace: Workspace, image_id: str, name: str) -> bool:
    """True if there is such a mask, finished or not."""
    return bool(workspace.objects.folders(f"state/{image_id}/{name}")) or name in workspace.label_names(image_id)


def _package_id(model: str) -> str | None:
    """The id of the model package in a folder or at a URI; None if there is none.

    Its sums are not checked: only predict runs it, and that checks them.
    """
    files: list[bytes | None]
    folder = model.removeprefix("file://")
    parent, _, last = folder.rstrip("/").rpartition("/")
    if "://" in parent:
        objects = Objects(parent)
        files = [objects.get(f"{last}/{name}") for name in ("SHA256SUMS", "model.json")]
    else:
        paths = [Path(folder, name) for name in ("SHA256SUMS", "model.json")]
        files = [path.read_bytes() if path.is_file() else None for path in paths]
    sums, info = files
    if sums is None or info is None:
        return None
    return f"{json.loads(info)['name']}-{hashlib.sha256(sums).hexdigest()[:8]}"


def select(workspace: Workspace, name: str, images: Sequence[str] = (), split: str | None = None) -> list[Masked]:
    """Images with a mask of this name: all there are, or those asked for (each of which must have it).

    Args:
        workspace: where they are.
        name: of the mask.
        images: image ids; none = every image that has the mask, finished or not.
        split: only images of this split.

    Raises:
        StoreError: if no image has the mask, or none of the split.
    """
    ids = dict.fromkeys(images) or workspace.image_ids()  # each image counts once
    found = [_masked(workspace, image_id, name, must_have=bool(images)) for image_id in ids]
    masked = [item for item in found if item is not None]
    if not masked:
        raise StoreError(f"no image in {workspace.uri} has the mask {name}: {_masks_there_are(workspace)}")
    chosen = [item for item in masked if split is None or item.image is None or item.image.split == split]
    if not chosen:
        splits = sorted({item.image.split or "none" for item in masked if item.image is not None})
        raise StoreError(f"no image with the mask {name} is of split {split}: there are {', '.join(splits)}")
    return chosen


def _masked(workspace: Workspace, image_id: str, name: str, must_have: bool) -> Masked | None:
    try:
        image = workspace.image(image_id)
        if not must_have and not _has_mask(workspace, image_id, name):
            return None
        mask = workspace.label(image_id, name)
        if is_stale(image, mask):
            stale = "the mask was made from an earlier version of this image; predict again"
            return Masked(image_id, image, error=f"image {image_id}: mask {name}: {stale}")
        if "mask" in mask.attributes and is_of_earlier(mask, workspace.label(image_id, mask.attributes["mask"])):
            what, again = (
                ("mask {}: it was", "refine") if "refine" in mask.attributes else ("objects {}: they were", "predict")
            )
            stale = f"{what.format(name)} made of an earlier mask {mask.attributes['mask']}; {again} again"
            return Masked(image_id, image, error=f"image {image_id}: {stale}")
        return Masked(image_id, image, mask)
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        return Masked(image_id, error=failure(image_id, error))


def is_stale(image: Image, mask: Label) -> bool:
    """True if predict saw other pixels than the image has now; never for a mask that does not say what it saw."""
    seen = mask.attributes.get("predict", {}).get("source")
    if not seen:
        return False
    now = {"digest": image.digest, "plan": image.attributes.get("plan"), "valid": image.valid_plan}
    return any(seen[key] != value for key, value in now.items() if key in seen)


def is_of_earlier(objects: Label, mask: Label) -> bool:
    """True if objects were made of a mask by another plan than that which stands under its name."""
    return bool(objects.attributes.get("mask_digest", mask.digest) != mask.digest)


def is_of_another_run(layer: Layer, mask: Label) -> bool:
    """True if model or pixels were others when a layer was made; never where one of the two does not say."""
    made, of_mask = (each.attributes.get("predict", {}) for each in (layer, mask))
    return bool(made) and any(made.get(key) != value for key, value in of_mask.items() if key not in OF_MASK_ALONE)


def probs_layer(workspace: Workspace, mask: Label) -> Layer | None:
    """The probabilities that a mask, or that which it was refined from, was made with; None if of another run."""
    owner, seen, image_id = mask, set[str](), mask.image_id
    while owner.name not in seen:
        if workspace.is_complete(image_id, layer_name(owner.name, "probs")):
            layer = workspace.layer(image_id, owner.name, "probs")
            return None if is_of_another_run(layer, mask) else layer
        seen.add(owner.name)
        below = owner.attributes.get("mask", owner.name)
        if not workspace.is_complete(image_id, below):
            return None
        owner = workspace.label(image_id, below)
    return None


def _masks_there_are(workspace: Workspace) -> str:
    first = workspace.image_ids()[:20]
    found = {name for image_id in first for name in workspace.label_names(image_id)}.difference(RESERVED_NAMES)
    names = {name for name in found if not is_instances(name)}
    return f"there are {', '.join(sorted(names))}" if names else "run `segcore predict` first"
