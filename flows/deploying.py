"""Deploying: work pool, deployments, limits and automations on a Prefect server; made, or brought up to date.

What may be run, and where it may read and write, is the server's and the worker's affair, not that of who starts a run:
the work pool's template has no variables, so that no run can bring a command or an environment of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from flows.automations import automations
from flows.tasks import GPU_LIMIT
from segcore.errors import ConfigError, SegcoreError
from segcore.progress import SILENT, Progress

ROOT = Path(__file__).parent.parent
FILE = "deployments/prefect.yaml"
POOLS = ROOT / "deployments" / "pools"


def deploy(file: str, gpu_stages: int, notify: str | None, progress: Progress = SILENT) -> list[str]:
    """Bring the server up to date; doing it again changes nothing.

    Args:
        file: of the deployments, below the checkout or anywhere.
        gpu_stages: long stages that may run at one time, on all workers.
        notify: `TYPE/NAME` of a notification block on the server; None = nobody is told.
        progress: hears of each part.

    Returns:
        What there is now, a line for each.

    Raises:
        SegcoreError: if the server refuses a part of it.
        ConfigError: if file or block is not there.
    """
    path = Path(file) if Path(file).is_file() else ROOT / file
    if not path.is_file():
        raise ConfigError(f"{file}: no such file; expected the deployments, as in {FILE}")
    deployments = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
    pools = {each["work_pool"]["name"]: each["work_pool"].get("type", "process") for each in deployments}
    progress.start("deploy", 3, "parts")
    with get_client(sync_client=True) as client:
        block = _block(client, notify)
        progress.status("work pools")
        said = [put_pool(client, name, kind) for name, kind in pools.items()]
        progress.advance()
        progress.status(f"{len(deployments)} deployments")
        put_deployments(path)
        found = {each["name"]: each["entrypoint"].rpartition(":")[2] for each in deployments}
        said += [f"deployment {flow}/{name}" for name, flow in found.items()]
        progress.advance()
        progress.status("limit and automations")
        client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, gpu_stages)
        said.append(f"limit {GPU_LIMIT}: {gpu_stages} long stages at one time")
        nightly = client.read_deployment_by_name("nightly/nightly").id
        said += put_automations(client, nightly, block)
        progress.advance()
    if block is None:
        said.append("nobody is told of failures: make a notification block, and give --notify TYPE/NAME")
    return said


def put_pool(client: SyncPrefectClient, name: str, kind: str) -> str:
    """Make a work pool with our template, or give it that."""
    template = json.loads((POOLS / f"{kind}.json").read_text(encoding="utf-8"))
    try:
        client.read_work_pool(name)
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
    return f"work pool {name} ({kind}): runs cannot bring a command or an environment"


def put_deployments(path: Path) -> None:
    """Let Prefect read the file; from the checkout, since that is what entry points are relative to.

    Raises:
        SegcoreError: with what Prefect said last.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(path.resolve()), "--all"]
    url = get_current_settings().api.url
    environ = {**os.environ, "SEGCORE_HOME": os.environ.get("SEGCORE_HOME", str(ROOT)), "PREFECT_API_URL": str(url)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no message"]
        raise SegcoreError(f"{path}: Prefect did not deploy it ({' '.join(' '.join(told[-5:]).split())[-500:]})")


def put_automations(client: SyncPrefectClient, nightly: UUID, block: UUID | None) -> list[str]:
    """Make the automations, or bring those of the same name up to date."""
    heartbeat_s = get_current_settings().flows.heartbeat_frequency or 30
    said = []
    for wanted in automations(nightly, heartbeat_s, block):
        stands = client.read_automations_by_name(wanted.name)
        if stands:
            client.update_automation(stands[0].id, wanted)
        else:
            client.create_automation(wanted)
        said.append(f"automation {wanted.name}")
    return said


def _block(client: SyncPrefectClient, notify: str | None) -> UUID | None:
    """Id of a notification block.

    Raises:
        ConfigError: if there is none of that name.
    """
    if notify is None:
        return None
    kind, _, name = notify.partition("/")
    try:
        found: Any = client.read_block_document_by_name(name, kind)
    except ObjectNotFound as error:
        raise ConfigError(
            f"--notify {notify}: no such block; expected TYPE/NAME, as `prefect block ls` has it"
        ) from error
    return UUID(str(found.id))
