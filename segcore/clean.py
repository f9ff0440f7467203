"""Clean: what is old goes, by rule; images, targets, model packages and the champion's mask never do.

    masks      of each image all but the newest few: with their layers, objects and screens, and what is known of them
    runs       of training: log, curve and checkpoints; the model package is under models/, and stays
    reports    all but the newest
    leases     what is left of those that were given back

A mask goes like one that is replaced: under its own lease, mark of completeness first, so that a reader sees all of it
or none, and whoever writes it at this moment keeps it. Ages are told by the store's clock.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from segcore.champion import champion, history
from segcore.config import RESERVED_NAMES, CleanConfig
from segcore.errors import ConfigError, LeaseHeldError, SegcoreError, worded
from segcore.measure import Peak
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.selection import mask_name
from segcore.store import Lease, Workspace, array_prefix, forget, instances_name, is_instances, is_layer

SCREEN = ".screen"
"""Ends the name of the mask that a cascade's first model makes."""


@dataclass(frozen=True)
class Old:
    """Something that may go."""

    kind: str
    name: str
    prefixes: tuple[str, ...]
    """Where it lies."""
    written: datetime
    image: str | None = None
    arrays: tuple[tuple[str, str], ...] = ()
    """Image id and name of the labels and layers that it is."""
    lease: str | None = None
    """Of whoever writes it."""


def clean(config: CleanConfig, progress: Progress = SILENT) -> StageResult:
    """Remove what is old; with `dry_run` only say so.

    Returns:
        One item per thing: `done` (removed, or would be), `skipped` (somebody writes it at this moment), or `failed`.

    Raises:
        ConfigError: if `what` names something else.
        StoreError: if there is no workspace.
    """
    with Peak() as peak:
        workspace = Workspace.open(config.workspace)
        unknown = set(config.what) - FINDERS.keys()
        if unknown:
            raise ConfigError(f"what: expected some of {', '.join(FINDERS)}, got {', '.join(sorted(unknown))}")
        before = datetime.now(UTC) - config.age
        aged = [old for what in config.what for old in FINDERS[what](workspace, config) if old.written < before]
        going = {prefix for old in aged for prefix in old.prefixes}
        found = [old for old in aged if old.prefixes[0].removesuffix("/lease") not in going or old.kind != "lease"]
        progress.start("clean", len(found), "things")
        items = []
        for old in found:
            items.append(_removed(workspace, old, config.dry_run, progress))
            progress.advance()
    freed = sum(item.details.get("bytes", 0) for item in items if item.state == "done")
    counts = {kind: sum(old.kind == kind for old in found) for kind in dict.fromkeys(old.kind for old in found)}
    details = {"dry_run": config.dry_run, "bytes": freed, **counts}
    return StageResult(stage="clean", items=tuple(items), seconds=peak.seconds, peak_mib=peak.mib, details=details)


def _removed(workspace: Workspace, old: Old, dry_run: bool, progress: Progress) -> ItemResult:
    """Remove it, unless somebody writes it."""
    objects = workspace.objects
    label = f"{old.kind} {old.name}" + (f" of image {old.image}" if old.image else "")
    try:
        num_bytes = sum(size for prefix in old.prefixes for _, size in objects.list(prefix))
        days = (datetime.now(UTC) - old.written).days
        details = {"kind": old.kind, "name": old.name, "bytes": num_bytes, "age_days": days}
        verb = "would remove" if dry_run else "removed"
        if not dry_run:
            _remove(workspace, old)
        progress.note(f"{verb} {label}: {num_bytes / 1e6:.1f} MB, {days} days old")
        return ItemResult(state="done", source=label, image=old.image, details=details)
    except LeaseHeldError:
        progress.note(f"kept {label}: somebody is at it")
        return ItemResult(state="skipped", source=label, image=old.image, details={"reason": "in use"})
    except SegcoreError as error:
        return ItemResult(state="failed", source=label, image=old.image, error=worded(error, label))


def _remove(workspace: Workspace, old: Old) -> None:
    """Remove all of it under its lease; what is left of the leases afterwards is removed by itself.

    So whoever begins on it anew as soon as the lease is given back loses nothing.
    """
    objects = workspace.objects
    if objects.newest(old.prefixes[0]) != old.written:
        raise LeaseHeldError(f"{objects.describe(old.prefixes[0])}: was written, or removed, a moment ago")
    with nullcontext() if old.lease is None else Lease(objects, old.lease, wait=False):
        for image_id, name in old.arrays:
            forget(workspace, image_id, name)
        for prefix in old.prefixes:
            for key in [key for key, _ in objects.list(prefix) if "/lease/" not in key]:
                objects.delete(key)
    for prefix in old.prefixes:
        objects.delete_prefix(prefix if old.kind == "lease" else f"{prefix}/lease")
        objects.drop_empty(prefix)


