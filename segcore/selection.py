"""Selection: the `--model` and `--images` of score, report and export -> *finished masks* to work on."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import fsspec

from segcore.errors import ConfigError, SegcoreError, StoreError
from segcore.store import Image, Label, Workspace

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NOT_MASKS = ("target", "target_instances", "valid", "foreground")
"""Labels that no model made."""


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


def mask_name(model: str) -> str:
    """The name under `labels/` that a `--model` stands for.

    Args:
        model: a mask's name (by default the model's id), or the folder or URI of a model package.

    Raises:
        ConfigError: if it is neither a name nor a package.
    """
    if _NAME.fullmatch(model):
        return model
    folder = model.rstrip("/")
    try:
        with fsspec.open(f"{folder}/SHA256SUMS", "rb") as sums, fsspec.open(f"{folder}/model.json", "rb") as info:
            return f"{json.load(info)['name']}-{hashlib.sha256(sums.read()).hexdigest()[:8]}"
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"--model {model}: expected the name of a mask or a model package's folder, got neither ({reason})"
        ) from error


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
    found = [_masked(workspace, image_id, name, must_have=bool(images)) for image_id in images or workspace.image_ids()]
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
        has_mask = workspace.objects.folders(f"state/{image_id}/{name}") or name in workspace.label_names(image_id)
        if not has_mask and not must_have:
            return None
        return Masked(image_id, image, workspace.label(image_id, name))
    except SegcoreError as error:
        return Masked(image_id, error=str(error))


def _masks_there_are(workspace: Workspace) -> str:
    first = workspace.image_ids()[:20]
    names = {name for image_id in first for name in workspace.label_names(image_id)}.difference(NOT_MASKS)
    return f"there are {', '.join(sorted(names))}" if names else "run `segcore predict` first"
