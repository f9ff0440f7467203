"""Calibration: what is measured once for a model on a device is kept in the workspace; all processes take the same."""

import json
from typing import TypeVar

from pydantic import BaseModel

from segcore.store import Workspace, seal, unseal

FoundT = TypeVar("FoundT", bound=BaseModel)


def kept(ws: Workspace, key: str, kind: type[FoundT]) -> FoundT | None:
    """What was found before; None too where it cannot be read (damaged, or of another version)."""
    data = ws.objects.get(key)
    try:
        return None if data is None else kind.model_validate(unseal(data))
    except ValueError:  # pydantic's is one too
        return None


def keep(ws: Workspace, key: str, found: FoundT) -> FoundT:
    """Write what was found; what another process found, where it was faster."""
    data = json.dumps(seal(found.model_dump(mode="json")), indent=1).encode()
    if not ws.objects.put_new(key, data):
        theirs = kept(ws, key, type(found))
        if theirs is not None:
            return theirs
        ws.objects.put(key, data)
    return found
