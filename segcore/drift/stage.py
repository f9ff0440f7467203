"""Stage: `drift`, images and a model package -> *how unusual each image is to the model*, the most unusual first.

What was found of an image is kept in `state/models/<model_id>/drift/<image_id>.json`, beside the identity of what was
looked at; a rerun reads it back as long as that stands. The list of a call is `reports/drift/<model_id>.json`.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from segcore import __version__
from segcore.config import DriftConfig
from segcore.drift.distance import METHOD
from segcore.drift.looking import Looker
from segcore.drift.reference import VERSION, Reference
from segcore.errors import ContractError, StoreError
from segcore.inference.adapt import SAMPLE_VERSION
from segcore.inference.contract import check_contract
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import repeatable, resolve_device
from segcore.inference.search import own_foreground
from segcore.measure import Peak
from segcore.models.package import ModelPackage, read_package
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.selection import failure
from segcore.store import Image, Workspace, seal, unseal
from segcore.unusual import list_key

NO_REFERENCE = (
    "the model has no statistics of its training images: it was made without, or of fewer than 3; train it again"
)
MOST_NAMED = 20


def drift(config: DriftConfig, progress: Progress = SILENT) -> StageResult:
    """Say how unusual images are to a model, by statistics of a sample of each.

    Returns:
        One item per image; `details["unusual"]` names the most unusual ones, `paths[0]` is the list as JSON. Images
        that the model cannot take are skipped, and so are all where the package has nothing to compare them with.

    Raises:
        SegcoreError: if there is no workspace or model, or an image that was asked for is not there.
    """
    with Peak() as peak, repeatable():
        ws = Workspace.open(config.workspace)
        package = read_package(ws, config.model)
        job = _Job(ws, package, Reference.read(package.drift), resolve_device(config.device))
        if job.reference is None:
            progress.note(f"model {package.model_id}: {NO_REFERENCE}")
        chosen = tuple(dict.fromkeys(config.images)) or ws.image_ids()
        if not chosen:
            raise StoreError(f"no image in {ws.uri}: run `segcore ingest` first")
        progress.start("drift", len(chosen), "images")
        items = tuple(_item(job, image_id, progress) for image_id in chosen)
        document, key = job.document(), list_key(package.model_id)
        if job.found:
            ws.objects.put(key, json.dumps(document, indent=1).encode())
    unusual = [row["image"] for row in document["images"] if row["unusual"]]
    return StageResult(
        stage="drift",
        items=items,
        paths=(ws.describe(key),) if job.found else (),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={
            "model": package.model_id,
            "num_reused": job.num_reused,
            "num_unusual": len(unusual),
            "unusual": unusual[:MOST_NAMED],
        },
    )


@dataclass
class _Job:
    """What is done to every image, and what is found."""

    ws: Workspace
    package: ModelPackage
    reference: Reference | None
    device: torch.device
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By image id."""
    num_reused: int = 0

    @cached_property
    def looker(self) -> Looker:
        """Made when the first image is to be looked at."""
        return Looker(self.package, self.device, self.reference)

    def document(self) -> dict[str, Any]:
        """The images that were compared, the most unusual first, JSON."""
        rows = [{"image": image_id, **row} for image_id, row in self.found.items()]
        return {
            "format": 1,
            "model": self.package.model_id,
            "code_version": __version__,
            "num_training_images": 0 if self.reference is None else self.reference.num_images,
            "images": sorted(rows, key=lambda row: (-row["score"], row["image"])),
        }


def _item(job: _Job, image_id: str, progress: Progress) -> ItemResult:
    if job.reference is None:
        progress.advance()
        return ItemResult(state="skipped", image=image_id, details={"reason": NO_REFERENCE})
    try:
        image = job.ws.image(image_id)
        try:
            found = _compared(job, job.reference, check_contract(job.package.contract, image).grid)
        except ContractError as error:  # predict refuses it and says so, or has nothing to look at
            return ItemResult(state="skipped", image=image_id, details={"reason": str(error)})
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        message = failure(image_id, error)
        progress.note(message)
        return ItemResult(state="failed", image=image_id, error=message)
    finally:
        progress.advance()
    job.found[image_id] = found
    if found["unusual"]:
        progress.note(
            f"image {image_id}: unusual, {found['score']:.1f} times as far as usual: {'; '.join(found['words'])}"
        )
    return ItemResult(state="done", image=image_id, source=image.source, details=found)


def _compared(job: _Job, reference: Reference, grid: ModelGrid) -> dict[str, Any]:
    """What is found of an image, or was by an earlier call that saw the same."""
    key = f"state/models/{job.package.model_id}/drift/{grid.image.image_id}.json"
    identity = _identity(job.package, grid)
    kept = _kept(job.ws.objects.get(key), identity)
    if kept is not None:
        job.num_reused += 1
        return kept
    found = reference.compared(job.looker.seen(grid)).as_json()
    job.ws.objects.put(key, json.dumps(seal({"identity": identity, "found": found})).encode())
    return found


def _identity(package: ModelPackage, grid: ModelGrid) -> dict[str, Any]:
    image: Image = grid.image
    mark = own_foreground(image)
    return {
        "model": package.digest,
        "image": [image.digest, image.attributes.get("plan"), image.valid_plan],
        "foreground": None if mark is None else mark.digest,
        "grid": [grid.level, *grid.step],
        "versions": [VERSION, METHOD, SAMPLE_VERSION, __version__],
    }


def _kept(data: bytes | None, identity: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call found; a damaged record is found again."""
    try:
        record = unseal(data or b"{}")
        return dict(record["found"]) if record["identity"] == identity else None
    except (ValueError, KeyError, TypeError):
        return None
