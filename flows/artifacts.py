"""Artifacts: what Prefect's pages show of a run: progress, a table of images, a summary with a picture.

All of it is best effort: a server that is down or slow costs a log line, never a stage.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.logging import get_run_logger

from flows.console import named_error
from flows.curve import Rows, curve_key, curve_markdown
from flows.tables import chosen
from segcore.results import StageResult, StageTold, failures

UPDATE_EVERY_S = 2.0
"""Between two updates of a progress artifact."""

CURVE_EVERY_S = 10.0
"""Between two pictures of a training's curve."""

JOIN_S = 5.0
"""How long a finished stage waits for the last update."""

MAX_ROWS = 1000
"""Images in a table artifact; Prefect refuses large ones, the report has all."""

ERROR = "error"
"""The last column of the table of images: the first reason."""

MAX_LISTED = 50
"""Failures, and files of a stage, in a summary: a page that a person reads."""


class BestEffort:
    """Calls Prefect; the first failure is logged, none is raised."""

    def __init__(self) -> None:
        self._logger = get_run_logger()
        self._said = False

    def __call__(self, call: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        try:
            return call(*args, **keywords)
        except Exception as error:  # noqa: BLE001 - whatever the server does, the stage goes on
            if not self._said:
                self._logger.warning("Prefect's pages will lack artifacts of this run: %s", error)
                self._said = True
            return None


class FlowProgress:
    """A stage's progress as a Prefect artifact and log lines, from a thread of its own.

    Stages call it from many threads; none of them ever waits for the server.
    """

    def __init__(self, stage: str, role: str = "stage") -> None:
        self._key = f"progress-{stage if role == 'stage' else role}"
        self._logger = get_run_logger()
        self._best_effort = BestEffort()
        self._lock = threading.Lock()
        self._text, self._unit, self._status = stage, "", ""
        self._total = self._done = 0
        self._shown: tuple[float, str] | None = None
        self._artifact: Any = None
        self._curves: dict[str, Rows] = {}
        self._pages: dict[str, Any] = {}
        self._drawn_at = -CURVE_EVERY_S
        self._stop = threading.Event()
        # The artifact belongs to this run, which a new thread would not know of.
        context = contextvars.copy_context()
        self._updater = threading.Thread(target=context.run, args=(self._update_until_stopped,), daemon=True)

    def __enter__(self) -> Self:
        self._updater.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._done = self._total
        self._stop.set()
        self._updater.join(JOIN_S)

    def start(self, stage: str, total: int, unit: str) -> None:
        with self._lock:
            self._text, self._total, self._unit, self._done, self._status = stage, total, unit, 0, ""
        self._logger.info("%s: %d %s", stage, total, unit)

    def advance(self, amount: int = 1) -> None:
        with self._lock:
            self._done += amount

    def note(self, message: str) -> None:
        self._logger.info("%s", message)

    def status(self, text: str) -> None:
        with self._lock:
            self._status = text

    def curve(self, name: str, rows: Rows) -> None:
        with self._lock:
            self._curves[name] = rows

    def _update_until_stopped(self) -> None:
        while not self._stop.wait(UPDATE_EVERY_S):
            self._update()
            if time.monotonic() - self._drawn_at >= CURVE_EVERY_S:
                self._draw()
        self._update()
        self._draw()

    def _draw(self) -> None:
        """Show the curves that are new since the last time."""
        with self._lock:
            curves, self._curves = self._curves, {}
        for name, rows in curves.items():
            self._best_effort(self._show, name, curve_markdown(name, rows))
            self._drawn_at = time.monotonic()

    def _show(self, name: str, page: str) -> None:
        """One artifact for each run, renewed in place: versions by the hundred would fill the server."""
        if name in self._pages:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._pages[name], ArtifactUpdate(data=page))
        else:
            about = "Loss and scores of the training, by step"
            self._pages[name] = create_markdown_artifact(page, curve_key(name), about)

    def _update(self) -> None:
        with self._lock:
            percent = 100 * min(self._done / self._total, 1.0) if self._total else 0.0
            text = f"{self._text}: {self._done} of {self._total} {self._unit}"
            state = (percent, f"{text} · {self._status}" if self._status else text)
        if self._total == 0 or state == self._shown:
            return
        self._shown = state
        if self._artifact is None:
            self._artifact = self._best_effort(create_progress_artifact, percent, self._key, state[1])
        else:
            self._best_effort(update_progress_artifact, self._artifact, percent, state[1])


