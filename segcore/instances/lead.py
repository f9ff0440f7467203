"""Lead: a crew -> *the objects of several images*; small ones whole, each by one process, larger ones by parts.

    begin (plan, lease) -> parts of the first pass -> crew; all fragments -> ids, kept
                        -> parts of the second pass -> crew; finish (coarsest levels, metadata)

As many images are begun as the crew is ahead.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from segcore.components.cells import ahead
from segcore.errors import SegcoreError
from segcore.geometry import Ints, Window
from segcore.instances.helper import Part
from segcore.instances.make import Begun, Made
from segcore.instances.passes import opened_threads
from segcore.instances.stitch import Numbering, stitched
from segcore.isolation import ByName, Crew, Task
from segcore.progress import Progress
from segcore.store import UNIT_SHARDS

FIND, WRITE, WHOLE = (ByName("segcore.instances.helper", name) for name in ("find", "write", "whole"))
PART_SHARDS = UNIT_SHARDS**2
"""Of a part, about; an image of no more is one."""

Result = Made | Exception
FoundT = TypeVar("FoundT")


class Lead:
    """Hands out parts.

    Args:
        crew: who does them.
        begin: an image, by its id.
        progress: hears of shards, each twice.
    """

    def __init__(self, crew: Crew, begin: Callable[[str], Begun], progress: Progress) -> None:
        self._crew, self._begin, self._progress = crew, begin, progress

    def run(self, image_ids: Iterable[str]) -> dict[str, Result]:
        """What became of each.

        Raises:
            SegcoreError: if the crew itself is lost.
        """
        found, large = self._whole(image_ids)
        for image_id in large:
            begun = tried(self._begin, image_id)
            if isinstance(begun, Exception):
                found[image_id] = begun
                continue
            with begun:
                found[image_id] = self._by_parts(begun)
        return found

    def _whole(self, image_ids: Iterable[str]) -> tuple[dict[str, Result], list[str]]:
        """What became of the small ones, and which are large."""
        found: dict[str, Result] = {}
        large: list[str] = []
        open_: dict[str, Begun] = {}

        def tasks() -> Iterator[Task]:
            for image_id in image_ids:
                begun = tried(self._begin, image_id)
                if isinstance(begun, Exception):
                    found[image_id] = begun
                    continue
                if begun.made is None and begun.num_shards <= PART_SHARDS:
                    open_[image_id] = begun
                    yield Task(WHOLE, (_part(begun, []),), image_id)
                    continue
                begun.close()
                if begun.made is not None:
                    found[image_id] = begun.made
                    self._progress.advance(2 * begun.num_shards)
                else:
                    large.append(image_id)

        try:
            for outcome in self._crew.run(tasks()):
                with open_.pop(outcome.task.label) as begun:
                    error = outcome.error
                    found[begun.image_id] = tried(begun.finish, *outcome.result) if error is None else error
                    self._progress.advance(2 * begun.num_shards)
        finally:
            for begun in open_.values():
                begun.close()
        return found, large

    def _by_parts(self, begun: Begun) -> Result:
        unknown = begun.shards.unknown()
        self._progress.advance(begun.num_shards - len(unknown))
        spec = begun.staging.spec
        units = map(spec.units.window, spec.units.indices())
        error = self._done(FIND, begun, ((unit, unknown.intersection(spec.grid(0).touching(unit))) for unit in units))
        if error is not None:
            return error
        numbering = tried(_stitched, begun)
        if isinstance(numbering, Exception):
            return numbering
        left = [(unit, begun.staging.pending(unit)) for unit in begun.staging.windows()]
        num_left = sum(len(shards) for _, shards in left)
        self._progress.advance(begun.num_shards - num_left)
        failed: list[Exception] = []

        def with_ids() -> Iterator[tuple[Window, Iterable[Ints]]]:
            for unit, shards in left:
                if (kept := tried(_keep_ids, begun, numbering, unit, shards)) is not None:
                    failed.append(kept)
                    return
                yield unit, shards

        if (error := self._done(WRITE, begun, with_ids())) is not None:
            failed.append(error)
        return failed[0] if failed else tried(begun.finish, numbering.count, num_left)

    def _done(
        self, function: ByName, begun: Begun, units: Iterable[tuple[Window, Iterable[Ints]]]
    ) -> SegcoreError | None:
        """Have some shards of some work units done; what failed, if anything did."""
        for outcome in self._crew.run(Task(function, (part,), begun.image_id) for part in _parts(begun, units)):
            if outcome.error is not None:
                return outcome.error
            (part,) = outcome.task.args
            self._progress.advance(len(part.shards))
        return None


def tried(function: Callable[..., FoundT], *arguments: Any) -> FoundT | Exception:
    """What a function returns or raises: one bad image never stops the others; it is reported."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - as said
        return error


def _parts(begun: Begun, units: Iterable[tuple[Window, Iterable[Ints]]]) -> Iterator[Part]:
    """Work units in which anything is left, small ones together."""
    found: list[tuple[Window, tuple[Ints, ...]]] = []
    for unit, shards in units:
        own = tuple(sorted(shards))
        if own and sum(len(each) for _, each in found) + len(own) > PART_SHARDS and found:
            yield _part(begun, found)
            found = []
        if own:
            found.append((unit, own))
    if found:
        yield _part(begun, found)


def _part(begun: Begun, units: list[tuple[Window, tuple[Ints, ...]]]) -> Part:
    source = begun.shards.source
    where = begun.staging.workspace.uri, begun.image_id, source.mask.name, source.mask.digest
    return Part(*where, source.rule, begun.shards.plan, tuple(units))


def _stitched(begun: Begun) -> Numbering:
    order = list(begun.staging.spec.grid(0).indices())
    with opened_threads() as threads:
        fragments = (found for _, found in ahead(threads, begun.shards.known_or_made, order))
        return stitched(zip(order, fragments, strict=True), begun.shards.source.rule.min_px)


def _keep_ids(begun: Begun, numbering: Numbering, unit: Window, shards: Iterable[Ints]) -> None:
    dtype, shards = begun.staging.spec.dtype, list(shards)
    with opened_threads() as threads:
        firsts = (found.first for _, found in ahead(threads, begun.shards.known_or_made, shards))
        begun.shards.keep_ids(unit, {s: numbering.ids(first, dtype) for s, first in zip(shards, firsts, strict=True)})
