"""Run: one call of ingest; which sources are new, what is left of each, and how each one ends."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import segcore
from segcore.config import IngestConfig
from segcore.errors import SegcoreError, SourceError
from segcore.ingest.child import Probe, Settings, content_digest, probe, write_unit
from segcore.ingest.entries import Entry, canonical_uri, file_stamp, list_entries, target_stamps
from segcore.ingest.layout import all_specs, estimate, image_spec, plan_of
from segcore.isolation import ChildPool, Outcome, Task
from segcore.measure import Peak, num_cores
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.sources import Opening
from segcore.spatial import WantedSpacing
from segcore.store import Staging, Workspace, withdraw_labels
from segcore.targets import TargetOpening, agreed_table, load_classes

LABELS = {"target", "target_instances", "valid"}
"""What ingest makes beside the image."""


@dataclass(eq=False)
class _Job:
    """One source on its way into the workspace."""

    entry: Entry
    request: dict[str, Any] = field(default_factory=dict)
    """Everything that was asked for, kept in the image: the same request again is nothing to do."""
    unchanged: bool = False
    """The image in the workspace was made by this very request."""
    probe: Probe | None = None
    stagings: dict[str, Staging] = field(default_factory=dict)
    awaited: int = 0
    """Tasks that are under way or still to come."""
    num_shards: int = 0
    written: int = 0
    digest: str | None = None
    result: ItemResult | None = None

    def fail(self, message: str) -> None:
        self._end("failed", error=message)

    def skip(self, **details: Any) -> None:
        self._end("skipped", **details)

    def done(self, path: str) -> None:
        details: dict[str, Any] = {"shards_written": self.written, "shards_resumed": self.num_shards - self.written}
        if self.probe and self.probe.target_notes:
            details["notes"] = self.probe.target_notes
        self._end("done", path=path, **details)

    def _end(self, state: Any, path: str | None = None, error: str | None = None, **details: Any) -> None:
        for staging in self.stagings.values():
            staging.close()
        self.result = ItemResult(
            state=state,
            source=self.entry.source,
            image=None if state == "failed" else self.entry.image_id,
            path=path,
            error=error,
            details=details,
        )


def ingest(config: IngestConfig, progress: Progress = SILENT) -> StageResult:
    """Bring sources into the workspace.

    Args:
        config: what, where to and how.
        progress: hears shards, and one note per source that fails.

    Returns:
        One item per source, in the order given; `paths` are the images.

    Raises:
        ConfigError: if the sources, the manifest or the class table make no sense.
        StoreError: if the workspace cannot be used.
    """
    with Peak() as peak:
        jobs = [_Job(entry) for entry in list_entries(config)]
        workspace = None if config.dry_run else Workspace.open(config.workspace, create=True)
        with ChildPool(config.processes or num_cores(), config.memory_mib) as pool:
            run = _Run(config, workspace, pool, progress)
            try:
                run.probe_all(jobs)
                if workspace is not None:
                    run.write_all(jobs)
            finally:
                for job in jobs:
                    for staging in job.stagings.values():
                        staging.close()
    items = tuple(job.result for job in jobs if job.result is not None)
    paths = tuple(item.path for item in items if item.path)
    return StageResult(stage="ingest", items=items, paths=paths, seconds=peak.seconds, peak_mib=peak.mib)


class _Run:
    """One call of `ingest`."""

    def __init__(self, config: IngestConfig, workspace: Workspace | None, pool: ChildPool, progress: Progress) -> None:
        self.config, self.workspace, self.pool, self.progress = config, workspace, pool, progress
        self.classes_digest = None
        self.owners: dict[str, str] = {}
        """Canonical URI by image id, of the sources of this call."""
        table = load_classes(config.classes) if config.classes else None  # a wrong one is one error for all sources
        if table is not None:
            # What it says, not when it was saved: a table written anew makes no target again.
            self.classes_digest = hashlib.sha256(table.model_dump_json().encode()).hexdigest()
        spacing = WantedSpacing.parse(config.spacing) if config.spacing else None
        self.settings = Settings(
            opening=Opening(spacing=spacing, warp=config.warp, axes=config.array_axes),
            target=TargetOpening(
                table=table,
                threshold=config.threshold,
                tolerance=config.tolerance,
                buffer=config.buffer,
                class_property=config.class_property,
            ),
        )

        how = {"table", "opening"}
        self.reading = self.settings.target.model_dump(mode="json", exclude=how, exclude_defaults=True)
        """How targets are read, where it is not as by default."""
        self.named_settings = self.settings
        """Of shapes: with the classes that all images agreed on."""

    def probe_all(self, jobs: Sequence[_Job]) -> None:
        """Open every source that is new or changed; those that cannot be opened have failed."""
        by_task: dict[int, _Job] = {}

        def tasks() -> Iterator[Task]:
            for job in jobs:
                if self._is_wanted(job):
                    task = self._task(probe, job, (job.entry, self.settings))
                    by_task[id(task)] = job
                    yield task

        self.progress.start("open", len(jobs), "sources")
        for outcome in self.pool.run(tasks()):
            job = by_task.pop(id(outcome.task))
            if outcome.error is not None:
                self._fail(job, outcome.error)
            else:
                job.probe = outcome.result
                for note in outcome.result.target_notes:
                    self.progress.note(f"{job.entry.targets[0]}: {note}")
                job.num_shards = image_spec(outcome.result, self.config.shard_px).grid(0).num_cells
                if self.config.dry_run:
                    job.skip(**estimate(outcome.result, self.config.shard_px, self.config.processes or num_cores()))
            self.progress.advance()
        self._agree_on_classes(jobs)
        self._agree_on_names(jobs)

    def _agree_on_names(self, jobs: Sequence[_Job]) -> None:
        """Shapes without a class table: all images get the names of all, before any of them gets an id."""
        shaped = [job for job in jobs if job.probe is not None and job.probe.target_kind == "shapes"]
        if self.config.classes is not None or not shaped:
            return
        table = agreed_table(job.probe.classes for job in shaped if job.probe)
        target = self.settings.target.model_copy(update={"table": table})
        self.named_settings = self.settings.model_copy(update={"target": target})
        for job in shaped:
            assert job.probe is not None
            job.probe = job.probe.model_copy(update={"classes": table.classes, "target_dtype": table.dtype})

    def _settings_of(self, job: _Job) -> Settings:
        is_named = job.probe is not None and job.probe.target_kind == "shapes"
        return self.named_settings if is_named else self.settings

    def _agree_on_classes(self, jobs: Sequence[_Job]) -> None:
        """Index masks without a class table: all images get the classes of the one with the highest id."""
        kinds = {job.probe.target_kind for job in jobs if job.probe is not None}
        if self.config.classes is not None or "index" not in kinds:
            return
        # A mask that happens to hold 0 and 1 alone looks binary.
        counted = [job for job in jobs if job.probe is not None and job.probe.target_kind in ("index", "binary")]
        longest = max((job.probe.classes for job in counted if job.probe), key=len)
        for job in counted:
            assert job.probe is not None
            job.probe = job.probe.model_copy(update={"classes": longest})

    def _is_wanted(self, job: _Job) -> bool:
        """False if the source is gone (it has failed) or unchanged (it is skipped)."""
        entry = job.entry
        try:
            job.request = {
                "source": file_stamp(entry.source),
                "targets": target_stamps(entry.targets),
                "valid": file_stamp(entry.valid) if entry.valid else None,
                "classes": self.classes_digest if entry.targets else None,
                "split": entry.split,
                "group": entry.group,
                "metadata": dict(entry.metadata),
            }
            # Only where they were asked for, so that a workspace from before they could be stays as it is.
            if entry.targets and self.reading:
                job.request["reading"] = self.reading
            if entry.aoi:
                job.request["aoi"] = target_stamps([entry.aoi])
            _check_owner(entry, self.owners.setdefault(entry.image_id, canonical_uri(entry.source)))
            if self.workspace is None or self.workspace.objects.size(_mark(entry)) is None:
                return True
            image = self.workspace.image(entry.image_id)
            _check_owner(entry, image.source)
        except SegcoreError as error:
            self._fail(job, error)
            return False
        job.unchanged = image.attributes.get("request") == job.request
        if not job.unchanged or self.config.overwrite:
            return True
        job.skip(reason="unchanged")
        self.progress.advance()
        return False

    def write_all(self, jobs: Sequence[_Job]) -> None:
        """Write all work units, and finish each image when its last one is there."""
        ahead = [job for job in jobs if job.result is None]
        by_task: dict[int, _Job] = {}
        self.progress.start("ingest", sum(job.num_shards for job in ahead), "shards")

        def tasks() -> Iterator[Task]:
            for job in ahead:
                for task in self._begin(job):
                    if job.result is not None:
                        break
                    by_task[id(task)] = job
                    yield task

        for outcome in self.pool.run(tasks(), on_beat=lambda _, amount: self.progress.advance(amount)):
            self._take(by_task.pop(id(outcome.task)), outcome)

    def _begin(self, job: _Job) -> list[Task]:
        """Plan an image and its labels; the tasks that are left to do."""
        assert self.workspace is not None
        try:
            units = self._stage(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this source's; the others go on
            self._fail(job, error)
            return []
        names = tuple(job.stagings)
        if job.unchanged and all(staging.finished for staging in job.stagings.values()):
            job.skip(reason="unchanged")
            self.progress.advance(job.num_shards)
            return []
        tasks = [self._task(content_digest, job, (job.entry.source,))]
        for unit in units:
            args = (self.workspace.uri, job.entry, self._settings_of(job), names, unit)
            tasks.append(self._task(write_unit, job, args))
        job.awaited = len(tasks)
        return tasks

    def _take(self, job: _Job, outcome: Outcome) -> None:
        """Note what a task gave; finish the image with its last one."""
        job.awaited -= 1
        if job.result is not None:
            return
        if outcome.error is not None:
            self._fail(job, outcome.error)
            return
        if outcome.task.function is content_digest:
            job.digest = outcome.result
        else:
            job.written += outcome.result
        if job.awaited == 0:
            try:
                self._finish(job)
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(job, error)

    def _stage(self, job: _Job) -> list[Any]:
        """Begin image and labels; the image's work units in which anything is left to do."""
        assert self.workspace is not None
        assert job.probe is not None
        units: set[Any] = set()
        specs = all_specs(job.probe, self.config.shard_px)
        for name, spec in specs.items():
            staging = Staging.begin(
                self.workspace,
                job.entry.image_id,
                name,
                plan_of(name, job.probe, job.request),
                spec,
                overwrite=self.config.overwrite or name != "image",
                supersede=("source",),
            )
            job.stagings[name] = staging
            if name == "image" and not staging.finished:
                withdraw_labels(self.workspace, job.entry.image_id, LABELS - specs.keys())
            for unit in [] if staging.finished else staging.units():
                found = dict(zip(spec.axes, unit, strict=True))
                units.add(tuple(found.get(axis, 0) for axis in job.probe.info.axes))
        return sorted(units)

    def _finish(self, job: _Job) -> None:
        """Upper levels and metadata, labels before the image."""
        assert self.workspace is not None
        assert job.probe is not None
        if file_stamp(job.entry.source) != job.request["source"]:
            raise SourceError(f"{job.entry.source}: it changed while it was read; ingest it again when it is at rest")
        info = job.probe.info
        shared = {
            "source": job.request["source"]["uri"],
            "spacing": info.spacing.model_dump() if info.spacing else None,
            "georef": info.georef.model_dump() if info.georef else None,
            "split": job.entry.split,
            "group": job.entry.group,
            "segcore_version": segcore.__version__,
        }
        # The image is complete last, and with it all that belongs to it.
        for name, staging in sorted(job.stagings.items(), key=lambda named: named[0] == "image"):
            if name == "image":
                own = {
                    "digest": job.digest,
                    "request": job.request,
                    "reader": info.reader,
                    "reader_version": info.reader_version,
                    "details": info.details,
                    "metadata": dict(job.entry.metadata),
                    "has_valid": job.probe.has_valid,
                }
                staging.finish({**shared, **own}, channels=info.channels)
            else:
                staging.finish(shared, classes=job.probe.classes if name == "target" else ())
        job.done(self.workspace.describe(f"images/{job.entry.image_id}.ome.zarr"))

    def _task(self, function: Any, job: _Job, args: tuple[Any, ...]) -> Task:
        deadlines = {"open_deadline_s": self.config.open_deadline_s, "read_deadline_s": self.config.read_deadline_s}
        return Task(function, args, job.entry.source, **deadlines)

    def _fail(self, job: _Job, error: Exception) -> None:
        if job.result is None:
            known = isinstance(error, SegcoreError)
            message = str(error) if known else f"{job.entry.source}: {type(error).__name__}: {error}"
            job.fail(" ".join(message.split()))
            self.progress.note(" ".join(message.split()))


def _check_owner(entry: Entry, owner: str) -> None:
    """Refuse a source whose image id another one has."""
    if owner != canonical_uri(entry.source):
        raise SourceError(f"{entry.source}: its image id {entry.image_id} is that of {owner}; rename the file")


def _mark(entry: Entry) -> str:
    return f"images/{entry.image_id}.ome.zarr/zarr.json"
