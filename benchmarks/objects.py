"""Which way finds nuclei better? The U-Net of border and depth with its watershed, against Mask R-CNN, on DSB2018.

Fold 0 of quality.py's: 46 images train, 12 are held out. Both are trained by `segcore train --task instances` for the
same minutes, each on one core and one thread, at the same time where there are two cores (`--core N` says which); a
small Mask R-CNN, since a CPU makes few steps with it (stand_ins.py: how it runs there). Both are scored on the held-out
images, and then predict these whole and in tiles and shards of 256 px: the watershed with `--halo exact` in float32,
Mask R-CNN with its own halo, and whole up to its tiles of 512 px.

    ap50, pq, f1    of the objects, mean over the held-out images
    same_objects    share of the objects of the whole images that come out of the tiles pixel by pixel
    steps, seconds_per_mpx

    pq_vs_mask_rcnn, ap50_vs_mask_rcnn   the watershed's less Mask R-CNN's

    python benchmarks/objects.py --minutes 10
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from networks import DATA_SET, FOLD, few
from quality import CACHE, each_on_a_core, ingested, segcore, usual_cores
from quality_data import DATA, DATA_SETS
from stand_ins import SMALL_MASK_RCNN, torchvision_command

from segcore.geometry import Window
from segcore.store import Workspace

WAYS: dict[str, tuple[str, ...]] = {
    "watershed": ("--task", "instances"),
    "mask_rcnn": ("--architecture", "mask_rcnn", *SMALL_MASK_RCNN),
}
EXACT = ("--halo", "exact", "--precision", "float32")
WHOLE = {"watershed": (*EXACT, "--tile-px", "1024"), "mask_rcnn": ()}
CUT = {"watershed": (*EXACT, "--tile-px", "256"), "mask_rcnn": ("--tile-px", "256")}

Ids = npt.NDArray[np.unsignedinteger[Any]]


def measure(workspace: Workspace, minutes: float, device: str, way: str) -> dict[str, Any]:
    """Train, predict, score, and predict by another cut."""
    command = partial(segcore, **torchvision_command()) if way == "mask_rcnn" else segcore
    where, on = ("--workspace", workspace.uri), ("--device", device)
    limits = ("--minutes", str(minutes), "--threads", "1", "--name", f"objects_{way}")
    trained = command("train", *where, *WAYS[way], *limits, *on)
    model = str(trained["details"]["model"])
    images = [image_id for image_id in workspace.image_ids() if workspace.image(image_id).split == "test"]
    wanted = [word for image_id in images for word in ("--images", image_id)]
    began = time.perf_counter()
    command("predict", *where, "--model", model, *wanted, "--tile-workers", "1", *on)
    seconds = time.perf_counter() - began
    for name, cut in (("whole", WHOLE[way]), ("cut", (*CUT[way], "--shard-px", "256"))):
        how = ("--name", f"{model}-{name}", "--tile-workers", "1", *cut)
        command("predict", *where, "--model", model, *wanted, *how, *on)
    scored = command("score", *where, "--model", model, "--split", "test", "--boundary", "off")
    instances = scored["scores"]["instances"]
    megapixels = sum(float(np.prod(workspace.image(image_id).shape()[-2:])) for image_id in images) / 1e6
    both = [[ids(workspace, image_id, f"{model}-{name}") for name in ("whole", "cut")] for image_id in images]
    return {
        **{name: instances[name] for name in ("ap50", "pq", "f1")},
        "same_objects": sum(same(*pair) for pair in both) / max(1, sum(int(whole.max()) for whole, _ in both)),
        "steps": trained["details"]["steps"],
        "seconds_per_mpx": seconds / megapixels,
    }


def ids(workspace: Workspace, image_id: str, name: str) -> Ids:
    label = workspace.label(image_id, f"{name}_instances")
    return label.read(Window.whole(label.shape()))


def same(whole: Ids, cut: Ids) -> int:
    """How many objects of one are objects of the other."""
    pairs, counts = np.unique(np.stack([whole.ravel(), cut.ravel()]), axis=1, return_counts=True)
    sizes, of_cut = np.bincount(whole.ravel()), np.bincount(cut.ravel())
    return int(((pairs > 0).all(axis=0) & (counts == sizes[pairs[0]]) & (counts == of_cut[pairs[1]])).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of each training")
    parser.add_argument("--core", type=int, action="append", help="train on this core; once or twice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="the watershed alone, a few images, for seconds: it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.error(f"no folder of real images at {DATA}; set SEGCORE_DATA")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ways, minutes = list(WAYS), options.minutes
    with tempfile.TemporaryDirectory(prefix="segcore-objects-") as temporary:
        folder = CACHE
        if options.quick:
            ways, minutes, folder = ["watershed"], 0.1, Path(temporary)
            DATA_SETS[DATA_SET] = replace(DATA_SETS[DATA_SET], rows=partial(few, DATA_SETS[DATA_SET].rows))
        act = partial(measure, ingested(DATA_SET, FOLD, folder), minutes, options.device)
        found = each_on_a_core(act, ways, options.core or usual_cores())
    if len(ways) > 1:
        for score in ("ap50", "pq"):
            found[f"{score}_vs_mask_rcnn"] = found["watershed"][score] - found["mask_rcnn"][score]
    print(json.dumps(found) if options.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
