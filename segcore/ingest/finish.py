"""Finish: upper levels, foreground and metadata of an image whose shards are all there; the image itself last."""

from typing import Any

import numpy as np

import segcore
from segcore.errors import SourceError
from segcore.ingest.check import described, num_objects, summed
from segcore.ingest.foreground import CLASSES, find_tissue
from segcore.ingest.job import Job
from segcore.ingest.recipe import Recipe, canonical
from segcore.nodata import missing
from segcore.sources import Opening
from segcore.sources.stamps import stamp
from segcore.store import Workspace


def finish(workspace: Workspace, job: Job, recipe: Recipe) -> str:
    """Complete an image and all that belongs to it; where it is.

    Raises:
        SourceError: if the source changed while it was read.
        IncompleteError: if shards are missing.
    """
    assert job.probe is not None
    if stamp(job.entry.opened_by) != job.stamp:
        raise SourceError(f"{job.entry.source}: it changed while it was read; ingest it again when it is at rest")
    info = job.probe.info
    shared = {
        "source": job.request["source"]["uri"],
        "spacing": info.spacing.model_dump() if info.spacing else None,
        "georef": info.georef.model_dump() if info.georef else None,
        "affine": info.affine.model_dump() if info.affine else None,
        "split": job.entry.split,
        "group": job.entry.group,
        "segcore_version": segcore.__version__,
    }
    own = {
        "digest": job.digest,
        "request": job.request,
        "reader": info.reader,
        "reader_version": info.reader_version,
        "details": info.details,
        "metadata": dict(job.entry.metadata),
        "has_valid": job.probe.has_valid,
        "recipe": recipe.json_dict,
    }
    image = job.stagings["image"]
    if image.spec.linked:
        image.link(_link_of(workspace, job, recipe.settings.opening))
    if "target" in job.stagings:
        counts = summed(job.stagings["target"].notes())
        instances = job.stagings.get("target_instances")
        objects = num_objects(instances.notes()) if instances is not None else None
        job.check = described(counts, job.probe.classes, job.probe.target_notes, objects)
        job.stagings["target"].finish({**shared, "pixels": counts}, classes=job.probe.classes)
    for name in ("target_instances", "valid"):
        if name in job.stagings:
            job.stagings[name].finish(shared)
    if "foreground" in job.stagings:
        _put_foreground(job)
        job.stagings["foreground"].finish(shared, classes=CLASSES)
    if job.request.get("kept") != "copy":
        workspace.objects.delete_prefix(f"sources/{job.entry.image_id}")  # of an older version, which was linked to it
    image.finish({**shared, **own}, channels=info.channels)
    return workspace.describe(f"images/{job.entry.image_id}.ome.zarr")


def _link_of(workspace: Workspace, job: Job, opening: Opening) -> dict[str, Any]:
    """What it takes to read the source again; of an image that is finished, with the stamp that the source has now."""
    if job.stagings["image"].finished:
        kept = workspace.image(job.entry.image_id).attributes["linked"]
        return {**kept, "stamp": None if kept["in_workspace"] else job.stamp}
    source = job.copied or canonical(job.entry.opened_by)
    return {
        "digest": job.digest,
        "source": source if isinstance(source, str) else source.model_dump(mode="json"),
        "in_workspace": job.copied is not None,
        "stamp": None if job.copied else job.stamp,
        "opening": opening.model_dump(mode="json"),
    }


def _put_foreground(job: Job) -> None:
    """Find the foreground at its level, and write it."""
    assert job.probe is not None
    staging, image = job.stagings["foreground"], job.stagings["image"]
    if staging.finished or not staging.windows():
        return
    level, method = staging.spec.base_level, staging.state.load()["plan"]["foreground"]
    image.build_levels()
    if "valid" in job.stagings:
        job.stagings["valid"].build_levels()
        valid = job.stagings["valid"].read_level(level).astype(np.bool_)
    else:
        valid = np.zeros(image.spec.levels[level][1:], np.bool_)
        for channel in range(image.spec.shape[0]):  # one by one: there may be hundreds
            valid |= ~missing(image.read_level(level, channel)[0], image.spec.nodata)
    found = find_tissue(image.read_level(level), valid) if method == "otsu" else valid.astype(np.uint8)
    staging.put_all(found)