def escaped(text: Any) -> str:
    """A name from outside, so that markdown shows it and does not obey it."""
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{char}" if char in "\\`*_{}[]()#+!|~" else char for char in plain)


def image_rows(results: Sequence[StageResult]) -> list[dict[str, Any]]:
    """One row per source or image, the stages' states and the image's scores side by side, what went wrong last: a long
    line would push all else off the page.

    Of more than the table can hold, those that failed are in it.
    """
    rows: dict[str, dict[str, Any]] = {}
    for result in results:
        for item in result.items:
            name = item.image or item.source or "?"
            row = rows.setdefault(name, {"image": name})
            row[result.stage] = item.state
            row |= {key: number(value) for key, value in chosen(item.scores or {}).items()}
            if item.error is not None:
                row.setdefault(ERROR, item.error)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    columns.sort(key=lambda column: column == ERROR)
    failed = {item.image or item.source for item in failures(results)} if len(rows) > MAX_ROWS else set()
    shown = sorted(rows.values(), key=lambda row: row["image"] not in failed)[:MAX_ROWS]  # in their order, failed first
    return [{column: row.get(column, "") for column in columns} for row in shown]


def trial_rows(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per trial of a study, its settings in columns."""
    return [
        {"trial": row["trial"], "state": row["state"], "score": number(row["score"]), **row["params"]}
        for row in details.get("trials", [])
    ][:MAX_ROWS]


def named_failures(results: Iterable[StageResult]) -> list[tuple[str, str]]:
    """What failed in earlier stages, by image id (or source) and error, for the report's `failures`."""
    return [(item.image or item.source or "?", item.error or "") for item in failures(results)]


def stages_told(results: Iterable[StageResult]) -> list[dict[str, Any]]:
    """What ran, for the report's `stages`."""
    return [StageTold.of(result).model_dump() for result in results]


def first_picture(workspace: str, results: Sequence[StageResult]) -> str | None:
    """The first mask of this run over its image, the refined one if it was; None where none can be read."""
    from flows.picture import thumbnail

    for result in reversed(results):
        masked = [item for item in result.items if item.state != "failed" and item.image]
        if result.stage in ("predict", "refine") and masked:
            new = next((item for item in masked if item.state == "done"), masked[0])
            picture: str | None = BestEffort()(thumbnail, workspace, result.details["name"], new.image)
            return picture
    return None


def publish(results: list[StageResult], picture: str | None = None, flow: str = "job") -> None:
    """Show a flow's results on its page: a table of images, and a summary with a picture and what to open.

    Args:
        results: of the stages that ran, in order.
        picture: a small image as a `data:` URI, or None.
        flow: begins the artifacts' keys, so that under each key there is one flow's history, night after night.
    """
    best_effort = BestEffort()
    if rows := image_rows(results):
        best_effort(create_table_artifact, rows, f"{flow}-images", "Every source and image, with its state and scores")
    if rows := [row for result in results if result.stage == "tune" for row in trial_rows(result.details)]:
        best_effort(
            create_table_artifact, rows, f"{flow}-trials", "Every trial of the study, with its score and settings"
        )
    best_effort(create_markdown_artifact, summary(results, picture), f"{flow}-summary", "What this run did")


def summary(results: list[StageResult], picture: str | None = None) -> str:
    """Markdown: the picture, one line per stage, what failed, the scores, what to open."""
    lines = ["# segcore"]
    if picture:
        lines += ["", f"![mask over image]({picture})"]
    lines += ["", "| stage | done | skipped | left | failed | seconds | peak MiB |", "|" + " --- |" * 7]
    for result in results:
        states = [item.state for item in result.items]
        counts = [str(states.count(state)) if states else "" for state in ("done", "skipped", "left", "failed")]
        lines.append(f"| {result.stage} | {' | '.join(counts)} | {result.seconds:.1f} | {result.peak_mib:.0f} |")
    if failed := failures(results):
        lines += ["", "## Failed", *(f"- {escaped(named_error(item))}" for item in failed[:MAX_LISTED]), *_rest(failed)]
    for result in results:
        if result.stage == "score" and result.scores and result.scores["num_scored"]:
            lines += ["", *class_table(result.scores)]
    opened = ("report", "measure", "export", "train", "tune")
    for paths in (list(result.paths) for result in results if result.stage in opened):
        if paths and "## Open" not in lines:
            lines += ["", "## Open"]
        lines += [f"- `{path}`" for path in paths[:MAX_LISTED]] + _rest(paths)
    return "\n".join(lines)


def _rest(listed: Sequence[Any]) -> list[str]:
    """How many more there are than a summary lists."""
    return [f"- and {len(listed) - MAX_LISTED} more"] if len(listed) > MAX_LISTED else []


def class_table(scores: Mapping[str, Any]) -> list[str]:
    """Markdown: IoU and Dice of each class, on the images of the test split where there are any."""
    splits = scores.get("per_split", {})
    part, which = (splits["test"], "of the test split") if "test" in splits else (scores, "of all images")
    rows = [
        f"| {escaped(name)} | {number(row.get('iou'))} | {number(row.get('dice'))} |"
        for name, row in part.get("per_class", {}).items()
    ]
    return [f"## Scores {which}", "", "| class | IoU | Dice |", "| --- | --- | --- |", *rows]


def number(value: float | None) -> str:
    """A score, or a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"
