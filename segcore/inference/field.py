"""Field: how far a model looks, where its package does not tell; measured once, kept with the model."""

from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from segcore.inference.calibration import keep, kept
from segcore.models.package import ModelPackage
from segcore.models.receptive import with_field
from segcore.store import Workspace


class Field(BaseModel):
    """What was found for one model; `state/models/<model_id>/field.json`. The words are the input contract's."""

    model_config = ConfigDict(frozen=True)

    receptive_px: int | None
    receptive_planes: int | None
    global_context: bool


def with_kept_field(ws: Workspace, package: ModelPackage, dry_run: bool) -> ModelPackage:
    """The package as it is, or with its field read from the workspace, else measured, and kept there.

    Args:
        ws: where it is kept.
        package: the model.
        dry_run: write nothing.

    Raises:
        ConfigError: if the model's logits do not move with the image by the contract's stride.
    """
    if package.contract.is_measured:
        return package
    key = f"state/models/{package.model_id}/field.json"
    found = kept(ws, key, Field)
    if found is None:
        contract = with_field(package).contract
        found = Field.model_validate(contract.model_dump(include=set(Field.model_fields)))
        found = found if dry_run else keep(ws, key, found)
    contract = package.contract.model_copy(update=found.model_dump())
    return replace(package, info=package.info.model_copy(update={"contract": contract}))
