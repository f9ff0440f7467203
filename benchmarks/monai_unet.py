"""The peer of quality.py: the U-Net of MONAI's 2-D segmentation tutorial, trained as it is there.

Intensities scaled image by image, 96 px crops around positive and negative pixels, quarter turns, Dice loss, Adam at
1e-3, sliding-window inference; nothing else. It reads the images and targets of a segcore workspace, trains on all that
are not of split `test`, and is scored on those by segcore's own counts.
"""

import random
import time
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceLoss
from monai.networks.nets import UNet
from monai.transforms import Compose, RandCropByPosNegLabeld, RandRotate90d, ScaleIntensityd

from segcore.geometry import Window
from segcore.sampling import IGNORED, LabelledImage
from segcore.scoring.counts import Counter, Counts, foreground_rows, overall_scores
from segcore.store import Workspace

CROP_PX = 96
IMAGES_PER_BATCH = 2
CROPS_PER_IMAGE = 4
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
        found.append(scale({"image": pixels.astype(np.float32), "label": classes[None]}))
    return found


def train(images: list[dict[str, Any]], num_classes: int, minutes: float) -> tuple[torch.nn.Module, int]:
    """The trained network and its number of steps; ignored pixels are background, as the tutorial knows no others."""
    binary, keys = num_classes == 2, ["image", "label"]
    images = [image | {"label": np.maximum(image["label"], 0)} for image in images]
    size = (CROP_PX, CROP_PX)
    crop = RandCropByPosNegLabeld(keys, label_key="label", spatial_size=size, pos=1, neg=1, num_samples=CROPS_PER_IMAGE)
    crops = Compose([crop, RandRotate90d(keys, prob=0.5, spatial_axes=(0, 1))])
    network = UNet(
        spatial_dims=2,
        in_channels=len(images[0]["image"]),
        out_channels=1 if binary else num_classes,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )
    loss_of = DiceLoss(sigmoid=True) if binary else DiceLoss(softmax=True, to_onehot_y=True)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    steps, end = 0, time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        chosen = random.sample(images, min(IMAGES_PER_BATCH, len(images)))
        batch = [tile for image in chosen for tile in crops(image)]
        tiles, classes = (torch.stack([torch.as_tensor(tile[key]) for tile in batch]) for key in keys)
        optimizer.zero_grad()
        loss = loss_of(network(tiles), classes.to(torch.float32))
        loss.backward()
        optimizer.step()
        steps += 1
    return network.eval(), steps


@torch.inference_mode()
def count(network: torch.nn.Module, images: list[dict[str, Any]], num_classes: int) -> Counts:
    """Counts over whole images."""
    counter, total = Counter(range(num_classes), IGNORED_ID), Counts.zeros(num_classes)
    for image in images:
        tiles = torch.as_tensor(image["image"])[None]
        logits = sliding_window_inference(tiles, (CROP_PX, CROP_PX), 4, network)[0]
        ids = (logits[0] > 0) if num_classes == 2 else logits.argmax(0)
        classes = np.asarray(image["label"][0])
        target = np.where(classes == IGNORED, IGNORED_ID, classes).astype(np.uint16)
        total += counter.count(target, ids.numpy().astype(np.uint8))
    return total


def train_and_score(workspace_uri: str, minutes: float, threads: int) -> dict[str, Any]:
    """Overall scores on the images of split `test`, and the number of steps."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if threads:
        torch.set_num_threads(threads)
    workspace = Workspace.open(workspace_uri)
    first = next(i for i in workspace.image_ids() if "target" in workspace.label_names(i))
    classes = workspace.label(first, "target").classes
    network, steps = train(labelled(workspace, is_test=False), len(classes), minutes)
    counts = count(network, labelled(workspace, is_test=True), len(classes))
    return {"scores": overall_scores(counts.confusion, foreground_rows(classes)), "steps": steps}
