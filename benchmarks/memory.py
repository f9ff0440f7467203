"""Memory and CPU time of predict on images of 4096 to 32768 px, and the time from a start to the first tile.

Every case runs in a process of its own that has loaded the model: `growth_mib` is the highest memory (summed PSS of the
process tree) over what it held then, `formula_mib` what `--dry-run` states for the whole process (`peak_mib`).
`cpu_s_per_mpx` is of every thread, without start-up: what an image of 2048 px costs, the second time, is taken off. The
models have one layer, so that it is the engine that is measured, and 2, 20 or 150 classes; the U-Net of predict.py on
16384 px is a check.

    growth_mib     the largest of up to 20 classes
    growth_flat    largest over smallest `growth_mib` from 8192 px on, of one blend and number of classes: the worst
    cpu_flat       largest over smallest `cpu_s_per_mpx` from 4096 px on, of one blend with 2 classes: the worst
    formula_vs_peak  the smallest `formula_mib` over `peak_mib`: 1 or more where the statement holds
    first_tile_s   from the start of a process, imports and all, to the end of an image of one tile; with the precision
                   settled by an earlier run, and (`first_tile_fresh_s`) without
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from contest import put_conv1, put_scene, put_unet

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.inference.numerics import Network, resolve_device
from segcore.measure import MIB, tree_bytes
from segcore.models.package import read_package
from segcore.store import Workspace

Blend = Literal["crop", "gaussian"]
BLENDS: tuple[Blend, ...] = ("crop", "gaussian")
TILE_PX, WARM_PX = 512, 2048
REAL_SIDE_PX = 16384
MIN_GROWTH_SIDE_PX = 8192
"""On less there is not always enough work to fill the pipeline."""
MAX_SIDE_PX_150 = 16384
"""Of 150 classes: `gaussian` sums 600 bytes per pixel, which takes long."""


@dataclass(frozen=True)
class Case:
    """What one process does."""

    model: str
    """Id in the workspace."""
    image: str
    side_px: int
    num_classes: int
    blend: Blend


def cases(unet: str, conv1: Mapping[int, str], side: int, has_real: bool) -> Iterator[Case]:
    """On one image: one-layer models of all classes in both blends, and the U-Net."""
    for num_classes, model in conv1.items():
        if num_classes > 20 and side > MAX_SIDE_PX_150:
            continue
        for blend in BLENDS:
            yield Case(model, f"scene{side}", side, num_classes, blend)
    if has_real and side == REAL_SIDE_PX:
        yield Case(unet, f"scene{side}", side, 2, "crop")


# In a process of its own


def config_of(uri: str, case: Case, image: str, is_dry: bool = False, number: int = 0) -> PredictConfig:
    name = f"{image}-{case.model}-{case.blend}-{number}"
    return PredictConfig(
        workspace=uri, model=case.model, images=(image,), name=name, blend=case.blend, dry_run=is_dry, overwrite=True
    )


def measured(uri: str, case: Case) -> dict[str, float]:
    """Memory and CPU time of one image."""
    loaded = Network(read_package(Workspace.open(uri), case.model), resolve_device("cpu"), "float32", batch=1)
    before = tree_bytes()
    results, cpu_s = [], []
    for number, image in enumerate(("warm", "warm", case.image)):
        began = time.process_time()
        results.append(predict(config_of(uri, case, image, number=number)))
        cpu_s.append(time.process_time() - began)
        assert results[-1].exit_code == 0, results[-1].items
    del loaded
    peak_mib = max(result.peak_mib for result in results)
    return {
        "growth_mib": round(peak_mib - before / MIB, 1),
        "peak_mib": peak_mib,
        "cpu_s_per_mpx": round((cpu_s[-1] - cpu_s[-2]) / ((case.side_px**2 - WARM_PX**2) / 1e6), 5),
        "seconds": results[-1].seconds,
    }


def stated(uri: str, case: Case) -> dict[str, float]:
    """What `--dry-run` says."""
    return {"formula_mib": predict(config_of(uri, case, case.image, is_dry=True)).details["memory_mib"]}


def first_tile(uri: str, case: Case) -> dict[str, float]:
    """Seconds since the process began, once an image of one tile is done."""
    assert predict(config_of(uri, case, "tile")).exit_code == 0
    return {"first_tile_s": round(time.time() - psutil.Process().create_time(), 2)}


ROLES: dict[str, Callable[[str, Case], dict[str, float]]] = {
    "measured": measured, "stated": stated, "first_tile": first_tile
}  # fmt: skip

# In the process that prints


def in_child(role: str, uri: str, case: Case) -> dict[str, float]:
    """What a role finds in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps({"role": role, "uri": uri, "case": asdict(case)})]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def worst_ratio(rows: Iterable[dict[str, Any]], value: str) -> float | None:
    """Largest over smallest of a value among images of several sizes, of the blend and classes where it is worst."""
    groups: defaultdict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in rows:
        groups[row["model"], row["blend"]].append(row[value])
    return max((round(max(values) / min(values), 3) for values in groups.values() if len(values) > 1), default=None)


