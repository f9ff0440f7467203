"""Helper: a process that infers work units of masks which another one leads; order -> *shards in the store*, counts.

It works out the plan for itself, from its own model, device and code, and refuses an order whose frozen plan it would
not have come to: so a mask does not depend on who helped. It holds no lease: of two that do the same unit, both write
the same pixels.
"""

from typing import Any, ClassVar

from segcore.config import PredictConfig
from segcore.errors import StoreError
from segcore.inference.again import config_under
from segcore.inference.allocator import memory_is_kept
from segcore.inference.batch import Batches
from segcore.inference.begin import opened
from segcore.inference.contract import check_contract
from segcore.inference.job import Job
from segcore.inference.night import networks_of, threads_of, unit_loads
from segcore.inference.numerics import Network, repeatable
from segcore.inference.orders import Order
from segcore.inference.pipeline import Pipeline
from segcore.inference.run import Counts
from segcore.inference.settle import resolve
from segcore.isolation import Beat
from segcore.models.package import read_package
from segcore.store import PyramidSpec, Staging, Workspace, plan_digest
from segcore.store.plan import refuse_other_plan


def work_off(beat: Beat, order: Order) -> Counts:
    """Infer one work unit, in a process that helps; safe to repeat.

    Raises:
        SegcoreError: if this process would not make the mask by the plan that is frozen, or the unit fails.
    """
    with repeatable(), memory_is_kept():
        place = _Place.of(order)
        run = place.run
        run.help_with(order.unit, order.parts)
        loads = (load for part, shards in run.units for load in unit_loads(place.job, run, part, shards))
        Pipeline(place.networks, threads_of(place.job), lambda _: beat(), lambda _: None).run(loads)
        if run.error is not None:
            _Place.kept = None  # a run that failed stays failed
            raise run.error
        return run.counts


class _Place:
    """What a helper keeps of one mask from order to order, and of its model from mask to mask."""

    kept: ClassVar["_Place | None"] = None

    def __init__(self, order: Order, before: "_Place | None") -> None:
        ws = Workspace.open(order.config.workspace)
        (image_id,) = order.config.images
        package = read_package(ws, order.config.model)
        frozen = Staging.attach(ws, image_id, order.name).state.load()
        if plan_digest(frozen) != order.plan:
            raise StoreError(f"mask {order.name} of {image_id}: its plan was replaced since the work was handed out")
        config = config_under(ws, package, image_id, order.name, frozen, order.config.model_dump())
        self.key, self.job = _key(order), resolve(ws, config, package, config.images)
        grid = check_contract(self.job.package.contract, ws.image(image_id), config.spacing_tolerance).grid
        is_same = before is not None and _runs_alike(before.job, self.job)
        self.networks: list[Network] = before.networks if before is not None and is_same else networks_of(self.job)
        batches = Batches(self.networks[0], self.job.package.contract)
        run = opened(ws, self.job, grid, batches, _joined)
        assert run is not None, f"mask {order.name} of {image_id} is finished while its units are handed out"
        self.run = run

    @classmethod
    def of(cls, order: Order) -> "_Place":
        if cls.kept is None or cls.kept.key != _key(order):
            cls.kept = cls(order, cls.kept)
        return cls.kept


def _key(order: Order) -> tuple[PredictConfig, str, str]:
    return order.config, order.name, order.plan


def _runs_alike(one: Job, other: Job) -> bool:
    """True if the same networks serve both."""
    return all(
        getattr(one, name) == getattr(other, name) for name in ("package", "device", "precision", "batch", "recipe")
    )


def _joined(
    workspace: Workspace, image_id: str, name: str, plan: dict[str, Any], spec: PyramidSpec, **_: Any
) -> Staging:
    """Instead of `Staging.begin`: the plan that another process leads, if it is the one that this one comes to."""
    staging = Staging.attach(workspace, image_id, name)
    refuse_other_plan(staging.state.load(), {"plan": plan, "storage": spec.frozen}, f"{image_id}/{name}")
    staging.finished = workspace.is_complete(image_id, name)
    return staging
