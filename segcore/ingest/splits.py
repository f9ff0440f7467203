"""Splits: train, val or test for every group (a patient, a scene), so that no group lies on both sides.

    groups of this call --> those the workspace knows keep their split --> the others fill up what lacks most

A group's split is one small create-only object, so the same group gets the same split in every later call.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from segcore.config import parse_shares
from segcore.errors import StoreError
from segcore.ingest.entries import Entry
from segcore.sources.stamps import canonical_uri
from segcore.store import Workspace, seal, unseal

SPLITS = ("train", "val", "test")
THREADS = 8
"""Requests side by side."""


def assign(groups: Sequence[str], shares: Sequence[float], seed: int, known: dict[str, str]) -> dict[str, str]:
    """A split for every group.

    New groups come in an order that only their names and the seed decide; each goes where most is lacking, so that
    the shares are met as closely as whole groups allow.

    Args:
        groups: names, each once or more.
        shares: of train, val and test, summing to 1.
        seed: another one, another order.
        known: splits that stand already.

    Returns:
        The split of every group.
    """
    distinct = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    found = {group: known[group] for group in distinct if group in known}
    counts = Counter(found.values())
    for group in distinct:
        if group not in found:
            lacking = {
                split: share * len(distinct) - counts[split] for split, share in zip(SPLITS, shares, strict=True)
            }
            found[group] = max(SPLITS, key=lambda split: lacking[split])
            counts[found[group]] += 1
    return found


def in_splits(entries: Sequence[Entry], shares: str, seed: int, workspace: Workspace | None) -> list[Entry]:
    """The entries, each with its split: its own, or that of its group.

    Args:
        entries: sources; one without a group is a group of its own.
        shares: as `parse_shares` takes them.
        seed: of the assignment.
        workspace: knows, and remembers, the splits of groups; None = only say what they would be.
    """
    groups = [entry.group or canonical_uri(entry.source) for entry in entries]
    given = {group: entry.split for group, entry in zip(groups, entries, strict=True) if entry.split}
    known = {} if workspace is None else known_splits(workspace, groups)
    found = assign(groups, parse_shares(shares), seed, {**known, **given})
    if workspace is not None:
        found |= {group: keep(workspace, group, found[group]) for group in found if group not in known | given}
    return [
        entry.model_copy(update={"split": entry.split or found[group]})
        for group, entry in zip(groups, entries, strict=True)
    ]


def known_splits(workspace: Workspace, groups: Sequence[str]) -> dict[str, str]:
    """The splits that the workspace holds of these groups."""
    found, distinct = {}, sorted(set(groups))
    with ThreadPoolExecutor(THREADS) as threads:
        stored = list(threads.map(lambda group: workspace.objects.get(_key(group)), distinct))
    for group, data in zip(distinct, stored, strict=True):
        if data is not None:
            try:
                found[group] = str(unseal(data)["split"])
            except (ValueError, KeyError, TypeError) as error:
                where = workspace.describe(_key(group))
                raise StoreError(f"{where}: damaged; delete it, and give the group's split in a manifest") from error
    return found


def keep(workspace: Workspace, group: str, split: str) -> str:
    """Write down a group's split; the one that stands, where another process was first."""
    if workspace.objects.put_new(_key(group), json.dumps(seal({"split": split})).encode()):
        return split
    return known_splits(workspace, [group])[group]


def _key(group: str) -> str:
    """Names of groups can be patients' names: only their hash becomes a key."""
    return f"splits/{hashlib.sha256(group.encode()).hexdigest()[:32]}.json"
