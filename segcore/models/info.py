"""Info: what model.json says about a model; the input contract is what an image must meet before its first tile."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segcore.classes import ClassInfo
from segcore.instances.rule import NUM_PARTS, Rule
from segcore.models import ModelConfig
from segcore.spatial import Spacing

_FROZEN = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class InputContract(BaseModel):
    """What the model expects of an image, and how its tiles are cut and normalised: (pixel - mean) / std per band."""

    model_config = _FROZEN

    axes: tuple[Literal["t", "z", "y", "x"], ...] = ("y", "x")
    """Of a tile, without c: y and x, with z or t before them where the model sees several planes at once."""
    bands: tuple[str, ...] = Field(min_length=1)
    """Names of the image's channels, in the order of the model's input."""
    dtype: str
    """numpy's name of the image's type; mean and std are in its values."""
    spacing: Spacing | None
    """Pixel size at `level`, where all training images had the same; None if unknown or mixed."""
    spacing_tolerance: float = Field(default=0.1, ge=0)
    """Relative difference of spacing that is still accepted; over 2 % the image is resampled."""
    level: int = Field(default=0, ge=0)
    """Pyramid level that the model was trained on."""
    stretch: bool = False
    """Each image's own range of intensities becomes the whole range of its type first (`segcore.stretch`)."""
    mean: tuple[float, ...]
    """Per band, in the image's own values, or in the stretched ones."""
    std: tuple[float, ...]
    """Per band, likewise; positive."""
    tile_px: int = Field(default=512, ge=1)
    """Side of a tile's write window."""
    halo_px: int = Field(default=32, ge=0)
    """Context around the write window; a multiple of the stride."""
    stride: int = Field(default=1, ge=1)
    """Sides of a read window are multiples of this."""
    tile_planes: int = Field(default=1, ge=1)
    """Planes of z or t in a tile's write window."""
    halo_planes: int = Field(default=0, ge=0)
    """Context before and behind it; a multiple of their stride."""
    stride_planes: int = Field(default=1, ge=1)
    """Planes of a read window are a multiple of this."""
    receptive_px: int | None = Field(default=None, ge=0)
    """Context that a write window needs for the logits of the whole image; measured, a multiple of the stride. None if
    nobody measured it, or the context is global."""
    receptive_planes: int | None = Field(default=None, ge=0)
    """Likewise in planes; 0 for a model of single planes."""
    global_context: bool = False
    """A pixel's logits depend on all of the tile, or on its size or place: no halo is enough."""
    whole_objects: bool = False
    """The model finds objects whole or not at all: the halo is as wide as they are, and a pixel has the answer of one
    tile, since an average of two is no object."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Of which the sides of a read window are multiples, axis by axis."""
        return tuple(self.stride_planes if axis in "tz" else self.stride for axis in self.axes)

    @property
    def frames(self) -> int | None:
        """Of a tile of a sequence, with those before and behind it; None of another model."""
        return self.tile_planes + 2 * self.halo_planes if self.axes[0] == "t" else None

    @property
    def is_measured(self) -> bool:
        """Whether it is known how far the model looks; older packages do not tell."""
        return self.global_context or self.receptive_px is not None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError(f"{len(self.bands)} bands need as many mean and std, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.axes not in (("y", "x"), ("z", "y", "x"), ("t", "y", "x")):
            raise ValueError(f"axes of a tile are y and x, with z or t before them, got {self.axes}")
        if self.halo_px % self.stride or self.tile_px % self.stride:
            raise ValueError(f"tile {self.tile_px} px and halo {self.halo_px} px must be multiples of {self.stride}")
        planes = (self.tile_planes, self.halo_planes, self.stride_planes)
        if len(self.axes) == 2 and planes != (1, 0, 1):
            raise ValueError(f"a model of planes has tiles of one plane without halo, got {planes}")
        if self.halo_planes % self.stride_planes or self.tile_planes % self.stride_planes:
            raise ValueError(f"tile and halo of {planes[:2]} planes must be multiples of {self.stride_planes}")
        return self


class PackageInfo(BaseModel):
    """All of model.json."""

    model_config = _FROZEN

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    architecture: ModelConfig
    contract: InputContract
    classes: tuple[ClassInfo, ...] = Field(min_length=1)
    """Class k of the logits is `classes[k]`: ids 0, 1, 2... in order."""
    instances: Rule | None = None
    """How objects are made of its answers, if it tells them apart: the logits of border and depth then follow those of
    the classes (`segcore.instances`)."""
    scores: dict[str, Any] = {}
    """Of the held-out images, at the chosen checkpoint."""
    data: dict[str, Any] = {}
    """Digest of the training data, number of images and of pixels."""
    training: dict[str, Any] = {}
    """The resolved config, without the workspace's place."""
    seed: int | None = None
    code_version: str = ""

    @property
    def num_logits(self) -> int:
        """Channels of the model's answer."""
        return len(self.classes) + (NUM_PARTS if self.instances is not None else 0)

    @model_validator(mode="after")
    def _ids_in_order(self) -> Self:
        ids = [info.id for info in self.classes]
        if ids != list(range(len(ids))):
            raise ValueError(f"class ids must be 0, 1, 2... in order, got {ids}")
        return self
