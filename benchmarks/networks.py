"""Every network for a few minutes on DSB2018, and every classic method with tuned arguments beside them.

Fold 0 of quality.py's: 46 images train, 12 are held out, scored by the IoU of their pixels. Networks are trained by
`segcore train --architecture NAME --minutes 3`, all else as it comes; MONAI's networks of volumes take planes
(`dims=2`), and Mask R-CNN is a small one (stand_ins.py: how it runs beside a CPU torch). Of a classic method `segcore
tune` searches the arguments in 40 trials (8 of the slowest three), on training images alone. Two at a time, each on one
core and one thread; `--core N` (once or more) says on which, and so how many at a time. A finished one is a line of the
results file, and is not run again; one that fails is named at the end, and tried again by the next call. The table is
part of quality.md.

    iou          of nuclei, all pixels of the held-out images together: a large image counts as its pixels do
    image_iou    the mean of the held-out images' own
    parameters   of the network as it was trained
    context_px   how far it sees, or `all of its tile`
    mpx_per_s    of a tile of 512 px on one core, while the other core may train

    best_vs_classic   IoU of the best network less that of the best classic method

    python benchmarks/networks.py --minutes 3
    python benchmarks/networks.py --minutes 3 --core 1
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import CACHE, confusion_of, ingested, one_per_core, read, score_of, segcore, usual_cores
from quality_data import DATA, DATA_SETS, Row
from stand_ins import SMALL_MASK_RCNN, load_torchvision, torchvision_command

from segcore.models import find_architecture, planes_of
from segcore.models.catalog import ARCHITECTURES
from segcore.models.classic.entries import CLASSIC
from segcore.models.image_norm import standing
from segcore.models.package import ModelPackage, read_package
from segcore.store import Workspace

RESULTS = Path(__file__).with_name("networks.jsonl")
DATA_SET, FOLD, SPEED_PX, REPEATS, TRIALS = "dsb2018", 0, 512, 3, 40
QUICK_NAMES, QUICK_MINUTES, QUICK_TRIALS, QUICK_STEP = ("segnet", "otsu"), 0.1, 3, 5
"""The last: of so many images one."""
TUNED_SET = "dsb2018_tuned"
TRAINED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("dynunet", "segresnet", "swinunetr", "unetr"), ("--arguments", "dims=2")),
    "mask_rcnn": SMALL_MASK_RCNN,
}
"""Networks that are not trained as they come."""
SLOW_TRIALS = dict.fromkeys(("felzenszwalb", "random_walker", "graph_cut"), 8)
"""Of those that take seconds for a tile."""
STRETCH = "stretch=on|off"
INDICES = ("ndvi", "ndwi")
SEARCHED = {name: (*entry.searched, STRETCH) for name, entry in CLASSIC.items() if name not in INDICES}
"""What is tuned of each; the indices of satellites' bands are left out."""


def with_validation(fold: int, folds: int) -> list[Row]:
    """Some of the training images tell which arguments of a classic method are best."""
    rows = DATA_SETS[DATA_SET].rows(fold, folds)
    train = [row for row in rows if row["split"] == "train"]
    return [*({**row, "split": "val"} for row in train[::4]), *(row for row in rows if row not in train[::4])]


def few(rows: Callable[[int, int], list[Row]], fold: int, folds: int) -> list[Row]:
    """A few images of each split."""
    by_split: dict[str, list[Row]] = {}
    for row in rows(fold, folds):
        by_split.setdefault(str(row["split"]), []).append(row)
    return [row for each in by_split.values() for row in each[::QUICK_STEP]]


def networks() -> list[str]:
    """Names of our networks that take single planes."""
    ours = (name for name in ARCHITECTURES if name not in CLASSIC)
    return [name for name in ours if (name in TRAINED or planes_of(name, {}) is None) and name != "conv1"]


def command(name: str) -> Callable[..., dict[str, Any]]:
    """`segcore`, by stand-ins for what torchvision may lack."""
    return partial(segcore, **torchvision_command()) if name == "mask_rcnn" else segcore


