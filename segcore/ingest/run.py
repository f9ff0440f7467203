"""Run: one call of ingest; from what the sources are to how each one ends.

entries -> look -> probe (children) -> begin (threads) -> windows (children) -> finish (threads)
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext
from threading import BoundedSemaphore
from typing import Any, TypeVar

from segcore.config import IngestConfig
from segcore.errors import SegcoreError
from segcore.geometry import Window
from segcore.ingest.agreement import Agreement
from segcore.ingest.check import summary
from segcore.ingest.entries import Entry, list_entries
from segcore.ingest.finish import finish
from segcore.ingest.job import Job
from segcore.ingest.layout import all_specs, estimate, image_spec, plan_of, windows_of
from segcore.ingest.look import check_owner, is_folder, look, settle, taken_apart, vanished
from segcore.ingest.recipe import Recipe
from segcore.ingest.settings import options_of, settings_of
from segcore.ingest.splits import given_splits, in_splits
from segcore.ingest.tasks import Settings, copy_source, list_members, probe, source_digest, write_windows
from segcore.isolation import ByName, ChildPool, Crew, Outcome, Task
from segcore.measure import Peak, num_cores
from segcore.progress import SILENT, Progress
from segcore.results import StageResult
from segcore.sources.stamps import canonical_uri
from segcore.store import Staging, Workspace, withdraw_labels
from segcore.until import Until

LABELS = {"target", "target_instances", "valid", "foreground"}
"""What ingest makes beside the image."""

THREADS = 8
"""Images that are looked at, begun and finished side by side: mostly they wait for the disk."""

MAX_NAMED = 10
"""Sources that are gone and noted by name, night after night; all of them are in the result."""

MANY_SHARDS = 4
"""More make an image a large one."""

KeyT = TypeVar("KeyT")


def ingest(config: IngestConfig, progress: Progress = SILENT, pool: Crew | None = None) -> StageResult:
    """Bring sources into the workspace.

    Args:
        config: what, where to and how.
        progress: hears shards, and of sources that are gone; those that fail are in the result.
        pool: processes to work with, for a caller that has some (dask workers); children of its own by default.

    Returns:
        One item per source, in the order given; `paths` are the images.

    Raises:
        ConfigError: if the sources, the manifest or the class table make no sense.
        StoreError: if the workspace cannot be used.
    """
    with Peak() as peak:
        entries = list_entries(config)
        workspace = None if config.dry_run else Workspace.open(config.workspace, create=True)
        with running(config, workspace, progress, pool) as run:
            jobs = run.jobs_of(entries)
            try:
                run.look_all(jobs)
                run.probe_all(jobs)
                run.write_all(jobs)
            finally:
                run.stop(jobs)
            items = tuple(job.result for job in jobs if job.result is not None)
            details = run.details(jobs) | summary(items)
    paths = tuple(item.path for item in items if item.path)
    return StageResult(
        stage="ingest", items=items, paths=paths, seconds=peak.seconds, peak_mib=peak.mib, details=details
    )


@contextmanager
def running(
    config: IngestConfig,
    workspace: Workspace | None,
    progress: Progress,
    pool: Crew | None = None,
    settings: Settings | None = None,
) -> Iterator["Run"]:
    """A run with its threads, and with children of its own where it is given none; arguments as those of `Run`."""
    with ExitStack() as opened:
        children = pool or opened.enter_context(ChildPool(config.processes or num_cores(), config.memory_mib))
        threads = opened.enter_context(ThreadPoolExecutor(THREADS, thread_name_prefix="segcore-ingest"))
        yield Run(config, workspace, children, threads, progress, settings)


class Run:
    """One call of `ingest`.

    Args:
        config: what, where to and how.
        workspace: None = only say what would be done.
        pool: the children.
        threads: that begin and finish images.
        progress: hears shards.
        settings: how files are opened; those that the config asks for by default. Given, they are those of images that
            stand already: what is left of them is written, and no plan is replaced.
    """

    def __init__(
        self,
        config: IngestConfig,
        workspace: Workspace | None,
        pool: Crew,
        threads: ThreadPoolExecutor,
        progress: Progress,
        settings: Settings | None = None,
    ) -> None:
        self.config, self.workspace, self.pool, self.threads, self.progress = config, workspace, pool, threads, progress
        self.large = BoundedSemaphore()
        """Held by the one large image that is being finished."""
        self.again = settings is not None
        self.until = Until(config.until)
        self.settings = settings or settings_of(config)
        self.options = options_of(config, self.settings)
        self.named_settings = self.settings
        """Of shapes: with the classes that all images agreed on."""

    # What there is to do

    def jobs_of(self, entries: Sequence[Entry]) -> list[Job]:
        """One job per image, in the order given: folders of several are taken apart, and groups have their split."""
        folders = [entry for entry in entries if is_folder(entry)]
        parts: dict[Entry, list[Entry]] = {}
        for entry, outcome in self._in_children(
            (entry, self._task(list_members, entry, self.settings)) for entry in folders
        ):
            if outcome.error is None:  # what cannot be listed fails by name, when it is opened
                parts[entry] = taken_apart(entry, outcome.result, self.config.ids)
        images = [image for entry in entries for image in parts.get(entry, [entry])]
        given_splits(images)
        if self.config.split is not None:
            images = in_splits(images, self.config.split, self.config.split_seed, self.workspace)
        return [Job(entry) for entry in images]

    def look_all(self, jobs: Sequence[Job]) -> None:
        """Find what is new or changed; the others are skipped, or have failed."""
        owners: dict[str, str] = {}
        self.progress.start("open", len(jobs), "sources")
        for job in jobs:
            owner = owners.setdefault(job.entry.image_id, canonical_uri(job.entry.source))
            self._attempt(job, check_owner, job.entry, owner)
        found = [job for job in jobs if job.result is None]
        list(
            self.threads.map(
                lambda job: self._attempt(job, look, job, self.workspace, self.config, self.options), found
            )
        )
        touched = [job for job in found if job.touched is not None and job.result is None]
        for job, outcome in self._in_children((job, self._task(source_digest, job.entry)) for job in touched):
            if outcome.error is not None:
                self._fail(job, outcome.error)
            elif (
                self.workspace is not None and settle(job, self.workspace, outcome.result) and not self.config.overwrite
            ):
                job.skip(reason="unchanged")

    def probe_all(self, jobs: Sequence[Job]) -> None:
        """Open every source that is new or changed; those that cannot be opened have failed."""
        ahead = [job for job in jobs if job.result is None]
        self.progress.advance(len(jobs) - len(ahead))
        for job, outcome in self._in_children((job, self._task(probe, job.entry, self.settings)) for job in ahead):
            if outcome.error is not None:
                self._fail(job, outcome.error)
            else:
                job.probe = outcome.result
                if self.config.dry_run:
                    job.skip(**estimate(outcome.result, self.config, self.config.processes or num_cores()))
            self.progress.advance()
        self._agree_on_classes(jobs)

    def _agree_on_classes(self, jobs: Sequence[Job]) -> None:
        """Without a class table, all images have the classes of all; one whose ids mean others has failed."""
        if self.config.classes is not None or self.again:
            return
        agreement = Agreement([job.probe for job in jobs if job.probe is not None])
        target = self.settings.target.model_copy(update={"table": agreement.table})
        self.named_settings = self.settings.model_copy(update={"target": target})
        for job in jobs:
            if job.probe is not None and job.result is None:
                job.probe = self._attempt(job, agreement.applied, job.probe) or job.probe

    def _settings_of(self, job: Job) -> Settings:
        """With the names of all, where it is they that get ids."""
        is_named = job.probe is not None and job.probe.target_kind == "shapes"
        return self.named_settings if is_named else self.settings

    def _recipe(self, job: Job) -> Recipe:
        return Recipe.of(job.entry, self._settings_of(job), self.config)

    def stop(self, jobs: Iterable[Job]) -> None:
        """End what is still under way, before the leases are given back: it must not outlive them."""
        self.threads.shutdown(cancel_futures=True)
        for job in jobs:
            job.close()

    # Doing it

    def write_all(self, jobs: Sequence[Job]) -> None:
        """Write all windows, and finish each image when its last one is there."""
        ahead = [job for job in jobs if job.result is None]
        for job in ahead:
            assert job.probe is not None
            job.num_shards = image_spec(job.probe, self.config).num_shards
        if not ahead:
            return
        self.progress.start("ingest", sum(job.num_shards for job in ahead), "shards")
        finishing: list[Future[Any]] = []

        def heard(_: Task, amount: int) -> None:
            if amount:  # 0 is a sign of life alone
                self.progress.advance(amount)

        for job, outcome in self._in_children(self._tasks(ahead, finishing), on_beat=heard):
            job.take(outcome)
            if outcome.error is not None:
                self._fail(job, outcome.error)
            elif outcome.task.function is write_windows and outcome.result.quarters:
                job.gathered.append(self.threads.submit(self._attempt, job, job.gather, outcome.result.quarters))
            if job.awaited == 0 and job.result is None:
                finishing.append(self.threads.submit(self._finish, job))
        for future in finishing:
            future.result()

    def _tasks(self, ahead: Sequence[Job], finishing: list[Future[Any]]) -> Iterator[tuple[Job, Task]]:
        """The tasks of all jobs, image by image; the next images are begun meanwhile."""
        side = 4 if len(ahead) >= 2 * self.processes else None
        for job, tasks in _read_ahead(self.threads, lambda job: self._begin(job, side), ahead):
            job.awaited = len(tasks)
            if not tasks and job.result is None:
                finishing.append(self.threads.submit(self._finish, job))
            for at, task in enumerate(tasks):
                if self.until.is_over and job.result is None:
                    job.leave()
                if job.result is not None:
                    job.spare(len(tasks) - at)
                    break
                yield job, task

    def _begin(self, job: Job, side: int | None) -> list[Task]:
        """Plan an image and its labels; the tasks that are left to do."""
        if self.until.is_over:
            job.leave()
            return []
        groups = self._attempt(job, self._stage, job, side)
        if groups is None or self.workspace is None:
            return []
        if job.unchanged and all(staging.finished for staging in job.stagings.values()):
            job.skip(reason="unchanged")
            self.progress.advance(job.num_shards)
            return []
        names = tuple(name for name, staging in job.stagings.items() if not staging.finished and name != "foreground")
        uri, entry = self.workspace.uri, job.entry
        tasks = [self._task(write_windows, entry, uri, self._settings_of(job), names, group) for group in groups]
        if self.config.copy_source and not job.stagings["image"].finished:
            tasks.insert(0, self._task(copy_source, entry, uri))
        elif job.digest is None:
            tasks.append(self._task(source_digest, entry))
        return tasks

    def _stage(self, job: Job, side: int | None) -> list[tuple[Window, ...]]:
        """Begin image and labels; the windows of the image in which anything is left to do."""
        assert self.workspace is not None
        assert job.probe is not None
        specs = all_specs(job.probe, self.config)
        for name, spec in specs.items():
            job.stagings[name] = Staging.begin(
                self.workspace,
                job.entry.image_id,
                name,
                plan_of(name, job.probe, job.request, self.config),
                spec,
                overwrite=not self.again and (self.config.overwrite or name != "image"),
                supersede=() if self.again else ("source",),
            )
            withdraw_labels(self.workspace, job.entry.image_id, _unwanted(name, job.stagings[name]) - specs.keys())
        axes, shape = job.probe.info.axes, job.probe.info.shape
        return windows_of(job.stagings, axes, shape[axes.index("c")], side, self.processes)

    def _finish(self, job: Job) -> None:
        assert self.workspace is not None
        # Small images are many, and wait for the disk; of large ones a few shards each are in memory.
        with self.large if job.num_shards > MANY_SHARDS else nullcontext():
            wait(job.gathered)
            if job.result is not None:
                return
            path = self._attempt(job, finish, self.workspace, job, self._recipe(job))
        if path is not None:
            job.done(path)

    # What all of it shares

    @property
    def processes(self) -> int:
        return self.pool.processes

    def _in_children(
        self, named: Iterable[tuple[KeyT, Task]], on_beat: Callable[[Task, int], None] | None = None
    ) -> Iterator[tuple[KeyT, Outcome]]:
        """Run tasks in the children; each outcome comes with what its task belongs to."""
        keys: dict[int, KeyT] = {}

        def tasks() -> Iterator[Task]:
            for key, task in named:
                keys[id(task)] = key
                yield task

        for outcome in self.pool.run(tasks(), on_beat=on_beat):
            yield keys.pop(id(outcome.task)), outcome

    def _task(self, function: ByName, entry: Entry, *args: Any) -> Task:
        deadlines = {"open_deadline_s": self.config.open_deadline_s, "read_deadline_s": self.config.read_deadline_s}
        return Task(function, (entry, *args), entry.source, **deadlines)

    def _attempt(self, job: Job, function: Callable[..., KeyT], *args: Any) -> KeyT | None:
        """Call it; whatever is raised is this source's failure, and the others go on."""
        try:
            return function(*args)
        except Exception as error:  # noqa: BLE001 - as the docstring says
            self._fail(job, error)
            return None

    def _fail(self, job: Job, error: Exception) -> None:
        if job.result is None:
            known = isinstance(error, SegcoreError)
            message = str(error) if known else f"{job.entry.source}: {type(error).__name__}: {error}"
            job.fail(" ".join(message.split()))  # not noted too: the result names it, whoever shows that

    def details(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """What concerns the call as a whole: how many images each split has, and sources that are gone."""
        found: dict[str, Any] = {}
        if self.config.split is not None:
            splits = [job.entry.split for job in jobs]
            found["split"] = {split: splits.count(split) for split in ("train", "val", "test") if split in splits}
        if self.workspace is not None:
            present = {job.entry.image_id: canonical_uri(job.entry.source) for job in jobs}
            try:
                gone = dict(sorted(vanished(self.workspace, self.config, present)))
            except SegcoreError as error:  # what was ingested stays ingested
                self.progress.note(f"sources that vanished are not known: {error}")
                gone = {}
            for source, image_id in list(gone.items())[:MAX_NAMED]:
                self.progress.note(f"{source}: is gone; its image {image_id} stays in the workspace")
            if len(gone) > MAX_NAMED:
                self.progress.note(f"gone too: {len(gone) - MAX_NAMED} more; their images stay in the workspace")
            if gone:
                found["vanished"] = list(gone)
        return found


def _unwanted(name: str, staging: Staging) -> set[str]:
    """Labels that go if an array is made anew, or stays, and they are not asked for.

    Of pixels that stay, what was given for them stays too; only what was found in them can be unwanted.
    """
    if name == "image":
        return {"foreground"} if staging.finished else LABELS
    return {"target_instances"} if name == "target" and not staging.finished else set()


def _read_ahead(
    threads: ThreadPoolExecutor, function: Callable[[Job], list[Task]], jobs: Sequence[Job]
) -> Iterator[tuple[Job, list[Task]]]:
    """Every job and what the function gives for it, in order; as many are under way as there are threads, halved."""
    under_way: deque[tuple[Job, Future[list[Task]]]] = deque()
    for job in jobs:
        under_way.append((job, threads.submit(function, job)))
        if len(under_way) > THREADS // 2:
            first, future = under_way.popleft()
            yield first, future.result()
    while under_way:
        first, future = under_way.popleft()
        yield first, future.result()
