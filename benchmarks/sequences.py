"""Does a network that remembers make steadier masks? ConvLSTM U-Net against a U-Net of single frames, on CamVid.

Both are trained by `segcore train` for the same minutes on the same three sequences (1 Hz), each on one core and one
thread, at the same time where there are two cores (`--core N`, once or twice, says which); of those of the ConvLSTM the
first half go to a U-Net of single frames, whose weights it begins with. They are scored on 16 consecutive frames of
about 15 Hz that neither has seen.

    miou         of the classes that occur in the 16 frames, of all their pixels
    consistency  mean IoU of each mask and the one before it, moved along by the optical flow of the frames
                 (Liu et al., "Efficient Semantic Video Segmentation with Per-Frame Inference", 2020); the flow is
                 TV-L1 (Zach et al., 2007) of scikit-image

    miou_vs_frames, consistency_vs_frames   the ConvLSTM's less the U-Net's

    python benchmarks/sequences.py --minutes 10
"""

import argparse
import csv
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from quality import confusion_of, each_on_a_core, score_of, segcore, usual_cores
from quality_data import DATA
from skimage.color import rgb2gray
from skimage.registration import optical_flow_tvl1

from segcore.geometry import Window
from segcore.store import Workspace

CHANNELS = ("--arguments", "channels=8,16,32,64,128")
NETWORKS = {"frames": "unet", "convlstm": "convlstm_unet"}
SEQUENCES = {"0001TP": "train", "0006R0": "train", "0016E5": "train", "heldout": "test"}

Ids = npt.NDArray[np.uint8]


def frames(name: str, kind: str) -> npt.NDArray[np.uint8]:
    """One sequence in its order: (T, Y, X, 3) of the images, (T, Y, X) of `annot`."""
    folder = DATA / "camvid" / (("val" if name == "heldout" else "train") + kind)
    paths = sorted(folder.glob("*.png" if name == "heldout" else f"{name}*.png"))
    return np.stack([np.asarray(Pillow.open(path)) for path in paths])


def ingested(folder: Path) -> Workspace:
    """The four sequences, each one image (T, C, Y, X) with its target."""
    rows = []
    for name, split in SEQUENCES.items():
        np.save(folder / f"{name}.npy", frames(name, "").transpose(0, 3, 1, 2))
        np.save(folder / f"{name}-target.npy", frames(name, "annot"))
        rows.append({"source": folder / f"{name}.npy", "target": folder / f"{name}-target.npy", "split": split})
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    where = str(folder / "workspace")
    given = ("--manifest", str(folder / "manifest.csv"), "--workspace", where)
    segcore("ingest", *given, "--classes", "camvid", "--array-axes", "tcyx")
    return Workspace.open(where)


def measure(workspace: Workspace, name: str, minutes: float, max_frames: int) -> dict[str, float]:
    """Train, predict, score."""
    where = ("--workspace", workspace.uri)

    def trained(network: str, minutes: float, *more: str) -> str:
        how = ("--architecture", network, *CHANNELS, "--minutes", str(minutes), "--threads", "1")
        return str(segcore("train", *where, *how, "--name", f"{name}-{network}", *more)["details"]["model"])

    if name == "convlstm":
        model = trained(NETWORKS[name], minutes / 2, "--init", trained(NETWORKS["frames"], minutes / 2))
    else:
        model = trained(NETWORKS[name], minutes)
    (image,) = (image_id for image_id in workspace.image_ids() if workspace.image(image_id).split == "test")
    segcore("predict", *where, "--model", model, "--images", image, "--tile-workers", "1")
    segcore("score", *where, "--model", model, "--split", "test", "--boundary", "off")
    confusion = np.asarray(confusion_of(workspace, image, model), np.int64)
    label = workspace.label(image, model)
    masks = label.read(Window.whole(label.shape(0)))
    miou = score_of("camvid", workspace.label(image, "target").classes, confusion)
    return {"miou": miou, "consistency": consistency(masks[:max_frames], frames("heldout", "")[:max_frames])}


def consistency(masks: Ids, images: npt.NDArray[np.uint8]) -> float:
    """Mean over consecutive frames of the mean IoU of a mask and the one before it, moved along.

    Args:
        masks: (T, Y, X), class ids.
        images: (T, Y, X, 3).
    """
    grey = [rgb2gray(image) for image in images]
    y, x = np.mgrid[: masks.shape[1], : masks.shape[2]]
    scores = []
    for before, after, past, now in zip(grey, grey[1:], masks, masks[1:], strict=False):
        down, right = optical_flow_tvl1(after, before)  # type: ignore[no-untyped-call]
        places = np.rint(np.array([y + down, x + right])).astype(int)
        moved = past[np.clip(places[0], 0, len(past) - 1), np.clip(places[1], 0, past.shape[1] - 1)]
        scores.append(mean_iou(moved, now))
    return float(np.mean(scores))


def mean_iou(one: Ids, other: Ids) -> float:
    """Over the classes that either of two masks has."""
    ids = np.union1d(one, other)
    pairs = [(one == number, other == number) for number in ids]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of each training")
    parser.add_argument("--core", type=int, action="append", help="train on this core; once or twice")
    parser.add_argument("--quick", action="store_true", help="a few seconds of training: shows that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.error(f"no folder of real images at {DATA}; set SEGCORE_DATA")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    minutes, max_frames = (0.1, 3) if options.quick else (options.minutes, 16)
    with tempfile.TemporaryDirectory(prefix="segcore-sequences-") as temporary:
        workspace = ingested(Path(temporary))

        def one(name: str) -> dict[str, float]:
            return measure(workspace, name, minutes, max_frames)

        found: dict[str, Any] = each_on_a_core(one, list(NETWORKS), options.core or usual_cores())
    for score in ("miou", "consistency"):
        found[f"{score}_vs_frames"] = found["convlstm"][score] - found["frames"][score]
    if options.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
