"""Survey: what the plan of a night has to know of its images, read once, before the first; images -> *survey* -> job.

Of each image only these few numbers are kept: a night has thousands. When its turn comes, hours later perhaps, it is
opened anew, so that its mask is of what it then is.
"""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from segcore.geometry import Grid, Ints
from segcore.inference.contract import check_contract
from segcore.models.info import InputContract
from segcore.store import Workspace
from segcore.store.workspace import THREADS

log = logging.getLogger("segcore.inference")


@dataclass(frozen=True, slots=True)
class Seen:
    """An image that the model can take."""

    image_id: str
    shape: Ints
    """Of the model grid."""
    mask_shape: Ints

    def num_shards(self, shard_px: int) -> int:
        """Of the mask's finest level."""
        return Grid(self.mask_shape, (*(1,) * (len(self.mask_shape) - 2), shard_px, shard_px)).num_cells


def survey(
    ws: Workspace, contract: InputContract, tolerance: float | None, image_ids: Iterable[str]
) -> tuple[Seen, ...]:
    """The images that the model can take, in their order; what is wrong with the others is told when their turn comes.

    Args:
        ws: where they are.
        contract: of the model.
        tolerance: of the pixel size; None = the contract's.
        image_ids: of the images, each once.
    """

    def seen(image_id: str) -> Seen | None:
        try:
            grid = check_contract(contract, ws.image(image_id), tolerance).grid
        except Exception as error:
            log.debug("image %s is left out of the plan", image_id, exc_info=error)
            return None
        return Seen(image_id, grid.shape, grid.mask_shape)

    with ThreadPoolExecutor(THREADS) as threads:
        return tuple(found for found in threads.map(seen, image_ids) if found is not None)
