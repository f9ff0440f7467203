"""Champion: the model that a workspace's nights follow, and those that stood before it.

    champion/<n>.json     who was promoted, when and why; the highest number stands

Each is a create-only object: nothing is ever changed or lost, and of two that promote at one moment, one is told so.
"""

import json
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from segcore.errors import DamagedError, StoreError
from segcore.store import Workspace, seal, unseal

PREFIX = "champion"


class Champion(BaseModel):
    """One entry of the history."""

    model_config = ConfigDict(frozen=True)

    number: int
    model: str
    """Model id in the workspace, or the path of a package."""
    since: datetime
    why: str = ""
    """For people: the difference of the scores, or who decided."""
    report: str | None = None
    """Where both models were compared."""


def history(workspace: Workspace) -> list[Champion]:
    """All champions, the first one first.

    Raises:
        DamagedError: naming an entry that is not what was written.
    """
    numbers = sorted(_number(key) for key, _ in workspace.objects.list(PREFIX))
    return [_entry(workspace, number) for number in numbers]


def champion(workspace: Workspace) -> Champion | None:
    """The one that stands; None where none was ever promoted.

    Raises:
        DamagedError: if its entry is not what was written.
    """
    numbers = [_number(key) for key, _ in workspace.objects.list(PREFIX)]
    return _entry(workspace, max(numbers)) if numbers else None


def promote(
    workspace: Workspace, model: str, why: str = "", report: str | None = None, after: Champion | None = None
) -> Champion:
    """Make a model the champion; the same one again changes nothing.

    Args:
        workspace: whose.
        model: model id, or the path of a package.
        why: for people.
        report: where it was compared.
        after: the champion that it was compared with; None for the first one.

    Raises:
        StoreError: if another one was promoted meanwhile.
    """
    if after is not None and after.model == model:
        return after
    entry = Champion(
        number=0 if after is None else after.number + 1, model=model, since=datetime.now(UTC), why=why, report=report
    )
    record = seal(entry.model_dump(mode="json"))
    if not workspace.objects.put_new(f"{PREFIX}/{entry.number}.json", json.dumps(record, indent=1).encode()):
        stands = champion(workspace)
        assert stands is not None, "an entry was there a moment ago"
        raise StoreError(
            f"workspace {workspace.uri}: {stands.model} was promoted meanwhile; expected "
            f"{'none' if after is None else after.model} to be the champion; compare with it and promote again"
        )
    return entry


def _number(key: str) -> int:
    return int(key.rsplit("/", 1)[-1].removesuffix(".json"))


def _entry(workspace: Workspace, number: int) -> Champion:
    key = f"{PREFIX}/{number}.json"
    try:
        return Champion.model_validate(unseal(workspace.objects.get(key) or b""))
    except ValueError as error:
        where = workspace.describe(key)
        raise DamagedError(f"{where}: damaged ({' '.join(str(error).split())[:200]}); delete it, or promote") from error
