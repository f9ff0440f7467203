"""Store: the only place that opens Zarr or the workspace. Pixels in and out, with plan, ledger and lease."""

from segcore.store.image import Image, Label, Layer
from segcore.store.lease import Lease
from segcore.store.mend import attributes_of, mend, metadata_as_before, needs_its_stage, restore_state
from segcore.store.objects import Objects
from segcore.store.places import array_prefix, instances_name, is_instances, is_layer, layer_name, mask_of_layer
from segcore.store.plan import Ending, PlanState, latest_plan, plan_difference, plan_digest, seal, unseal
from segcore.store.pyramid import UNIT_SHARDS, Ngff, PyramidSpec, fitting_shard_px
from segcore.store.staging import Staging
from segcore.store.standalone import standalone_label
from segcore.store.unit import Quarter, UnitWriter
from segcore.store.verify import Problem, verify, verify_array, verify_common
from segcore.store.withdraw import forget, withdraw_labels
from segcore.store.workspace import Workspace, rebuild_label_list

__all__ = [
    "UNIT_SHARDS",
    "Ending",
    "Image",
    "Label",
    "Layer",
    "Lease",
    "Ngff",
    "Objects",
    "PlanState",
    "Problem",
    "PyramidSpec",
    "Quarter",
    "Staging",
    "UnitWriter",
    "Workspace",
    "array_prefix",
    "attributes_of",
    "fitting_shard_px",
    "forget",
    "instances_name",
    "is_instances",
    "is_layer",
    "latest_plan",
    "layer_name",
    "mask_of_layer",
    "mend",
    "metadata_as_before",
    "needs_its_stage",
    "plan_difference",
    "plan_digest",
    "rebuild_label_list",
    "restore_state",
    "seal",
    "standalone_label",
    "unseal",
    "verify",
    "verify_array",
    "verify_common",
    "withdraw_labels",
]
