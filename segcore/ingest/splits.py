"""Splits: train, val or test for every group (a patient, a scene), so that no group lies on both sides.

    groups of this call --> those the workspace knows keep their split --> the others fill up what lacks most in it

A group's split is one small create-only object, so the same group gets the same split in every later call, and the
shares are met over all calls.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from segcore.config import parse_shares
from segcore.errors import ConfigError, StoreError
from segcore.ingest.entries import Entry
from segcore.sources.stamps import canonical_uri
from segcore.store import Workspace, seal, unseal

SPLITS = ("train", "val", "test")
THREADS = 8
"""Requests side by side."""


def assign(
    groups: Sequence[str], shares: Sequence[float], seed: int, known: Mapping[str, str], others: Mapping[str, int]
) -> dict[str, str]:
    """A split for every group.

    New groups come in an order that only their names and the seed decide; each goes where most is lacking, so that
    the shares are met as closely as whole groups allow.

    Args:
        groups: names, each once or more.
        shares: of train, val and test, summing to 1.
        seed: another one, another order.
        known: splits of these groups that stand already.
        others: how many groups that are not among these each split has.

    Returns:
        The split of every group.
    """
    distinct = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    found = {group: known[group] for group in distinct if group in known}
    counts = Counter(found.values()) + Counter(others)
    total = len(distinct) + sum(others.values())
    for group in distinct:
        if group not in found:
            lacking = {split: share * total - counts[split] for split, share in zip(SPLITS, shares, strict=True)}
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

    Raises:
        ConfigError: if a group is given two splits, or another one than it has.
    """
    given = given_splits(entries)
    groups = [_group_of(entry) for entry in entries]
    known = {} if workspace is None else known_splits(workspace, groups)
    is_new = workspace is not None and not known.keys() >= set(groups)
    others = _count_others(workspace, groups) if workspace is not None and is_new else {}
    found = assign(groups, parse_shares(shares), seed, {**given, **known}, others)
    if workspace is not None:
        _check_given(workspace, given, found)
        found |= {group: keep(workspace, group, found[group]) for group in found if group not in known}
        _check_given(workspace, given, found)  # another process may have been first
    return [entry.model_copy(update={"split": found[group]}) for group, entry in zip(groups, entries, strict=True)]


def given_splits(entries: Sequence[Entry]) -> dict[str, str]:
    """The splits that a manifest gives, by group.

    Raises:
        ConfigError: if it gives one group two.
    """
    first: dict[str, Entry] = {}
    for entry in entries:
        if entry.split is None:
            continue
        before = first.setdefault(_group_of(entry), entry)
        if before.split != entry.split:
            raise ConfigError(
                f"manifest: group '{_group_of(entry)}' is in two splits: {before.split} ({before.source}) and "
                f"{entry.split} ({entry.source}); give all of a group the same"
            )
    return {group: str(entry.split) for group, entry in first.items()}


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
    if workspace.objects.put_new(_key(group), _content(split)):
        return split
    return known_splits(workspace, [group])[group]


def _count_others(workspace: Workspace, groups: Sequence[str]) -> Counter[str]:
    """How many further groups the workspace holds of each split: by the listing, as the sizes of the three differ."""
    sizes = {len(content): split for split in SPLITS for content in (_content(split), _unsealed(split))}
    assert len(sizes) == 2 * len(SPLITS), f"splits cannot be told by their sizes {sorted(sizes)}"
    ours = {_key(group) for group in groups}
    return Counter(sizes[size] for key, size in workspace.objects.list("splits") if size in sizes and key not in ours)


def _check_given(workspace: Workspace, given: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse a manifest that gives a group another split than it has."""
    for group, split in given.items():
        if found[group] != split:
            raise ConfigError(
                f"manifest: group '{group}' is {split}, but {found[group]} in the workspace, where it stays; correct "
                f"the manifest, or delete {workspace.describe(_key(group))} and ingest all of the group again"
            )


def _group_of(entry: Entry) -> str:
    return entry.group or canonical_uri(entry.source)


def _content(split: str) -> bytes:
    return json.dumps(seal({"split": split})).encode()


def _unsealed(split: str) -> bytes:
    """As older versions wrote it."""
    return json.dumps({"split": split}).encode()


def _key(group: str) -> str:
    """Names of groups can be patients' names: only their hash becomes a key."""
    return f"splits/{hashlib.sha256(group.encode()).hexdigest()[:32]}.json"
