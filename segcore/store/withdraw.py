"""Withdraw: what stands is taken away, its mark of completeness first."""

from collections.abc import Iterable

from segcore.store import ngff
from segcore.store.places import array_prefix, is_label
from segcore.store.plan import forget_plans, state_prefix
from segcore.store.workspace import Workspace, rebuild_label_list


def unmark(workspace: Workspace, image_id: str, name: str) -> None:
    """Take away the mark of completeness; the pixels stay."""
    for mark in ngff.MARKS.values():
        workspace.objects.delete(f"{array_prefix(image_id, name)}/{mark}")
    if is_label(name):
        rebuild_label_list(workspace, image_id)


def withdraw(workspace: Workspace, image_id: str, name: str) -> None:
    """Take away the mark of completeness, then the pixels; the masks of an image stay."""
    objects, prefix = workspace.objects, array_prefix(image_id, name)
    unmark(workspace, image_id, name)
    for folder in objects.folders(prefix):
        if folder.isdigit():
            objects.delete_prefix(f"{prefix}/{folder}")
    objects.delete(f"{prefix}/{ngff.V2_GROUP}")


def withdraw_labels(workspace: Workspace, image_id: str, names: Iterable[str]) -> None:
    """Withdraw labels that belong to pixels which are no more; those that are not there are fine."""
    for name in sorted(set(names) & set(workspace.objects.folders(f"state/{image_id}"))):
        withdraw(workspace, image_id, name)
        forget_plans(workspace.objects, image_id, name)
        workspace.objects.delete_prefix(state_prefix(image_id, name))


def forget(workspace: Workspace, image_id: str, name: str) -> None:
    """Remove a label or layer altogether, but for its lease, which the caller holds and removes when it is given back.

    The plan goes last: whoever is killed before leaves an unfinished array, which is found, and forgotten, again.
    """
    objects, state = workspace.objects, state_prefix(image_id, name)
    unmark(workspace, image_id, name)
    for number in objects.folders(state):
        objects.delete(f"{state}/{number}/finished.json")  # else it would count as damaged, and be repaired
    objects.delete_prefix(array_prefix(image_id, name))
    forget_plans(objects, image_id, name)
