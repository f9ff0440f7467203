"""The peer of quality.py: a plain script as MONAI's 2-D segmentation tutorials write it, in a process of its own.

Residual U-Net of 16 to 256 channels, intensities scaled image by image, crops of 192 px around positive and negative
pixels, flips, quarter turns, random intensity, Dice and cross-entropy, Adam at 1e-3, sliding-window inference. It reads
the images and targets of a segcore workspace, trains on all that are not of split `test`, and is scored on those by
segcore's own counts. Ignored pixels are background in training, as the tutorials know no others, and not scored.

    python benchmarks/monai_unet.py WORKSPACE MINUTES SEED    prints one JSON object
"""

import json
import random
import sys
import time
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityd,
    SpatialPadd,
)

from segcore.geometry import Window
from segcore.sampling import IGNORED, LabelledImage
from segcore.scoring.counts import Counter, Counts
from segcore.store import Workspace

CROP_PX = 192
IMAGES_PER_BATCH = 4
IGNORED_ID = 65535


def labelled(workspace: Workspace, is_test: bool) -> list[dict[str, Any]]:
    """Scaled pixels (C, Y, X) and class numbers (1, Y, X) of one side of the split."""
    scale, found = ScaleIntensityd("image"), []
    for image_id in workspace.image_ids():
        image = workspace.image(image_id)
        if (image.split == "test") != is_test:
            continue
        one = LabelledImage(image, workspace.label(image_id, "target"))
        pixels, classes = one.read(0, Window.whole(one.shape_yx))
        found.append({"id": image_id, **scale({"image": pixels.astype(np.float32), "label": classes[None]})})
    return found


def train(images: list[dict[str, Any]], num_classes: int, minutes: float) -> tuple[torch.nn.Module, int]:
    """The trained network and its number of steps."""
    keys, size = ["image", "label"], (CROP_PX, CROP_PX)
    images = [{"image": image["image"], "label": np.maximum(image["label"], 0)} for image in images]
    change = Compose(
        [
            SpatialPadd(keys, size),
            RandCropByPosNegLabeld(keys, label_key="label", spatial_size=size, pos=1, neg=1, num_samples=1),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
            RandFlipd(keys, prob=0.5, spatial_axis=1),
            RandRotate90d(keys, prob=0.5, spatial_axes=(0, 1)),
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]
    )
    network = UNet(
        spatial_dims=2,
        in_channels=len(images[0]["image"]),
        out_channels=num_classes,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )
    loss_of = DiceCELoss(softmax=True, to_onehot_y=True)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    steps, end = 0, time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        chosen = random.sample(images, min(IMAGES_PER_BATCH, len(images)))
        batch = [tile for image in chosen for tile in change(image)]
        tiles, classes = (torch.stack([torch.as_tensor(tile[key]) for tile in batch]) for key in keys)
        optimizer.zero_grad()
        loss = loss_of(network(tiles), classes.to(torch.float32))
        loss.backward()
        optimizer.step()
        steps += 1
    return network.eval(), steps


@torch.inference_mode()
def count(network: torch.nn.Module, images: list[dict[str, Any]], num_classes: int) -> dict[str, Counts]:
    """Counts of each image, whole."""
    counter, found = Counter(range(num_classes), IGNORED_ID), {}
    for image in images:
        logits = sliding_window_inference(torch.as_tensor(image["image"])[None], (CROP_PX, CROP_PX), 4, network)
        classes = np.asarray(image["label"][0])
        target = np.where(classes == IGNORED, IGNORED_ID, classes).astype(np.uint16)
        found[image["id"]] = counter.count(target, logits[0].argmax(0).numpy().astype(np.uint8))
    return found


def main() -> None:
    workspace, minutes, seed = Workspace.open(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    first = next(i for i in workspace.image_ids() if "target" in workspace.label_names(i))
    num_classes = len(workspace.label(first, "target").classes)
    network, steps = train(labelled(workspace, is_test=False), num_classes, minutes)
    counts = count(network, labelled(workspace, is_test=True), num_classes)
    print(json.dumps({"steps": steps, "confusion": {key: c.confusion.tolist() for key, c in counts.items()}}))


if __name__ == "__main__":
    main()
