"""Told: what the last report of a mask said, so that a night in which nothing changed writes no other.

One sealed object for each mask, `nights/<mask>.json`: a digest of all that was to be told, and where it is told.
"""

import json
from collections.abc import Sequence
from typing import Any

from segcore.store import Workspace, plan_digest, seal, unseal


def told_before(workspace: Workspace, mask: str, content: dict[str, Any]) -> tuple[str, ...] | None:
    """Paths of the report that says just this; None where there is none (any more)."""
    try:
        record = unseal(workspace.objects.get(_key(mask)) or b"{}")
        keys = [str(key) for key in record["keys"]]
    except (ValueError, KeyError, TypeError):  # never told, or damaged: tell it again
        return None
    stands = record.get("digest") == plan_digest(content) and all(map(workspace.objects.size, keys))
    return tuple(map(workspace.describe, keys)) if stands else None


def tell(workspace: Workspace, mask: str, content: dict[str, Any], paths: Sequence[str]) -> None:
    """Remember a report, by its paths in the workspace."""
    keys = [path.removeprefix(workspace.describe("")).lstrip("/") for path in paths]
    record = seal({"digest": plan_digest(content), "keys": keys})
    workspace.objects.put(_key(mask), json.dumps(record).encode())


def _key(mask: str) -> str:
    return f"nights/{mask}.json"
