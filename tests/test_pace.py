"""What is kept of how a mask was made."""

from pathlib import Path

from segcore.pace import Pace, keep_pace, paces, summed
from segcore.store import Workspace


def _pace(digest: str, tiles: int, skipped: float, px: int, seconds: float) -> Pace:
    return Pace(
        digest=digest, ended="2026-11-30T07:00:00+00:00", device="cpu", tiles=tiles, skipped_share=skipped, px=px,
        seconds=seconds,
    )  # fmt: skip


def test_pace_comes_back_while_its_mask_stands(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    pace = _pace("d", 4, 0.5, 100, 2.0)
    for image_id in ("a", "b", "damaged"):
        keep_pace(ws, image_id, "m", pace)
    ws.objects.put("state/damaged/m/predict.json", b'{"tiles": 5')
    digests = {"a": "d", "b": "a later plan", "damaged": "d", "none": "d"}
    assert paces(ws, "m", digests) == {"a": pace}


def test_sum_of_paces_weighs_by_tiles_and_by_time() -> None:
    found = summed([_pace("d", 30, 0.5, 4_000_000, 1.0), _pace("e", 10, 0.1, 2_000_000, 2.0)])
    assert (found["skipped_share"], found["mpx_per_s"], found["num_images"]) == (0.4, 2.0, 2)
    assert summed([]) == {}