def summary(rows: list[dict[str, Any]], conv1: set[str]) -> dict[str, Any]:
    """The figures to look at, and every case."""
    one_layer = [row for row in rows if row["model"] in conv1]
    few = [row for row in one_layer if row["num_classes"] <= 20]
    large = [row for row in one_layer if row["side_px"] >= MIN_GROWTH_SIDE_PX]
    return {
        "growth_mib": max(row["growth_mib"] for row in few),
        "growth_flat": worst_ratio(large, "growth_mib"),
        "cpu_flat": worst_ratio((row for row in one_layer if row["num_classes"] == 2), "cpu_s_per_mpx"),
        "formula_vs_peak": round(min(row["formula_mib"] / row["peak_mib"] for row in rows), 3),
        "rows": rows,
    }


def run(folder: Path, sides: Sequence[int], classes: Sequence[int], has_real: bool) -> dict[str, Any]:
    """Write the images one by one, each for its cases, and measure."""
    uri = str(folder / "workspace")
    ws = Workspace.open(uri, create=True)
    unet = put_unet(ws).model_id
    conv1 = {num_classes: put_conv1(ws, num_classes).model_id for num_classes in classes}
    put_scene(ws, TILE_PX, "tile")
    put_scene(ws, WARM_PX, "warm")
    start = Case(unet, "tile", TILE_PX, 2, "crop")
    fresh, settled = (in_child("first_tile", uri, start)["first_tile_s"] for _ in range(2))
    rows = []
    for side in sides:
        put_scene(ws, side, f"scene{side}")
        for case in cases(unet, conv1, side, has_real):
            sys.stderr.write(f"{case.side_px} px, {case.model}, {case.num_classes} classes, {case.blend}\n")
            row = asdict(case) | in_child("stated", uri, case) | in_child("measured", uri, case)
            row["load"] = round(os.getloadavg()[0], 2)
            rows.append(row)
        shutil.rmtree(folder / "workspace" / "images" / f"scene{side}.ome.zarr")
    found = summary(rows, set(conv1.values()))
    return {"first_tile_s": settled, "first_tile_fresh_s": fresh, **found}


def main() -> None:
    """Measure, and print one JSON object, or the same as lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4096 and 8192 px, 2 classes, no U-Net")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--sides", default="4096,8192,16384,32768", help="of the images, px")
    parser.add_argument("--classes", default="2,20,150")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asked = json.loads(options.child)
        print(json.dumps(ROLES[asked["role"]](asked["uri"], Case(**asked["case"]))))
        return
    sides = [4096, 8192] if options.quick else [int(side) for side in options.sides.split(",")]
    classes = [2] if options.quick else [int(number) for number in options.classes.split(",")]
    with tempfile.TemporaryDirectory(prefix="segcore-memory-") as folder:
        found = run(Path(folder), sides, classes, has_real=not options.quick)
    if options.json:
        print(json.dumps(found))
        return
    rows = found.pop("rows")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items() if key not in ("image", "model")))
    print("\n".join(f"{key:20} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
