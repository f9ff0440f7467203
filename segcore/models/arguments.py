"""Arguments: what every architecture is built from; each adds its own."""

from typing import Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelArguments(BaseModel):
    """Of any architecture: both follow from the data, and nobody gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    in_channels: int = Field(ge=1)
    """Bands of the image."""
    num_classes: int = Field(ge=1)
    """Of the target."""

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, given: Any) -> Any:
        """Text of a command line that pydantic does not read: `8,16` for several values, a choice of numbers."""
        if not isinstance(given, dict):
            return given
        found = dict(given)
        for name, field in cls.model_fields.items():
            value, kind = found.get(name), get_origin(field.annotation)
            if isinstance(value, str) and kind is tuple:
                found[name] = value.split(",")
            elif isinstance(value, str) and kind is Literal and value.isdecimal():
                found[name] = int(value)
        return found
