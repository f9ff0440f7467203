"""Bands: those that an index of plants or water is of, found by the images' names; config, images -> *config*.

A network learns which band tells what; a rule has to be told, and a rule of the wrong band answers as surely.
"""

import re
from collections.abc import Collection, Sequence

from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.models import find_architecture
from segcore.models.classic.colour import IndexArguments

NAMES = {"nir": ("nir", "nearinfrared", "nir08"), "red": ("red",), "green": ("green",)}
"""By argument: how bands are called, as `_plain` writes it; the first that is there."""
SENTINEL_2 = {"nir": ("b8", "b8a"), "red": ("b4",), "green": ("b3",)}
"""Likewise, where one of the first is there: B3 and B4 alone are other bands of other satellites."""
VISIBLE = {"red", "green", "blue", "alpha", "grey"}


def with_bands(
    config: TrainConfig, bands: Sequence[str], searched: Collection[str] = ()
) -> tuple[TrainConfig, dict[str, str]]:
    """The same config with the number of each band that was given by name, or is told by its name; and which it is.

    A number stays as it was given, and the architecture's own stands where no name tells.

    Args:
        config: of any architecture; what takes no such arguments stays as it is.
        bands: names of the images' bands.
        searched: arguments that a trial will have.

    Raises:
        ConfigError: if no band has the name that was given, or none can be near infrared and none was given.
    """
    kind = find_architecture(config.architecture).arguments
    if not issubclass(kind, IndexArguments):
        return config, {}
    plain = [_plain(name) for name in bands]
    found: dict[str, int] = {}
    for argument in (name for name in NAMES if name in kind.model_fields):
        given = config.arguments.get(argument)
        if given is None:
            known = [plain.index(name) for name in _known(argument, plain) if name in plain]
            found |= {argument: known[0]} if known else {}
        elif not re.fullmatch(r"\s*[+-]?\d+\s*", given):
            found[argument] = _named(argument, given, bands, plain)
    if "nir" not in found and "nir" not in {*config.arguments, *searched} and set(plain) <= VISIBLE:
        numbers = "0" if len(bands) == 1 else f"0 to {len(bands) - 1}"
        raise ConfigError(
            f"architecture {config.architecture}: it takes near infrared, and the images' bands are "
            f"{', '.join(bands)}; give arguments nir={numbers} if one of them is, or choose another"
        )
    arguments = config.arguments | {argument: str(band) for argument, band in found.items()}
    told = {argument: f"{band}: the band {bands[band]}" for argument, band in found.items()}
    return config.model_copy(update={"arguments": arguments}), told


def _known(argument: str, plain: Sequence[str]) -> tuple[str, ...]:
    is_sentinel = any(name in plain for name in SENTINEL_2["nir"])
    return NAMES[argument] + (SENTINEL_2[argument] if is_sentinel else ())


def _named(argument: str, given: str, bands: Sequence[str], plain: Sequence[str]) -> int:
    if given in bands:
        return bands.index(given)
    if _plain(given) in plain:
        return plain.index(_plain(given))
    raise ConfigError(
        f"arguments: {argument}={given}: expected a number from 0, or one of the images' bands: {', '.join(bands)}"
    )


def _plain(name: str) -> str:
    """`Near Infrared` and `near_infrared` alike, and `B08` as `b8`."""
    return re.sub(r"^b0(?=\d)", "b", re.sub(r"[\W_]", "", name.lower()))
