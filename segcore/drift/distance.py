"""Distance: statistics of the training images -> how far another image is from them. numpy only.

The Mahalanobis distance of an image's statistics from the training images' mean, as for features of networks in Lee et
al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples" (2018), and of U-Nets in González et al.,
"Distance-based detection of out-of-distribution silent failures for Covid-19 lung lesion segmentation" (2022). There
are fewer images than statistics as a rule, so the correlations are shrunk towards none (Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices", 2004).

What is far is told by the training images themselves: each one's distance from all the others (leave one out), and the
share of these that are nearer. That share is calibrated whatever the statistics' distribution (conformal anomaly
detection: Laxhammar and Falkman, 2010): of images like the training ones, about one in a hundred is beyond 99 %.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

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
        self._num = len(rows)
        self._mean = rows.mean(axis=0)
        self._scale = np.maximum(rows.std(axis=0, ddof=1), least)
        self._standard = (rows - self._mean) / self._scale
        self._kept = 1 - shrinkage(self._standard)
        self._squares = self._standard.T @ self._standard
        # What the floor added to each deviation is noise of its own.
        self._noise = np.diag(1 - np.diag(self._squares) / (self._num - 1)).clip(0)
        self._inverse = np.linalg.inv(self._shrunk(self._num - 1))

    def _shrunk(self, freedom: int) -> Floats:
        """Covariance of the standard scores."""
        found: Floats = self._kept * (self._squares / freedom + self._noise)
        return found + (1 - self._kept) * np.eye(len(self._noise))

    def deviations(self, row: Floats) -> Floats:
        """By how many deviations each statistic (statistics,) is above the training images' mean."""
        return np.asarray((row - self._mean) / self._scale)

    def distance(self, row: Floats) -> float:
        """Of an image that is none of the training images."""
        z = self.deviations(row)
        return math.sqrt(z @ self._inverse @ z)

    def left_out(self) -> Floats:
        """(images,): of each training image from the others alone, under the same scale and shrinkage.

        Without image i the mean moves by z_i / (n - 1), and the sum of squares loses n / (n - 1) z_i z_i'; the inverse
        follows by Sherman and Morrison's formula.
        """
        n, z = self._num, self._standard
        q = np.einsum("ij,jk,ik->i", z, np.linalg.inv(self._shrunk(n - 2)), z)
        lost = self._kept * n / ((n - 1) * (n - 2))
        return np.asarray(n / (n - 1) * np.sqrt(q / (1 - lost * q)))


def shrinkage(centred: Floats) -> float:
    """The share of a multiple of the identity in Ledoit and Wolf's covariance; rows (n, p) have the mean 0."""
    n, p = centred.shape
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
