"""Naming: what a run is called in Prefect's lists. Never by a source: its name can be a patient's."""

from datetime import datetime
from typing import Any

from prefect.runtime import flow_run


def run_name() -> str:
    """`predict unet-0a1b2c3d 2026-03-01 02:00`: the flow, its model where it has one, and when it began."""
    config: Any = flow_run.parameters.get("config")
    values = config if isinstance(config, dict) else getattr(config, "__dict__", {})
    model = str(values.get("model") or "").rstrip("/").rsplit("/", 1)[-1]
    parts = (flow_run.flow_name, model, f"{datetime.now().astimezone():%Y-%m-%d %H:%M}")
    return " ".join(part for part in parts if part)
