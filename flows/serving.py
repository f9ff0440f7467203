"""Serving: every flow as a deployment of this process, for a laptop: no work pool, no worker."""

import logging
from typing import Any

from prefect import Flow, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.automations import TAG
from flows.nightly import nightly
from flows.retrain import retrain
from flows.stages import FLOWS
from segcore.config import NightlyConfig

NAME = "here"
"""Of the deployments: `nightly/here`."""


def deployments(night: NightlyConfig | None, cron: str, time_zone: str) -> list[RunnerDeployment]:
    """A deployment for each flow; the night has a schedule where it is said what it does."""
    flows: dict[str, Flow[..., Any]] = {"nightly": nightly, "retrain": retrain, **FLOWS}
    found: list[RunnerDeployment] = []
    for name, each in flows.items():
        is_night = name == "nightly" and night is not None
        found.append(
            each.to_deployment(  # type: ignore[arg-type]
                NAME,
                parameters={"config": night.model_dump(mode="json", exclude_unset=True)} if is_night and night else {},
                schedule=Cron(cron, timezone=time_zone) if is_night else None,
                concurrency_limit=ConcurrencyLimitConfig(
                    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
                ),
                tags=[TAG],
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    return found


def serve_flows(night: NightlyConfig | None, cron: str, time_zone: str) -> None:
    """Serve them until Ctrl-C; one run at a time, since each takes all cores."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it prints Prefect's own Ctrl-C as an error
    serve(*deployments(night, cron, time_zone), limit=1)
