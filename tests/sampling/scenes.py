"""Labelled images that the tests of sampling share."""

import numpy as np

from segcore.sampling import LabelledImage
from segcore.store import Workspace
from tests.synthetic import put_image, put_label


def labelled(workspace: Workspace, image_id: str = "a", level: int = 0) -> LabelledImage:
    return LabelledImage(workspace.image(image_id), workspace.label(image_id, "target"), level)


def random_image(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (3, *shape), dtype=np.uint8), rng.integers(0, 2, shape, dtype=np.uint8)


def rare(workspace: Workspace) -> LabelledImage:
    """900 x 700 px with four pixels of class 1."""
    pixels, _ = random_image(4, (900, 700))
    ids = np.zeros((900, 700), np.uint8)
    ids[640:642, 300:302] = 1
    ids[:50] = 255
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    return labelled(workspace)


def bands(workspace: Workspace, image_id: str, shape: tuple[int, int], seed: int = 0) -> LabelledImage:
    """Noise; a twentieth of class 1, a tenth ignored, the rest of class 0, in blobs of 20 px."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(np.array([0, 1, 255], np.uint8), tuple(-(-n // 20) for n in shape), p=[0.85, 0.05, 0.1])
    ids = coarse.repeat(20, axis=0).repeat(20, axis=1)[: shape[0], : shape[1]]
    put_image(workspace, image_id, rng.integers(0, 255, (3, *shape), dtype=np.uint8))
    put_label(workspace, image_id, "target", np.ascontiguousarray(ids))
    return labelled(workspace, image_id)
