"""Store: the only place that opens Zarr or the workspace. Pixels in and out, with plan, ledger and lease."""

from segcore.store.image import Image, Label, Layer
from segcore.store.lease import Lease
from segcore.store.objects import Objects
from segcore.store.places import layer_name
from segcore.store.plan import seal, unseal
from segcore.store.pyramid import UNIT_SHARDS, Ngff, PyramidSpec, fitting_shard_px
from segcore.store.staging import Staging, withdraw_labels
from segcore.store.unit import Quarter, UnitWriter
from segcore.store.verify import Problem, verify
from segcore.store.workspace import Workspace

__all__ = [
    "UNIT_SHARDS",
    "Image",
    "Label",
    "Layer",
    "Lease",
    "Ngff",
    "Objects",
    "Problem",
    "PyramidSpec",
    "Quarter",
    "Staging",
    "UnitWriter",
    "Workspace",
    "fitting_shard_px",
    "layer_name",
    "seal",
    "unseal",
    "verify",
    "withdraw_labels",
]
