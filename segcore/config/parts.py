"""Parts: some settings of a stage as one field of a flow's parameters; in the form they look as the stage has them."""

import json
from collections.abc import Collection
from typing import Any

from pydantic import WithJsonSchema

from segcore.config.base import StageConfig

Settings = dict[str, Any]
"""Only what the user set: the rest is the stage's own default. The whole is checked by the stage's config."""


def part_of(stage: type[StageConfig], filled: Collection[str]) -> WithJsonSchema:
    """The form of those settings of a stage that are left to the user; goes into an `Annotated[Settings, ...]`.

    Args:
        stage: its config.
        filled: names of what the flow itself fills in.
    """
    schema = stage.model_json_schema()
    left = {name: about for name, about in schema["properties"].items() if name not in filled}
    assert "$ref" not in json.dumps(left), f"{stage.__name__}: its form would refer to what is not in it"
    return WithJsonSchema({"type": "object", "properties": left, "additionalProperties": False})
