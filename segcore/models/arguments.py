"""Arguments: what every architecture is built from; each adds its own."""

from pydantic import BaseModel, ConfigDict, Field


class ModelArguments(BaseModel):
    """Of any architecture: both follow from the data, and nobody gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    in_channels: int = Field(ge=1)
    """Bands of the image."""
    num_classes: int = Field(ge=1)
    """Of the target."""
