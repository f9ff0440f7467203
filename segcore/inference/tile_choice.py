"""Tile choice: the tile and halo that an image takes: what is asked for, else what is fastest, or the package's own."""

import math
from collections.abc import Callable

from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.geometry import Ints, rounded_up
from segcore.inference.model_grid import ModelGrid
from segcore.inference.tiling import Tiling, crop_tiling, gaussian_tiling
from segcore.inference.tuning import Tuning
from segcore.models.info import InputContract
from segcore.models.package import ModelPackage

EXACT_TILE_PX = 1024
"""With a halo that is exact, write windows are at least this wide..."""
EXACT_WASTE = 1.6
"""...and so wide that no more pixels than this are inferred per pixel that is written..."""
EXACT_READ_PX = 8 << 20
"""...unless a read window had more pixels than this..."""
EXACT_LOGITS_BYTES = 256 << 20
"""...or more logits, of many classes, than this: bounds on memory."""

TUNED_FROM_PX = 4096
"""Side of an image from which the fastest tile is worth its measurement; smaller ones take the package's own."""


def check_halo(config: PredictConfig, contract: InputContract) -> None:
    """Refuse a halo that the model or the blend cannot have.

    Raises:
        ConfigError: saying what to give instead.
    """
    if config.halo == "exact" and contract.global_context:
        raise ConfigError(
            "halo exact: expected a model with a bounded receptive field, this one looks at the whole tile; "
            "leave halo and blend to their defaults, which is blend gaussian"
        )
    if config.halo == "exact" and config.view_scales:
        raise ConfigError("halo exact: no halo makes tiles agree that are seen at other scales; leave out view_scales")
    if config.halo == "exact" and config.blend == "gaussian":
        raise ConfigError("halo exact: expected blend crop, got gaussian, which averages tiles; give one or the other")


def blend_for(config: PredictConfig, contract: InputContract) -> str:
    """What `auto` means for a model: crop, but where no halo makes tiles agree and their average says something."""
    if config.blend == "auto":
        return "gaussian" if contract.global_context and not contract.whole_objects else "crop"
    return config.blend


def is_tuned(config: PredictConfig, contract: InputContract, shape: Ints) -> bool:
    """True if an image of this shape takes the tile that is fastest; a detector finds so many objects in any tile."""
    is_open = config.tile_px is None and config.halo == "fast" and blend_for(config, contract) == "crop"
    return is_open and not contract.whole_objects and max(shape[-2:]) >= TUNED_FROM_PX


def tiling_for(
    config: PredictConfig,
    package: ModelPackage,
    grid: ModelGrid,
    tuning: Tuning | None = None,
    shaped: Callable[[Tiling], Tiling] = lambda tiling: tiling,
) -> Tiling:
    """The tile grid of an image: what the config asks for, else what is fastest, or the package was made with.

    `shaped` says which tiles are cut at the far borders, which counts for what is fastest.
    """
    contract = package.contract
    tile_px, tile_planes = config.tile_px or contract.tile_px, config.tile_planes or contract.tile_planes
    shape = grid.shape
    alone = len(shape) - len(contract.axes)  # axes that the model does not see: plane by plane

    def sides(planes: int, px: int, single: int) -> Ints:
        return (*(single,) * alone, *((planes,) if len(contract.axes) > 2 else ()), px, px)

    stride = sides(contract.stride_planes, contract.stride, 1)
    if blend_for(config, contract) == "gaussian":
        px, planes = _halo(config, (tile_px // 8, tile_planes // 8), contract)
        step = contract.stride_planes
        if config.halo_planes is None and 2 * rounded_up(planes, step) >= rounded_up(tile_planes, step):
            planes = 0  # a step is too much to overlap by: tiles lie side by side
        return shaped(gaussian_tiling(shape, sides(tile_planes, tile_px, 1), sides(planes, px, 0), stride))
    px, planes = _halo(config, (contract.halo_px, contract.halo_planes), contract)
    if config.halo == "exact" and config.tile_px is None:
        tile_px = exact_tile_px(tile_px, px, tile_planes + 2 * planes, package.num_logits)

    def cropped(tile_px: int) -> Tiling:
        return shaped(crop_tiling(shape, sides(tile_planes, tile_px, 1), sides(planes, px, 0), stride, config.shard_px))

    if tuning is not None and is_tuned(config, contract, shape):
        tile_px = min(tuning.px_per_s, key=lambda side: tuning.seconds(side, cropped(side)))
    return cropped(tile_px)


def _halo(config: PredictConfig, fast: Ints, contract: InputContract) -> Ints:
    """Px and planes of context that the config asks for; `fast` is what that word means here."""
    px, planes = fast
    if config.halo == "exact":
        assert contract.receptive_px is not None, "halo exact needs a package whose receptive field was measured"
        px, planes = contract.receptive_px, contract.receptive_planes or 0
    elif config.halo != "fast":
        px = config.halo
    return px, planes if config.halo_planes is None else config.halo_planes


def exact_tile_px(tile_px: int, halo_px: int, planes: int, num_classes: int) -> int:
    """Wanted side of a write window for `halo: exact`: large, so that its wide halo is worth it.

    Args:
        tile_px: the package's, of which it is never less.
        halo_px: context on both sides.
        planes: of a read window.
        num_classes: of the model.
    """
    worth_it = max(EXACT_TILE_PX, math.ceil(2 * halo_px / (math.sqrt(EXACT_WASTE) - 1)))
    fitting = math.isqrt(min(EXACT_READ_PX, EXACT_LOGITS_BYTES // (4 * num_classes)) // planes) - 2 * halo_px
    return max(tile_px, min(worth_it, fitting))
