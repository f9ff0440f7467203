"""Pace: how fast a mask was made, and how much was skipped; predict -> *state/<image_id>/<mask>/predict.json*.

A night's masks are made once, and reported on many times: what the pipeline counted would be lost with its process.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from segcore.store import Workspace, seal, unseal

THREADS = 8
"""Requests side by side."""


class Pace(BaseModel):
    """What the call of predict that finished a mask did of it."""

    model_config = ConfigDict(frozen=True)

    digest: str
    """Of the mask's plan: a later mask of the same name has another."""
    ended: str
    """When, UTC, ISO 8601."""
    device: str
    tiles: int
    """With those that were skipped."""
    skipped_share: float
    """Of the tiles."""
    skipped_by: dict[str, float] = {}
    """Reason -> share of the tiles."""
    px: int
    """Pixels of the mask that were written; an earlier call may have written others."""
    seconds: float


def keep_pace(workspace: Workspace, image_id: str, mask: str, pace: Pace) -> None:
    """Write it, unless one of this very mask stands: what mends a mask later says nothing of how fast it was made."""
    if pace_of(workspace, image_id, mask, pace.digest) is not None:
        return
    workspace.objects.put(pace_key(image_id, mask), json.dumps(seal(pace.model_dump(mode="json"))).encode())


def pace_of(workspace: Workspace, image_id: str, mask: str, digest: str | None) -> Pace | None:
    """That of the mask whose plan has this digest; None where there is none, or it is damaged."""
    try:
        pace = Pace.model_validate(unseal(workspace.objects.get(pace_key(image_id, mask)) or b"{}"))
    except ValueError:  # it is no more than a number that is not shown
        return None
    return pace if pace.digest == digest else None


def paces(workspace: Workspace, mask: str, digests: Mapping[str, str | None]) -> dict[str, Pace]:
    """By image id, of the masks that stand; images of which none is known are left out.

    Args:
        workspace: where they are.
        mask: its name.
        digests: image id -> digest of the mask's plan.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        found = threads.map(lambda image_id: pace_of(workspace, image_id, mask, digests[image_id]), digests)
        known = zip(digests, found, strict=True)
        return {image_id: pace for image_id, pace in known if pace is not None}


def summed(known: Iterable[Pace]) -> dict[str, Any]:
    """`skipped_share` of all tiles, and `mpx_per_s`; {} where nothing is known."""
    found = list(known)
    tiles, seconds = sum(pace.tiles for pace in found), sum(pace.seconds for pace in found)
    if not tiles or not seconds:
        return {}
    skipped = sum(pace.tiles * pace.skipped_share for pace in found)
    return {
        "num_images": len(found),
        "skipped_share": round(skipped / tiles, 6),
        "mpx_per_s": round(sum(pace.px for pace in found) / 1e6 / seconds, 4),
        "seconds": round(seconds, 3),
        "ended": max(pace.ended for pace in found),
    }


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def pace_key(image_id: str, mask: str) -> str:
    """Where it lies in the workspace."""
    return f"state/{image_id}/{mask}/predict.json"
