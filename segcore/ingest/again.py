"""Again: what an image or its labels lost is made from the same source, in the same way, and nothing else.

recipe (in the attributes) --> are its files as they were? --> the shards that the ledger lacks
"""

from typing import Any

from segcore.config import IngestConfig
from segcore.errors import SegcoreError, SourceError, StoreError
from segcore.ingest.job import Job
from segcore.ingest.look import requests
from segcore.ingest.recipe import Recipe
from segcore.ingest.run import running
from segcore.progress import SILENT, Progress
from segcore.sources.stamps import content_digest
from segcore.store import Workspace


def job_again(image_id: str, attributes: dict[str, Any]) -> tuple[Recipe, Job]:
    """What it takes to read an image's source once more.

    Args:
        image_id: of the image.
        attributes: the image's own, as they were when it was complete; {} if they are lost.

    Raises:
        SourceError: if a file it was made from is gone or has changed.
        StoreError: if there is no recipe.
    """
    if "recipe" not in attributes:
        raise StoreError(
            f"image {image_id}: how it was ingested is not known (it was never finished, or an older version made it); "
            "ingest its source again, with --overwrite where it is complete"
        )
    recipe = Recipe.model_validate(attributes["recipe"])
    stamp = _checked_stamp(recipe, attributes)
    return recipe, Job(recipe.entry, request=attributes["request"], stamp=stamp, digest=attributes["digest"])


def ingest_again(workspace: Workspace, recipe: Recipe, job: Job, progress: Progress = SILENT) -> None:
    """Write what is left of an image and its labels, and complete them.

    Raises:
        StoreError: if it failed.
    """
    config = IngestConfig(workspace=workspace.uri, sources=(recipe.entry.source,), **recipe.config)
    with running(config, workspace, progress, settings=recipe.settings) as run:
        progress.start("open", 1, "sources")
        try:
            run.probe_all([job])
            run.write_all([job])
        finally:
            run.stop([job])
    assert job.result is not None, f"{recipe.entry.image_id}: {job.awaited} tasks are still awaited"
    if job.result.error is not None:
        raise StoreError(job.result.error)


def _checked_stamp(recipe: Recipe, attributes: dict[str, Any]) -> dict[str, Any]:
    """The source's stamp as it is now.

    Raises:
        SourceError: if it, or what belongs to it, has other content than what the image was made from.
    """
    entry, before = recipe.entry, attributes["request"]
    try:
        now = requests(entry, {})
    except SegcoreError as error:
        raise SourceError(f"{error}; what is lost of {entry.image_id} can only be made from it") from error
    source: dict[str, Any] = now["source"]
    same = source == before["source"] or content_digest(entry.opened_by, lambda: None) == attributes["digest"]
    changed = [] if same else [entry.source]
    for key, files in {"targets": entry.targets, "valid": (entry.valid,), "aoi": (entry.aoi,)}.items():
        if now.get(key) != before.get(key):
            changed += [file for file in files if file][:1]
    if changed:
        raise SourceError(
            f"{changed[0]}: it has changed since {entry.image_id} was made from it; bring the old file back and repair "
            "again, or ingest it anew with --overwrite"
        )
    return source
