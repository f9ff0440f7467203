"""Distance: statistics of the training images -> how far another image is from them. numpy only.

The Mahalanobis distance of an image's statistics from the training images' mean, as for features of networks in Lee et
al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples" (2018), and of U-Nets in González et al.,
"Distance-based detection of out-of-distribution silent failures for Covid-19 lung lesion segmentation" (2022). There
are fewer images than statistics as a rule, so the correlations are shrunk towards none (Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices", 2004).

What is far is told by the training images themselves: each one's distance from all the others (leave one out), and the
share of these that are nearer. That share is calibrated whatever the statistics' distribution (conformal anomaly
detection: Laxhammar and Falkman, 2010): of images like the training ones, about one in a hundred is beyond 99 %; fewer
where there are few training images, since each of them is then held against noticeably fewer than a new one is.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

METHOD = 2
"""Goes up with every change of this file that can change a score."""
MIN_IMAGES = 3
"""With fewer nothing is known of how far images are apart."""
ORDINARY = 0.99
"""Share of images like the training ones that are to count as ordinary."""


class Spread:
    """How a group of statistics is spread over the training images.

    Args:
        rows: (images, statistics), at least `MIN_IMAGES`.
        least: (statistics,): the smallest deviation that is believed; a smaller one is raised to it.
    """

    def __init__(self, rows: Floats, least: Floats) -> None:
        assert len(rows) >= MIN_IMAGES, f"{len(rows)} images tell no spread"
        self._rows, self._least = rows, least
        self._mean, self._scale, self._inverse = _fitted(rows, least)

    def deviations(self, row: Floats) -> Floats:
        """By how many deviations each statistic (statistics,) is above the training images' mean."""
        return np.asarray((row - self._mean) / self._scale)

    def distance(self, row: Floats) -> float:
        """Of an image that is none of the training images."""
        return _distance(row, self._mean, self._scale, self._inverse)

    def left_out(self) -> Floats:
        """(images,): of each training image from the others alone, as of a new image.

        Nothing of the image itself may be in what it is held against, neither in the scale nor in the shrinkage: with
        few images that would make it nearer than any new one can be.
        """
        others = (np.delete(self._rows, number, axis=0) for number in range(len(self._rows)))
        fits = (_fitted(rows, self._least) for rows in others)
        return np.array([_distance(row, *fit) for row, fit in zip(self._rows, fits, strict=True)])


def _fitted(rows: Floats, least: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean and deviation of each statistic, and the inverse covariance of the standard scores."""
    mean = rows.mean(axis=0)
    scale = np.maximum(rows.std(axis=0, ddof=1), least)
    standard = (rows - mean) / scale
    covariance = standard.T @ standard / (len(rows) - 1)
    # What the floor added to each deviation is noise of its own.
    covariance += np.diag((1 - np.diag(covariance)).clip(0))
    share = shrinkage(standard)
    return mean, scale, np.linalg.inv((1 - share) * covariance + share * np.eye(len(least)))


def _distance(row: Floats, mean: Floats, scale: Floats, inverse: Floats) -> float:
    z = (row - mean) / scale
    return math.sqrt(z @ inverse @ z)


def shrinkage(centred: Floats) -> float:
    """The share of a multiple of the identity in Ledoit and Wolf's covariance; rows (n, p) have the mean 0.

    Of two rows, one the other's opposite, it is all: they say nothing of correlations.
    """
    n, p = centred.shape
    if n < 3:
        return 1.0
    covariance = centred.T @ centred / n
    mean = np.trace(covariance) / p
    apart = (covariance**2).sum() - p * mean**2
    noise = ((centred**2).sum(axis=1) ** 2).sum() / n**2 - (covariance**2).sum() / n
    return float(min(noise / apart, 1.0)) if apart > 0 else 1.0


def usual(distances: Floats, num_statistics: int) -> float:
    """The middle training image's distance; where all are the same image over and over, a tenth of what is expected."""
    return max(float(np.median(distances)), 0.1 * math.sqrt(num_statistics))


def beyond(scores: Floats) -> float:
    """The score that `ORDINARY` of the images like the training ones do not pass.

    With fewer than 99 of these it is the largest of theirs, which one image in n + 1 passes.
    """
    rank = min(math.ceil((len(scores) + 1) * ORDINARY), len(scores))
    return float(np.sort(scores)[rank - 1])
