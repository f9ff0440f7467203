"""Bands: pixels of a sample -> *statistics of each band, and of each stain* of a bright-field slide. numpy only."""

import numpy as np
import numpy.typing as npt

from segcore.drift.reference import Statistics
from segcore.models.info import InputContract

PERCENTILES = (1, 50, 99)
MAX_BANDS = 32
"""With more, each has a mean and a deviation alone."""
STAINS = ("haematoxylin", "eosin", "residual stain")
HED_FROM_RGB = np.linalg.inv([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Stains of optical densities in red, green and blue: Ruifrok & Johnston 2001, "Quantification of histochemical
staining by color deconvolution"."""
BRIGHT = 127
"""Mean of 8-bit RGB above which light shone through the specimen."""


def band_statistics(
    pixels: npt.NDArray[np.generic], missing: npt.NDArray[np.bool_], names: tuple[str, ...]
) -> Statistics:
    """Mean, deviation and percentiles of each band.

    Args:
        pixels: (C, n), as the model gets them.
        missing: likewise: values that do not count.
        names: of the bands.
    """
    told: list[str] = []
    values: list[float] = []
    units: list[float] = []
    for name, band, is_missing in zip(names, pixels, missing, strict=True):
        own = band[~is_missing].astype(np.float64)
        assert own.size, f"{name} has no value"
        found = {"mean": own.mean(), "deviation": own.std()}
        if len(names) <= MAX_BANDS:
            found |= {f"p{q}": v for q, v in zip(PERCENTILES, np.percentile(own, PERCENTILES), strict=True)}
        told += [f"{statistic} {name}" for statistic in found]
        values += [float(value) for value in found.values()]
        units += [float(own.std())] * len(found)
    return Statistics(tuple(told), tuple(values), tuple(units))


def has_stains(contract: InputContract, unit: str | None) -> bool:
    """True of a model of stained slides: bright 8-bit RGB whose pixels are measured in micrometres."""
    is_rgb = tuple(name.lower() for name in contract.bands) == ("red", "green", "blue")
    return is_rgb and contract.dtype == "uint8" and unit == "micrometer" and float(np.mean(contract.mean)) > BRIGHT


def stain_statistics(pixels: npt.NDArray[np.generic], missing: npt.NDArray[np.bool_]) -> Statistics:
    """Amount (mean) and spread (deviation) of haematoxylin, eosin and what is left, in optical density.

    Args:
        pixels: (3, n) uint8: red, green, blue.
        missing: likewise.
    """
    own = pixels[:, ~missing.any(axis=0)].astype(np.float64)
    stains = np.asarray(HED_FROM_RGB.T @ -np.log(np.maximum(own, 1) / 255), np.float64)
    means, deviations = stains.mean(axis=1), stains.std(axis=1)
    names = [f"{what} {stain}" for stain in STAINS for what in ("amount", "spread")]
    values = np.stack([means, deviations], axis=1).ravel().tolist()
    return Statistics(tuple(names), tuple(values), tuple(np.repeat(deviations, 2).tolist()))
