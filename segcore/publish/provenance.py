"""Provenance: workspace -> *by what a mask was made*: model and its training, plan, pace, versions."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from segcore import __version__
from segcore.config import ReportConfig
from segcore.errors import StoreError
from segcore.report import Fact, Panel, pictures
from segcore.report.figures import curves_svg, is_setting, read_curve
from segcore.store import Label, Workspace, unseal

LIBRARIES = ("numpy", "zarr", "tensorstore", "torch", "monai", "rasterio", "tifffile", "prefect")


def model_of(workspace: Workspace, document: Mapping[str, Any], mask: str) -> dict[str, Any]:
    """What model.json says of the model that made the first mask; {} if it lies in no package of this workspace."""
    first = _first_mask(workspace, document, mask)
    made_by = {} if first is None else first.attributes.get("model") or {}
    return _json(workspace.objects.get(f"models/{made_by.get('id', mask)}/model.json"))


def training_curves(workspace: Workspace, model: Mapping[str, Any]) -> Panel | None:
    """Training curves of the run that made the model, if it lies in this workspace."""
    run = model.get("training", {}).get("run")
    text = workspace.objects.get(f"runs/{run}/curve.csv") if isinstance(run, str) and "/" not in run else None
    curve = read_curve(text.decode("utf-8", "replace")) if text else {}
    svg = curves_svg(curve)
    if svg is None:
        return None
    last = "; ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in curve.items() if not is_setting(name))
    return Panel(f"Training of run {run}", pictures.svg_uri(svg), f"Training curves: {last}")


def provenance(
    config: ReportConfig, workspace: Workspace, document: Mapping[str, Any], mask: str, model: Mapping[str, Any]
) -> dict[str, tuple[Fact, ...]]:
    """Heading -> facts: what was asked for, how it was scored (defaults too), the model, a plan, versions."""
    asked = config.model_dump(mode="json", exclude={"failures", "stages"}, exclude_defaults=True)
    found = {"Report": facts(asked), "Scoring": facts(document["settings"])}
    first = _first_mask(workspace, document, mask)
    made_by = {} if first is None else first.attributes.get("model") or {}
    if told := {**made_by, **worth_telling(model)}:
        found["Model"] = facts(told)
    if first is not None:
        plan_number, image_id = first.attributes.get("plan"), first.image_id
        plan = _json(workspace.objects.get(f"state/{image_id}/{mask}/{plan_number}/plan.json"))
        found[f"Plan of the first mask ({image_id})"] = facts(plan)
    return {**found, "Versions": versions()}


def worth_telling(model: Mapping[str, Any]) -> dict[str, Any]:
    """Of model.json: without the classes, which the page shows, and the format."""
    return {key: value for key, value in model.items() if key not in ("classes", "format")}


def versions() -> tuple[Fact, ...]:
    """Of this code, and of what it stands on."""
    found = {"segcore": __version__, "Python": platform.python_version(), "platform": platform.platform()}
    return facts(found | {name: _version(name) for name in LIBRARIES})


def _first_mask(workspace: Workspace, document: Mapping[str, Any], mask: str) -> Label | None:
    """The first mask that still stands: since they were scored, some may be made anew or damaged."""
    for image_id in document["per_image"]:
        try:
            return workspace.label(image_id, mask)
        except StoreError:
            continue
    return None


def facts(values: Mapping[str, Any], at: str = "") -> tuple[Fact, ...]:
    """Nested settings as dotted keys; long values are cut."""
    found: list[Fact] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found += facts(value, f"{at}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append(Fact(f"{at}{key}", text if len(text) <= 240 else text[:239] + "…"))
    return tuple(found)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _json(data: bytes | None) -> dict[str, Any]:
    """An object of the workspace as JSON; {} where there is none, or no mapping in it."""
    try:
        return unseal(data or b"{}")
    except ValueError:
        return {}
