"""Batch: how many tiles go through the network at once, so that no answer depends on a tile's place among them.

Which place a tile has depends on what was skipped and on what an earlier run finished; the mask must not.
"""

import numpy as np

from segcore.geometry import Ints
from segcore.inference.numerics import Network, NotFiniteError
from segcore.inference.precision import noise_tile
from segcore.inference.tiling import Tiling
from segcore.models.info import InputContract


class Batches:
    """The batch for each size of tile; one thread at a time.

    Args:
        network: the models and views as they will run, with the batch that was asked for.
        contract: of the model.
    """

    def __init__(self, network: Network, contract: InputContract) -> None:
        self._network, self._contract = network, contract
        self._found: dict[Ints, int] = {}

    def of(self, tiling: Tiling) -> int:
        """The batch that was asked for, or 1 where an answer would depend, in its last bits, on the place in it."""
        batch, sides = self._network.batch, tiling.read
        if batch == 1 or tiling.num_tiles == 1:  # a tile that is alone is always the first
            return batch
        if sides not in self._found:
            self._found[sides] = batch if self._is_even(sides) else 1
        return self._found[sides]

    def _is_even(self, sides: Ints) -> bool:
        tiles = np.stack([noise_tile(self._contract, sides)] * self._network.batch)
        try:
            with self._network.tile_worker():  # on as many threads as the tiles themselves: kernels differ by it
                network = self._network.adapted(tiles[:1])  # as it will run
                logits = network.logits(tiles, compiled=network.can_compile)
        except NotFiniteError:  # whether it is the noise or the model shows when an image's turn comes
            return False
        return bool((logits == logits[:1]).all())
