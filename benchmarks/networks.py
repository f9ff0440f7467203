"""Every network of planes for a few minutes on DSB2018, and every classic method with tuned arguments beside them.

Fold 0 of quality.py's: 46 images train, 12 are held out, scored by the IoU of all their pixels. Networks are trained by
`segcore train --architecture NAME --minutes 3`, all else as it comes. Of a classic method `segcore tune` searches the
arguments in 40 trials, on training images alone. Two at a time, each on one core and one thread. A finished one
is a line of the results file, and is not run again; the table is part of quality.md.

    iou          of nuclei, held-out images
    parameters   of the network as it was trained
    context_px   how far it sees, or `all of its tile`
    mpx_per_s    of a tile of 512 px on one core, while the other core trains

    best_vs_classic   IoU of the best network less that of the best classic method

    python benchmarks/networks.py --minutes 3
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import CACHE, confusion_of, ingested, on_core, read, score_of, segcore
from quality_data import DATA, DATA_SETS, Row

from segcore.models import find_architecture, planes_of
from segcore.models.catalog import ARCHITECTURES
from segcore.models.classic.entries import CLASSIC
from segcore.models.image_norm import standing
from segcore.models.package import ModelPackage, read_package
from segcore.store import Workspace

RESULTS = Path(__file__).with_name("networks.jsonl")
DATA_SET, FOLD, SPEED_PX, REPEATS, TRIALS = "dsb2018", 0, 512, 3, 40
TUNED_SET = "dsb2018_tuned"
SIDES = "arguments.foreground=bright|dark"
SEARCHED: dict[str, tuple[str, ...]] = {
    "threshold": ("arguments.threshold=0.02..0.9", "arguments.sigma=0..3"),
    "otsu": ("arguments.sigma=0..4", "arguments.min_size=0|20|60"),
    "local_threshold": ("arguments.window=21..301", "arguments.offset=0..0.2", "arguments.sigma=0..3"),
    "edges_watershed": ("arguments.margin=0.01..0.3", "arguments.sigma=0..3", "arguments.edges=sobel|canny"),
    "region_growing": ("arguments.sigma=0..3",),
    "felzenszwalb": ("arguments.sigma=0..3", "arguments.scale=20..500"),
    "slic": ("arguments.sigma=0..3", "arguments.segment_px=4..40"),
}
"""What is tuned of each, beside the side that is foreground. The slowest, and those of other images, are left out."""


def with_validation(fold: int, folds: int) -> list[Row]:
    """Some of the training images tell which arguments of a classic method are best."""
    rows = DATA_SETS[DATA_SET].rows(fold, folds)
    train = [row for row in rows if row["split"] == "train"]
    return [*({**row, "split": "val"} for row in train[::4]), *(row for row in rows if row not in train[::4])]


def networks() -> list[str]:
    """Names of our networks of single planes."""
    ours = (name for name, found in ARCHITECTURES.items() if name not in CLASSIC and found.told is None)
    return [name for name in ours if planes_of(name, {}) is None and name != "conv1"]


def trained(name: str, workspace: Workspace, minutes: float) -> str:
    """Model id of a network or a tuned method."""
    where = ("--workspace", workspace.uri, "--architecture", name)
    if name not in SEARCHED:
        limits = ("--minutes", str(minutes), "--threads", "1", "--name", name)
        return str(segcore("train", *where, *limits)["details"]["model"])
    search = [word for text in (SIDES, *SEARCHED[name]) for word in ("--search", text)]
    trials = str(TRIALS if minutes > 1 else 3)
    return str(
        segcore("tune", *where, "--trials", trials, "--name", name, "--threads", "1", *search)["details"]["model"]
    )


def measure(name: str, workspace: Workspace, minutes: float) -> dict[str, Any]:
    """One line of the results."""
    model = trained(name, workspace, minutes)
    segcore("predict", "--workspace", workspace.uri, "--model", model, "--tile-workers", "1")
    scored = segcore("score", "--workspace", workspace.uri, "--model", model, "--split", "test", "--boundary", "off")
    images = list(scored["scores"]["per_image"])
    confusion = np.asarray(sum(np.asarray(confusion_of(workspace, image, model), np.int64) for image in images))
    package = read_package(workspace, model)
    return {
        "name": name,
        "minutes": minutes,
        "iou": score_of(DATA_SET, workspace.label(images[0], "target").classes, confusion),
        "parameters": sum(weight.numel() for weight in package.load_weights("cpu").parameters()),
        "context_px": None if package.contract.global_context else package.contract.receptive_px,
        "mpx_per_s": speed(package),
        "arguments": package.architecture.arguments,
    }


@torch.inference_mode()
def speed(package: ModelPackage) -> float:
    """Mpx/s, the median of a few tiles."""
    torch.set_num_threads(1)
    model, times = standing(package.load_weights("cpu").eval()), []
    tiles = torch.rand(1, len(package.contract.bands), SPEED_PX, SPEED_PX)
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        model(tiles)
        times.append(time.perf_counter() - began)
    return SPEED_PX**2 / 1e6 / statistics.median(times[1:])


DATA_SETS[TUNED_SET] = replace(DATA_SETS[DATA_SET], rows=with_validation)


def run_all(names: Sequence[str], minutes: float, results: Path, folder: Path) -> None:
    """Those that are not in the results yet, two at a time."""
    done = {(row["name"], row["minutes"]) for row in read(results)}
    workspace, own = ingested(DATA_SET, FOLD, folder), ingested(TUNED_SET, FOLD, folder)
    left = [name for name in names if (name, minutes) not in done]

    def one(number: int, name: str) -> None:
        row = on_core(number, measure, name, own if name in SEARCHED else workspace, minutes)
        with results.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(row) + "\n")
        print(f"{name}: {row['iou']:.4f}", file=sys.stderr)

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(one, number, name) for number, name in enumerate(left)]:
            future.result()


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """For quality.md."""
    yield "| network or method | IoU | parameters | sees | Mpx/s |"
    yield "| --- | --- | --- | --- | --- |"
    for row in sorted(rows, key=lambda row: -row["iou"]):
        sees = "all of its tile" if row["context_px"] is None else f"{row['context_px']} px"
        title = find_architecture(row["name"]).title
        weights = f"{row['parameters']:,}" if row["parameters"] else "none, tuned"
        yield f"| {title} (`{row['name']}`) | {row['iou']:.3f} | {weights} | {sees} | {row['mpx_per_s']:.2f} |"


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """IoU by name, and the best network against the best classic method."""
    classic = [row["iou"] for row in rows if row["name"] in CLASSIC]
    learnt = [row["iou"] for row in rows if row["name"] not in CLASSIC]
    found: dict[str, Any] = {"iou": {row["name"]: row["iou"] for row in rows}}
    return found | ({"best_vs_classic": max(learnt) - max(classic)} if classic and learnt else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of networks and methods; without any all of them")
    parser.add_argument("--minutes", type=float, default=3.0, help="of each")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a line for each that is finished")
    parser.add_argument("--folder", type=Path, default=CACHE, help="of the workspace, which is kept")
    parser.add_argument("--table", action="store_true", help="print the table of the results, train nothing")
    parser.add_argument("--quick", action="store_true", help="two for seconds: shows that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.error(f"no folder of real images at {DATA}; set SEGCORE_DATA")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="segcore-networks-") as temporary:
        names, minutes = options.names or [*networks(), *SEARCHED], options.minutes
        results, folder = options.results, options.folder
        if options.quick:
            names, minutes, results, folder = ["segnet", "otsu"], 0.1, Path(temporary, "results"), Path(temporary)
        if not options.table:
            run_all(names, minutes, results, folder)
        rows = [row for row in read(results) if row["minutes"] == minutes]
    print(json.dumps(summary(rows)) if options.json else "\n".join(table(rows)))


if __name__ == "__main__":
    main()
