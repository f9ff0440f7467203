"""All scores of one large mask: counts, boundaries and objects, each call in a process of its own.

The target is squares of 100 px of three classes, the mask the same seven pixels aside; every square of the foreground
is an object; the probability of each pixel's class is high inside it, and less towards its sides. Memory is the highest
summed PSS of the process tree, Python and libraries included.

    counts_s, counts_mib   `segcore score --boundary off --probs off`, without objects
    probs_s, probs_mib     with probabilities of three classes: AUC, AP, calibration
    all_s, all_mib         boundaries and objects too
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from segcore.classes import default_classes
from segcore.geometry import Ints
from segcore.store import PyramidSpec, Staging, Workspace, layer_name

SQUARE_PX, ASIDE_PX = 100, 7


def put(ws: Workspace, name: str, pixels: np.ndarray[Any, Any], kind: str, axes: tuple[str, ...] = ("y", "x")) -> None:
    shape: Ints = pixels.shape
    fill = 255 if kind == "mask" else 0
    spec = PyramidSpec(axes=axes, shape=shape, dtype=str(pixels.dtype), kind=kind, fill=fill, shard_px=2048)  # type: ignore[arg-type]
    with Staging.begin(ws, "a", name, {"benchmark": name}, spec) as staging:
        staging.put_all(pixels)
        if kind == "image":
            staging.finish({"digest": name}, channels=("grey",))
        else:
            staging.finish({"digest": name}, classes=default_classes(3) if kind == "mask" else ())


def spread(coarse: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return coarse.repeat(SQUARE_PX, axis=0).repeat(SQUARE_PX, axis=1)


def put_probs(ws: Workspace, coarse: np.ndarray[Any, Any]) -> None:
    """The layer of the mask, 8 bits, a class at a time in memory."""
    classes = default_classes(3)
    side = np.abs(np.arange(SQUARE_PX) - SQUARE_PX // 2).astype(np.uint8)
    drop = np.tile(np.maximum(side[:, None], side), coarse.shape)
    names, shape = tuple(info.name for info in classes), (len(classes), *drop.shape)
    spec = PyramidSpec(axes=("c", "y", "x"), shape=shape, dtype="uint8", kind="image", shard_px=2048)
    name = layer_name("m", "probs")
    with Staging.begin(ws, "a", name, {"channels": list(names)}, spec) as staging:
        own = np.roll(spread(coarse), ASIDE_PX, axis=1)
        staging.put_all(np.stack([np.where(own == row, 255 - drop, drop // 2) for row in range(len(classes))]))
        staging.finish({"layer": "probs"}, channels=names)


def scored(ws: Workspace, *options: str) -> tuple[float, float]:
    """Seconds and MiB of one call."""
    call = [sys.executable, "-m", "flows", "score", "--workspace", ws.uri, "--model", "m", "--json", *options]
    found = json.loads(subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
    return found["seconds"], found["peak_mib"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000, help="of the mask, px; a multiple of 100")
    parser.add_argument("--quick", action="store_true", help="2000 px")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    squares = (2000 if options.quick else options.side) // SQUARE_PX
    coarse = np.random.default_rng(0).integers(0, 3, (squares, squares), dtype=np.uint8)
    numbers = np.where(coarse > 0, np.arange(1, squares**2 + 1, dtype=np.uint32).reshape(coarse.shape), 0)
    with tempfile.TemporaryDirectory(prefix="segcore-score-") as folder:
        ws = Workspace.open(folder, create=True)
        put(ws, "image", 80 * spread(coarse)[None], "image", ("c", "y", "x"))
        put(ws, "target", spread(coarse), "mask")
        put(ws, "m", np.roll(spread(coarse), ASIDE_PX, axis=1), "mask")
        counts_s, counts_mib = scored(ws, "--boundary", "off", "--probs", "off")
        put_probs(ws, coarse)
        Path(folder, "state/a/m/score.json").unlink()  # what was counted is kept there
        probs_s, probs_mib = scored(ws, "--boundary", "off")
        put(ws, "target_instances", spread(numbers.astype(np.uint32)), "instances")
        put(ws, "m_instances", np.roll(spread(numbers.astype(np.uint32)), ASIDE_PX, axis=1), "instances")
        all_s, all_mib = scored(ws)
    found = {"counts_s": counts_s, "counts_mib": counts_mib, "probs_s": probs_s, "probs_mib": probs_mib}
    found |= {"all_s": all_s, "all_mib": all_mib}
    print(json.dumps(found) if options.json else "\n".join(f"{name:12} {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
