"""What `predict --dry-run` states, against the run itself: CPU time, memory and disk.

Each case is stated and then run, in processes of their own, on an image so large that the run takes 30 s of CPU time
(`--quick`: on a small one). CPU time is that of all threads of `predict`, without start-up and imports.

    cpu_ratio      expected over measured CPU time: the worst is the one farthest from 1
    memory_ratio   stated over measured peak memory (summed PSS): the least and the largest
    disk_ratio     stated over measured bytes of mask and layers: the least
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contest import put_scene, put_unet

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.store import Workspace, layer_name
from segcore.store.places import array_prefix

LEAST_CPU_S = 30.0
SIDE_STEP_PX = 512
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "crop": (4096, {}),
    "gaussian": (4096, {"blend": "gaussian"}),
    "views": (1536, {"views": "d4"}),
    "layer": (4096, {"layers": ("probs",)}),
    "gaussian layer": (4096, {"blend": "gaussian", "layers": ("probs", "entropy"), "layer_level": 1}),
}
"""Side of the image in px, where 30 s are expected at first, and the settings."""
QUICK_CASES, QUICK_SHARE = ("crop", "gaussian", "views", "layer"), 4

# In a process of its own


def stated_or_run(settings: dict[str, Any]) -> dict[str, float]:
    """What predict says, or takes."""
    began_s = time.process_time()
    result = predict(PredictConfig.model_validate(settings))
    cpu_s = time.process_time() - began_s
    assert result.exit_code == 0, result.items
    if settings["dry_run"]:
        keys = ("expected_cpu_s", "expected_s", "memory_mib", "disk_bytes", "write_bytes")
        return {
            **{key: result.details[key] for key in keys},
            "dry_run_s": result.seconds,
            "dry_peak_mib": result.peak_mib,
        }
    return {"cpu_s": round(cpu_s, 2), "seconds": result.seconds, "peak_mib": result.peak_mib}


# In the process that prints


def in_child(settings: dict[str, Any]) -> dict[str, float]:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def case(ws: Workspace, model: str, name: str, side_px: int, least_cpu_s: float) -> dict[str, Any]:
    """State and run a case; again on a larger image where it was over too soon."""
    settings = CASES[name][1]
    while True:
        image = f"{name.replace(' ', '-')}-{side_px}"
        put_scene(ws, side_px, image)
        shared = {"workspace": ws.uri, "model": model, "images": (image,), "name": "mask", "device": "cpu", **settings}
        found = in_child({**shared, "dry_run": True}) | in_child({**shared, "dry_run": False})
        made = ["mask", *(layer_name("mask", kind) for kind in settings.get("layers", ()))]
        folders = [Path(ws.uri) / array_prefix(image, name) for name in made]
        files = (file for folder in folders for file in folder.rglob("*") if file.is_file() and file.suffix != ".json")
        found["stored_bytes"] = sum(file.stat().st_size for file in files)
        shutil.rmtree(Path(ws.uri) / array_prefix(image, "image"))
        if found["cpu_s"] >= least_cpu_s:
            return {"case": name, "side_px": side_px, **found, "load": round(os.getloadavg()[0], 2)}
        side_px = math.ceil(side_px * math.sqrt(1.1 * least_cpu_s / found["cpu_s"]) / SIDE_STEP_PX) * SIDE_STEP_PX


def rows(folder: Path, is_quick: bool) -> Iterator[dict[str, Any]]:
    """Every case with its ratios."""
    ws = Workspace.open(str(folder / "workspace"), create=True)
    model = put_unet(ws).model_id
    for name in QUICK_CASES if is_quick else CASES:
        side_px = CASES[name][0] // (QUICK_SHARE if is_quick else 1)
        found = case(ws, model, name, side_px, 0.0 if is_quick else LEAST_CPU_S)
        found["cpu_ratio"] = round(found["expected_cpu_s"] / found["cpu_s"], 3)
        found["memory_ratio"] = round(found["memory_mib"] / found["peak_mib"], 3)
        found["disk_ratio"] = round(found["disk_bytes"] / found["stored_bytes"], 3)
        yield found


def main() -> None:
    """Measure, and print one JSON object, or the same as lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images, however short the runs are")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(stated_or_run(json.loads(options.child))))
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="segcore-estimate-") as folder:
        for row in rows(Path(folder), options.quick):
            found.append(row)
            sys.stderr.write("  ".join(f"{key} {value}" for key, value in row.items()) + "\n")
    ratios = {key: [row[f"{key}_ratio"] for row in found] for key in ("cpu", "memory", "disk")}
    summary = {
        "cpu_ratio": max(ratios["cpu"], key=lambda ratio: abs(math.log(ratio))),
        "memory_ratio": [min(ratios["memory"]), max(ratios["memory"])],
        "disk_ratio": min(ratios["disk"]),
    }
    if options.json:
        print(json.dumps({**summary, "rows": found}))
        return
    print("\n".join(f"{key:14} {value}" for key, value in summary.items()))


if __name__ == "__main__":
    main()
