"""Normalised: pixels of one tile -> what a model sees of them, in numpy."""

import numpy as np
import numpy.typing as npt

from segcore.models.info import InputContract
from segcore.store import Image


def normalised(contract: InputContract, image: Image, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Pixels (C, ...) of one tile -> (1, C, *axes of the model); what is missing is average."""
    num_axes = len(contract.axes)
    pixels = pixels.reshape(len(pixels), *pixels.shape[-num_axes:])
    bands = (-1, *(1,) * num_axes)
    mean, std = (np.asarray(each, np.float32).reshape(bands) for each in (contract.mean, contract.std))
    normal: npt.NDArray[np.float32] = (pixels.astype(np.float32) - mean) / std
    normal[missing_values(image, pixels)] = 0
    return normal[None]


def missing_values(image: Image, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Of integers a pixel (C, ...) is missing where all bands are, of floats each value by itself, as in prediction."""
    absent = image.missing(pixels)
    if np.issubdtype(pixels.dtype, np.floating):
        return absent
    return np.broadcast_to(absent.all(axis=0), absent.shape)