def trained(name: str, workspace: Workspace, minutes: float) -> str:
    """Model id of a network or a tuned method."""
    how = ("--workspace", workspace.uri, "--architecture", name, "--name", name, "--threads", "1")
    if name not in SEARCHED:
        limits = ("--minutes", str(minutes), *TRAINED.get(name, ()))
        return str(command(name)("train", *how, *limits)["details"]["model"])
    search = [word for text in SEARCHED[name] for word in ("--search", text)]
    trials = SLOW_TRIALS.get(name, TRIALS) if minutes > QUICK_MINUTES else QUICK_TRIALS
    return str(segcore("tune", *how, "--trials", str(trials), *search)["details"]["model"])


def measure(name: str, workspace: Workspace, minutes: float) -> dict[str, Any]:
    """One line of the results."""
    model = trained(name, workspace, minutes)
    images = [image_id for image_id in workspace.image_ids() if workspace.image(image_id).split == "test"]
    where = ("--workspace", workspace.uri, "--model", model)
    command(name)("predict", *where, *(f"--images={image_id}" for image_id in images), "--tile-workers", "1")
    segcore("score", *where, "--split", "test", "--boundary", "off")
    counts = [np.asarray(confusion_of(workspace, image, model), np.int64) for image in images]
    iou = partial(score_of, DATA_SET, workspace.label(images[0], "target").classes)
    if name == "mask_rcnn":
        load_torchvision()
    package = read_package(workspace, model)
    return {
        "name": name,
        "minutes": minutes,
        "iou": iou(np.asarray(sum(counts))),
        "image_iou": statistics.fmean(map(iou, counts)),
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


def run_all(names: Sequence[str], minutes: float, results: Path, folder: Path, cores: Sequence[int | None]) -> None:
    """Those that are not in the results yet, one at a time on each core.

    Raises:
        SystemExit: naming those that failed; the others have their lines.
    """
    done = {(row["name"], row["minutes"]) for row in read(results)}
    workspace, own = ingested(DATA_SET, FOLD, folder), ingested(TUNED_SET, FOLD, folder)

    def one(name: str) -> None:
        row = measure(name, own if name in SEARCHED else workspace, minutes)
        with results.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(row) + "\n")
        print(f"{name}: {row['iou']:.4f}", file=sys.stderr)

    left = [name for name in names if (name, minutes) not in done]
    failed = {name: error for name, error in one_per_core(one, left, cores).items() if error is not None}
    if failed:
        sys.exit("\n".join(f"{name} failed: {error}" for name, error in failed.items()))


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The end of quality.md."""
    minutes = rows[0]["minutes"] if rows else 0
    yield f"\n## Networks and classic methods on DSB2018, {minutes:g} minutes each\n"
    yield "Made by `python benchmarks/networks.py`: 46 images train, 12 are held out; IoU of all their pixels, which"
    yield "one large image decides, and the mean of the images' own. Speed is that of one core. MONAI's networks of"
    yield "volumes take planes here (`dims=2`); Mask R-CNN is a small one, by stand-ins for what torchvision compiles."
    slow = min(SLOW_TRIALS.values())
    yield f"Classic methods have no weights: {TRIALS} trials ({slow} of the three slowest) chose their arguments on"
    yield "training images.\n"
    yield "| network or method | IoU | by image | parameters | sees | Mpx/s |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in sorted(rows, key=lambda row: -row["iou"]):
        sees = "all of its tile" if row["context_px"] is None else f"{row['context_px']} px"
        title = find_architecture(row["name"]).title
        weights = f"{row['parameters']:,}" if row["parameters"] else "none, tuned"
        scores, mpx = f"{row['iou']:.3f} | {row['image_iou']:.3f}", f"{row['mpx_per_s']:.2f}"
        yield f"| {title} (`{row['name']}`) | {scores} | {weights} | {sees} | {mpx} |"


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
    parser.add_argument("--core", type=int, action="append", help="train on this core; once or more; without: on two")
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
            names, minutes, results, folder = QUICK_NAMES, QUICK_MINUTES, Path(temporary, "results"), Path(temporary)
            for name in (DATA_SET, TUNED_SET):
                rows_of = DATA_SETS[name].rows
                DATA_SETS[name] = replace(DATA_SETS[name], rows=partial(few, rows_of))
        if not options.table:
            run_all(names, minutes, results, folder, options.core or usual_cores())
        rows = [row for row in read(results) if row["minutes"] == minutes]
    print(json.dumps(summary(rows)) if options.json else "\n".join(table(rows)))


if __name__ == "__main__":
    main()
