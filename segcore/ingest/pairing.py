"""Pairing: what to say to someone whose target is not where its pattern looks for it."""

import os
from itertools import islice
from pathlib import Path

from segcore.sources.stamps import canonical_uri

MAX_LISTED = 10_000
MAX_NAMED = 3


def not_found(source: str, target: str) -> str:
    """The error for a local target, a name or a pattern, that nothing is found for: what is there, what to write.

    Nothing is paired by likeness: the names most like the source's are shown, and the user decides.
    """
    path = Path(canonical_uri(target))
    stem = Path(source).name
    folder = path.parent
    try:
        with os.scandir(folder) as listed:
            names = sorted(found.name for found in islice(listed, MAX_LISTED) if found.is_file())
    except OSError:
        return f"{target}: no target of {source} there, for there is no such folder; correct --targets"
    if not names:
        return f"{target}: no target of {source} there, for the folder is empty; correct --targets"
    shared = [_num_alike(stem, name) for name in names]
    nearest = [name for name, length in zip(names, shared, strict=True) if length == max(shared)]
    more = f" and {len(nearest) - MAX_NAMED} more" if len(nearest) > MAX_NAMED else ""
    row = f"{canonical_uri(source)},{folder / nearest[0]}" if len(nearest) == 1 else "scan.tif,masks/its_mask.png"
    return (
        f"{target}: no target of {source} matches this; its folder has {', '.join(nearest[:MAX_NAMED])}{more}; correct "
        f"--targets, or name the target of each source in a CSV manifest: the line 'source,target', then '{row}' etc."
    )


def _num_alike(one: str, other: str) -> int:
    """How many letters two names have in common from their beginning on."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
