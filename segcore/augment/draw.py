"""Draw: seed, step, tile -> *the numbers of its augmentation*, on the host and small.

Every number is drawn whether it is used or not: another share of one operation leaves the others as they were.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segcore.augment.choice import Augments
from segcore.config.train import Augment

NODES = 5
"""Nodes along a side of the coarse grid that elastic bends by."""
MAX_BEND = 0.05
"""Largest deviation of a node's shift, in half sides of the tile: 3 px in a tile of 128. Nodes are 0.5 apart, so
neighbours hardly ever swap sides and nothing folds."""
MAX_LOG_SCALE = math.log(1.3)
MAX_NOISE = 0.15
STAIN_GAIN, STAIN_SHIFT = 0.2, 0.05
"""Of each stain: largest change of its strength, and of its (natural) optical density everywhere; the stronger of the
two settings in Tellez et al. 2018, "Whole-slide mitosis detection ... stain augmentation"."""
MIXUP_ALPHA = 0.4


class Augmentation(NamedTuple):
    """What will happen to a batch of N tiles with C bands; without the N, to one tile. All numpy."""

    symmetry: npt.NDArray[Any]
    """(N,), 0..7: turned by `symmetry % 4` quarters against the clock, then mirrored left-right from 4 on."""
    matrix: npt.NDArray[Any]
    """(N, 2, 3), output to input in the coordinates of `torch.nn.functional.affine_grid`."""
    bend: npt.NDArray[Any]
    """(N, 2, NODES, NODES), shift of x and y at the nodes of a coarse grid, same coordinates."""
    stain: npt.NDArray[Any]
    """(N, 2, 3), factor and summand of haematoxylin, eosin and DAB."""
    light: npt.NDArray[Any]
    """(N, 2, C), contrast, and brightness in deviations."""
    gamma: npt.NDArray[Any]
    """(N, C), exponent over the tile's own range."""
    blur: npt.NDArray[Any]
    """(N,), share of a 3x3 binomial blur that is mixed in."""
    noise: npt.NDArray[Any]
    """(N,), deviation of the noise."""
    noise_seed: npt.NDArray[Any]
    """(N,), int64."""
    dropped: npt.NDArray[Any]
    """(N, C), True = the band becomes its mean."""
    mixup: npt.NDArray[Any]
    """(N,), the tile's own share in the mixture; 1 = not mixed."""
    cut: npt.NDArray[Any]
    """(N, 4), the rectangle (y0, y1, x0, x1) in sides of the tile that its partner fills; empty = none."""

    def names(self, k: int) -> list[str]:
        """What happens to tile k, for people."""
        angle = math.degrees(math.atan2(self.matrix[k, 1, 0], self.matrix[k, 0, 0]))
        scale = 1 / math.hypot(*self.matrix[k, :, 0])
        found = {
            "turned" if self.symmetry[k] < 4 else "mirrored": self.symmetry[k] > 0,
            f"rotated by {abs(angle):.0f}°": abs(angle) > 0.5,
            f"scaled {scale:.2f} x": abs(scale - 1) > 0.005,
            "bent": self.bend[k].any(),
            "stains": (self.stain[k] != [[1.0], [0.0]]).any(),
            "light": (self.light[k] != [[1.0], [0.0]]).any(),
            "gamma": (self.gamma[k] != 1).any(),
            "blur": self.blur[k] > 0,
            "noise": self.noise[k] > 0,
            f"bands dropped: {self.dropped[k].sum()}": self.dropped[k].any(),
            f"mixed with {100 * (1 - self.mixup[k]):.0f} % of another": self.mixup[k] < 1,
            "a rectangle of another": self.cut[k].any(),
        }
        return [name for name, applies in found.items() if applies]


def draw_augmentation(
    augments: Augments, seed: int, step: int, batch: int, num_bands: int, first: int = 0
) -> Augmentation:
    """What happens to tiles `first` to `first + batch - 1` of one step: a pure function of its arguments."""
    rows = [
        _draw_tile(np.random.default_rng((seed, step, k, 1)), num_bands, augments) for k in range(first, first + batch)
    ]
    return Augmentation(*(np.stack(values) for values in zip(*rows, strict=True)))


def _draw_tile(rng: np.random.Generator, num_bands: int, augments: Augments) -> Augmentation:
    share = augments.shares
    names: tuple[Augment, ...] = ("flip", "stain", "light", "gamma", "blur", "noise", "bands")
    on = {name: bool(rng.random() < share[name]) for name in names}
    matrix, bend = _draw_place(rng, augments)
    stain = np.stack([rng.uniform(1 - STAIN_GAIN, 1 + STAIN_GAIN, 3), rng.uniform(-STAIN_SHIFT, STAIN_SHIFT, 3)])
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.05, num_bands))
    shift = rng.normal(0, 0.2) + rng.normal(0, 0.1, num_bands)
    gamma = np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.05, num_bands))
    symmetry = int(rng.choice(augments.flips))
    num_dropped = int(rng.integers(1, max(2, num_bands // 4 + 1)))
    dropped = rng.permutation(num_bands) < num_dropped
    blur, noise, noise_seed = rng.uniform(0, 1), rng.uniform(0, MAX_NOISE), rng.integers(2**62)
    mixup, cut = _draw_mix(rng, augments)
    return Augmentation(
        symmetry=np.array(symmetry if on["flip"] else 0),
        matrix=matrix,
        bend=bend,
        stain=stain if on["stain"] else np.array([[1.0] * 3, [0.0] * 3]),
        light=np.stack([gain, shift] if on["light"] else [np.ones(num_bands), np.zeros(num_bands)]),
        gamma=gamma if on["gamma"] else np.ones(num_bands),
        blur=np.array(blur if on["blur"] else 0.0),
        noise=np.array(noise if on["noise"] else 0.0),
        noise_seed=np.array(noise_seed),
        dropped=dropped & on["bands"] & (num_bands > 1),
        mixup=mixup,
        cut=cut,
    )


def _draw_place(rng: np.random.Generator, augments: Augments) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Affine matrix and bend. What resamples takes the same tiles, since resampling blurs: the others stay sharp."""
    share, which = augments.shares, rng.random()
    angle = math.radians(augments.max_angle) * rng.uniform(-1, 1) * (which < share["rotate"])
    scale = math.exp(rng.uniform(-MAX_LOG_SCALE, MAX_LOG_SCALE) * (which < share["scale"]))
    centre = rng.uniform(-1, 1, 2) * max(0.0, 1 - scale)  # seen larger, it is a crop from anywhere in the tile
    bend = rng.normal(0, 1, (2, NODES, NODES)) * rng.uniform(0, MAX_BEND) * (which < share["elastic"])
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return np.hstack([np.array(turn) * scale, centre[:, None]]), bend


def _draw_mix(rng: np.random.Generator, augments: Augments) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Share of mixup and rectangle of cutmix; no tile has both."""
    share, which = augments.shares, rng.random()
    own = rng.beta(MIXUP_ALPHA, MIXUP_ALPHA)
    half = math.sqrt(rng.uniform(0, 1)) / 2
    centre = rng.uniform(0, 1, 2)
    cut = np.clip(np.stack([centre - half, centre + half], axis=1).ravel(), 0, 1)
    is_mixed = which < share["mixup"]
    is_cut = not is_mixed and which < share["mixup"] + share["cutmix"]
    return np.array(max(own, 1 - own) if is_mixed else 1.0), cut if is_cut else np.zeros(4)