def _old_masks(workspace: Workspace, config: CleanConfig) -> Iterator[Old]:
    """Of each image, masks that newer ones have replaced; the champion's counts as none of them."""
    kept = {*config.keep, *_champions_mask(workspace)}
    for image_id in workspace.begun_ids():
        roots = _roots(workspace, image_id)
        stay = kept | {roots[name] for name in kept & roots.keys()}
        names = [name for name in _mask_names(workspace, image_id) if name not in stay and name not in roots]
        # Only a finished mask replaces another; and a lease, which somebody may take on an old one, makes it no newer.
        made = {name: workspace.objects.newest(f"state/{image_id}/{name}", but="/lease/") for name in names}
        finished = [(when, name) for name, when in made.items() if when and workspace.is_complete(image_id, name)]
        newest = {name for _, name in sorted(finished, reverse=True)[: config.keep_masks]}
        for mask in sorted(set(names) - newest):
            written = workspace.objects.newest(f"state/{image_id}/{mask}")
            if written is not None:
                yield _old_mask(workspace, image_id, mask, written, [name for name in roots if roots[name] == mask])


def _old_mask(workspace: Workspace, image_id: str, mask: str, written: datetime, refined: Sequence[str]) -> Old:
    names = _belonging(workspace, image_id, mask, refined)
    states = [f"state/{image_id}/{each}" for each in (mask, *(each for each in names if each != mask))]
    prefixes = (*states, *(array_prefix(image_id, each) for each in names))
    arrays = tuple((image_id, each) for each in names)
    return Old("mask", mask, prefixes, written, image_id, arrays, f"{states[0]}/lease")


def _champions_mask(workspace: Workspace) -> set[str]:
    """Its name.

    Raises:
        ConfigError, DamagedError: where nobody knows it: then nothing must go.
    """
    stands = champion(workspace)
    return set() if stands is None else {mask_name(workspace, stands.model)}


def _mask_names(workspace: Workspace, image_id: str) -> list[str]:
    """Masks that are an image's, finished or not; not what belongs to another one."""
    names = set(workspace.objects.folders(f"state/{image_id}")) - set(RESERVED_NAMES)
    masks = {name for name in names if not is_layer(name) and not is_instances(name)}
    return sorted(name for name in masks if name.removesuffix(SCREEN) == name or name.removesuffix(SCREEN) not in masks)


def _roots(workspace: Workspace, image_id: str) -> dict[str, str]:
    """Finished refined masks, and the mask at the beginning of each one's chain, without which none can be opened: they
    stay, or go, together. One whose beginning is gone is a mask of its own.
    """
    masks = _mask_names(workspace, image_id)
    bases: dict[str, str] = {}
    for name in masks:
        if workspace.is_complete(image_id, name):
            base = workspace.label(image_id, name).attributes.get("mask")
            bases |= {} if base is None else {name: str(base)}

    def root(name: str) -> str:
        seen = {name}
        while (base := bases.get(name)) is not None and base not in seen:
            seen.add(name := base)
        return name

    return {name: root(name) for name in bases if root(name) in masks and root(name) != name}


def _belonging(workspace: Workspace, image_id: str, mask: str, refined: Sequence[str]) -> list[str]:
    """What was made with or of a mask: objects, screen, refined ones, layers; and last itself, so that a kill leaves
    nothing without it.
    """
    names = set(workspace.objects.folders(f"state/{image_id}"))
    arrays = {array for each in (mask, mask + SCREEN, *refined) for array in (each, instances_name(each))}
    layers = {name for name in names if is_layer(name) and name.rpartition(".")[0].partition(".")[2] in arrays}
    return sorted((arrays & names) | layers, key=lambda name: (name == mask, name))


def _old_runs(workspace: Workspace, config: CleanConfig) -> Iterator[Old]:
    for run in workspace.objects.folders("runs"):
        written = workspace.objects.newest(f"runs/{run}")
        if run not in config.keep and written is not None:
            yield Old("run", run, (f"runs/{run}",), written, lease=f"runs/{run}/lease")


def _old_reports(workspace: Workspace, config: CleanConfig) -> Iterator[Old]:
    """All but the newest, and those in which a champion was compared."""
    reports = [(workspace.objects.newest(f"reports/{name}"), name) for name in workspace.objects.folders("reports")]
    known = sorted((written, name) for written, name in reports if written is not None)
    cited = " ".join(entry.report or "" for entry in history(workspace))
    for written, name in known[:-1]:
        if name not in config.keep and f"reports/{name}/" not in cited:
            yield Old("report", name, (f"reports/{name}",), written)


def _old_leases(workspace: Workspace, config: CleanConfig) -> Iterator[Old]:
    for image_id in workspace.begun_ids():
        for name in workspace.objects.folders(f"state/{image_id}"):
            prefix = f"state/{image_id}/{name}/lease"
            written = workspace.objects.newest(prefix)
            if written is not None:
                yield Old("lease", name, (prefix,), written, image_id, lease=prefix)


FINDERS: dict[str, Callable[[Workspace, CleanConfig], Iterator[Old]]] = {
    "masks": _old_masks,
    "runs": _old_runs,
    "reports": _old_reports,
    "leases": _old_leases,
}
