"""The check: what the targets of a run hold, so that a wrong one is seen before a model learns from it.

shard of target -> pixels per id, in its ledger record -> summed over the image -> over the run
shard of target_instances -> object ids, in its ledger record -> counted once over the image -> over the run
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo
from segcore.results import ItemResult

MAX_NOTES = 10
"""How many notes the summary shows; each source has its own in the JSON."""
BACKGROUND = 0
IGNORED = "ignored"
EMPTY = "the target is empty"

NAMELESS = re.compile(r"class [0-9]+")
"""A class that is there only because ids run up to another's; worth no line where it has no pixel."""

Counts = dict[int, int]


def noted(ids: npt.NDArray[Any]) -> dict[str, Any]:
    """The note of one shard of class ids: its pixels by id."""
    counts = np.bincount(ids.ravel())
    return {"pixels": {str(number): int(counts[number]) for number in np.flatnonzero(counts)}}


def summed(notes: Iterable[Mapping[str, Any]]) -> Counts | None:
    """Pixels by id of a whole target; None if a shard was written without counting."""
    total: Counts = {}
    for note in notes:
        if "pixels" not in note:
            return None
        for number, count in note["pixels"].items():
            total[int(number)] = total.get(int(number), 0) + count
    return dict(sorted(total.items()))


def noted_objects(numbers: npt.NDArray[np.uint32]) -> dict[str, Any]:
    """The note of one shard of object ids: those that occur, as [first, last] of each row of them without a gap."""
    found = np.unique(numbers)
    found = found[found > 0].astype(np.int64)
    starts = np.flatnonzero(np.diff(found, prepend=-1) > 1)
    ends = np.append(starts[1:], len(found)) - 1
    return {"objects": [[int(found[start]), int(found[end])] for start, end in zip(starts, ends, strict=False)]}


def num_objects(notes: Iterable[Mapping[str, Any]]) -> int | None:
    """How many objects lie in a whole target, each once; None if a shard was written without a note of them."""
    ranges: list[list[int]] = []
    for note in notes:
        if "objects" not in note:
            return None
        ranges.extend(note["objects"])
    total, counted_to = 0, 0
    for first, last in sorted(ranges):
        total += max(0, last - max(first - 1, counted_to))
        counted_to = max(counted_to, last)
    return total


def described(
    counts: Counts | None, classes: Sequence[ClassInfo], notes: Sequence[str], objects: int | None = None
) -> dict[str, Any]:
    """What is said of one image's target.

    Returns:
        `target`: `pixels` and `shares` by class name, with `ignored` for what counts as nothing, and the number of
        `objects` where it is known; and `notes`, where there is anything to note.
    """
    names = {found.id: found.name for found in classes}
    said: dict[str, Any] = {}
    notes = list(notes)
    if counts is not None:
        pixels = dict.fromkeys([*names.values(), IGNORED], 0)
        for number, count in counts.items():
            pixels[names.get(number, IGNORED)] += count
        said["target"] = {"pixels": pixels, "shares": _shares(pixels)}
        if objects is not None:
            said["target"]["objects"] = objects
        if not any(number in names for number in counts if number != BACKGROUND):
            only = f"'{names[BACKGROUND]}'" if BACKGROUND in counts and BACKGROUND in names else "ignored pixels"
            notes.append(f"{EMPTY}: nothing but {only}")
    return said | ({"notes": notes} if notes else {})


def summary(items: Sequence[ItemResult]) -> dict[str, Any]:
    """The check of a whole run: shares of the classes over all targets that it wrote, and what is to be noted."""
    found = [item for item in items if "target" in item.details]
    noted_items = [item for item in items if item.details.get("notes")]
    said: dict[str, Any] = {}
    if found:
        pixels: dict[str, int] = {}
        for item in found:
            for name, count in item.details["target"]["pixels"].items():
                pixels[name] = pixels.get(name, 0) + count
        pixels = {name: count for name, count in pixels.items() if count or not NAMELESS.fullmatch(name)}
        ordered = {name: pixels[name] for name in sorted(pixels, key=lambda name: name == IGNORED)}
        num_empty = sum(any(note.startswith(EMPTY) for note in item.details.get("notes", ())) for item in found)
        said["targets"] = {"written": len(found), "empty": num_empty}
        counted = [item.details["target"]["objects"] for item in found if "objects" in item.details["target"]]
        said["targets"] |= {"objects": sum(counted)} if counted else {}
        said["targets"]["shares"] = _shares(ordered)
    if noted_items:
        shown = {str(item.source): "; ".join(item.details["notes"]) for item in noted_items[:MAX_NOTES]}
        rest = len(noted_items) - MAX_NOTES
        said["notes"] = shown | ({"and more": f"{rest} sources, in the JSON"} if rest > 0 else {})
    return said


def _shares(pixels: Mapping[str, int]) -> dict[str, float]:
    total = max(sum(pixels.values()), 1)
    return {name: count / total for name, count in pixels.items()}
