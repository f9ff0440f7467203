"""`segcore doctor`: what this installation has, and what it lacks."""

import importlib.util
import json
import os
import platform
import shutil
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any
from uuid import uuid4

import typer

from flows.console import STATES, stdout_kept_clean
from flows.options import DEBUG, JSON
from segcore.errors import SegcoreError
from segcore.measure import Peak
from segcore.results import ItemResult, exit_code

PACKAGES = ("segcore", "torch", "monai", "zarr", "obstore", "tensorstore", "prefect", "rasterio", "tifffile", "numpy")

EXTRAS = {"slides": "openslide", "s3": "s3fs", "onnx": "onnxscript", "bench": "dask", "dev": "pytest"}
"""Extra -> a module that only it brings."""

Check = Callable[[], str]


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(doctor)
    return typer.main.get_command(app)


def doctor(
    workspace: Annotated[str | None, typer.Option(help="Also try to write to this workspace.")] = None,
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Say what this installation has, and what it lacks. Exit code 0 if segcore can work here."""
    checks: dict[str, Check] = {
        "python": lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": packages,
        "extras": extras,
        "device": device,
        "cores": cores,
        "memory": memory,
        "disk": lambda: free_space("."),
        "prefect server": prefect_server,
    }
    if workspace is not None:
        checks["workspace"] = lambda: create_only_put(workspace)
    with stdout_kept_clean(), Peak() as peak:
        items = [checked(name, check) for name, check in checks.items()]
        if items[list(checks).index("prefect server")].state == "done":
            items += exposure()
    code = 1 if exit_code(items) else 0  # a set-up that is partly right is not right
    if json_:
        listed = [item.model_dump(mode="json", exclude_none=True) for item in items]
        found = {"stage": "doctor", "state": STATES[code], "paths": [], "seconds": peak.seconds, "peak_mib": peak.mib}
        typer.echo(json.dumps(found | {"checks": listed}))
    else:
        for item in items:
            typer.echo(f"{item.source}: {item.error or item.details['found']}")
    raise typer.Exit(code)


def checked(name: str, check: Check) -> ItemResult:
    """What one check found; a package that cannot be imported is a finding too."""
    try:
        return ItemResult(state="done", source=name, details={"found": check()})
    except (SegcoreError, ImportError, OSError, RuntimeError) as error:
        return ItemResult(state="failed", source=name, error=f"FAILED: {' '.join(str(error).split())}")


def packages() -> str:
    """Versions of what decides the results."""
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def extras() -> str:
    """Which optional parts are there."""
    there = {name: importlib.util.find_spec(module) is not None for name, module in EXTRAS.items()}
    missing = [name for name, found in there.items() if not found]
    hint = f"; not installed: {', '.join(missing)} (pip install 'segcore[{','.join(missing)}]')" if missing else ""
    return f"{', '.join(name for name, found in there.items() if found) or 'none'}{hint}"


def device() -> str:
    """What `device: auto` takes."""
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return f"cuda: {torch.cuda.device_count()} x {name}, {torch.cuda.mem_get_info(0)[1] / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu (no CUDA, no MPS)"


def cores() -> str:
    """Cores that this process may use, which a container can make fewer than the machine has."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()}"


def memory() -> str:
    """Memory that is free, and all."""
    import psutil

    found = psutil.virtual_memory()
    return f"{found.available / 2**30:.1f} of {found.total / 2**30:.1f} GiB free"


def free_space(path: str) -> str:
    """Room on the disk of a folder."""
    usage = shutil.disk_usage(path)
    return f"{usage.free / 2**30:.0f} of {usage.total / 2**30:.0f} GiB free here"


def create_only_put(uri: str) -> str:
    """Write to a workspace, twice under one name: the second must be refused, or leases would not hold.

    Raises:
        SegcoreError: if it cannot be written, or the second write went through.
    """
    from segcore.store import Workspace

    objects = Workspace.open(uri, create=True).objects
    key = f"state/doctor-{uuid4().hex}"
    try:
        if not objects.put_new(key, b"1") or objects.put_new(key, b"2"):
            raise SegcoreError(f"{uri}: this store has no create-only put, without which two writers may collide")
    finally:
        objects.delete(key)
    return f"{objects.describe('')}: can be written, create-only put works"


def exposure() -> list[ItemResult]:
    """What the user's server lets in; nothing where there is none."""
    from prefect.settings import get_current_settings

    from flows.exposure import Exposure

    api = get_current_settings().api
    if api.url is None:
        return []
    password = None if api.auth_string is None else api.auth_string.get_secret_value()
    items = []
    try:
        for name, told, fine in Exposure(api.url, password).findings():
            details = {"found": told}
            items.append(
                ItemResult(
                    state="done" if fine else "failed", source=name, details=details, error=None if fine else told
                )
            )
    except (SegcoreError, OSError) as error:
        items.append(ItemResult(state="failed", source="server settings", error=f"FAILED: {error}"))
    return items


def prefect_server() -> str:
    """Whether the user's server answers; without one a flow starts its own, and plain commands need none."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        return "none set (PREFECT_API_URL): a flow starts one for its own time"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=3):  # noqa: S310 - the user's own setting
            return f"{url} answers"
    except (OSError, ValueError) as error:
        raise SegcoreError(f"{url} (PREFECT_API_URL) does not answer: {error}; start it, or unset that") from error
