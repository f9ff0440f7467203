"""Deploy: all of it on a temporary server; what the server then refuses; the files, held against what they must say."""

import asyncio
import importlib
import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.server.schemas.schedules import CronSchedule
from prefect.utilities.templating import apply_values
from prefect.workers.process import ProcessJobConfiguration

from flows.automations import PORTION_TAG
from flows.deploying import deploy, put_automations, put_pool
from flows.serving import deployments
from flows.stages import FLOWS
from flows.tasks import LONG_STAGES
from segcore.config import NightlyConfig
from segcore.errors import ConfigError
from segcore.progress import Silent

FOLDER = Path(__file__).parents[2] / "deployments"
FILES = ("prefect.yaml", "prefect-kubernetes.yaml")


class Heard(Silent):
    """How many parts are still to come."""

    left = -1

    def start(self, stage: str, total: int, unit: str) -> None:
        self.left = total

    def advance(self, amount: int = 1) -> None:
        self.left -= amount


def listed(file: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((FOLDER / file).read_text(encoding="utf-8"))["deployments"]
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_flow_is_deployed_with_its_limit_and_its_zone(file: str) -> None:
    found = {each["name"]: each for each in listed(file)}
    assert found.keys() == {"nightly", "retrain", "portion", *FLOWS}
    portion = found.pop("portion")
    assert (portion["entrypoint"], portion["tags"]) == ("flows.portion:portion", [PORTION_TAG])
    assert "concurrency_limit" not in portion  # the night that spreads them says how many there are at one time
    assert portion["work_pool"]["work_queue_name"] != found["nightly"]["work_pool"]["work_queue_name"]
    for name, each in found.items():
        # By module: for a path, Prefect puts its folder before all others, and flows/dask.py would hide dask.
        module, _, flow = each["entrypoint"].partition(":")
        assert flow == name
        assert isinstance(getattr(importlib.import_module(module), flow), Flow)
        assert (each["concurrency_limit"]["limit"], each["tags"]) == (1, ["segcore"])
        is_scheduled = bool(each.get("schedules"))
        assert each["concurrency_limit"]["collision_strategy"] == ("CANCEL_NEW" if is_scheduled else "ENQUEUE")
        for schedule in each.get("schedules", []):
            ZoneInfo(schedule["timezone"])
    NightlyConfig.model_validate(found["nightly"]["parameters"]["config"])


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def deployed(prefect_server: None, heard: Heard) -> list[str]:
    return deploy("deployments/prefect.yaml", 2, None, heard)


@pytest.fixture
def client(deployed: list[str]) -> Any:
    with get_client(sync_client=True) as found:
        yield found


@pytest.mark.slow
def test_deploy_makes_all_of_it_and_again_changes_nothing(
    client: SyncPrefectClient, deployed: list[str], heard: Heard
) -> None:
    assert "deployment nightly/nightly" in deployed
    assert heard.left == 0
    names = {each.name for each in client.read_deployments(limit=100)}
    assert names >= {"nightly", "retrain", *FLOWS}
    nightly = client.read_deployment_by_name("nightly/nightly")
    (schedule,) = nightly.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone, schedule.active) == (  # type: ignore[union-attr]
        *("0 22 * * *", "Europe/Berlin"),
        True,
    )
    assert client.read_global_concurrency_limit_by_name("segcore-gpu").limit == 2
    before = sorted((each.name, str(each.id)) for each in client.read_automations())
    assert [name for name, _ in before] == [
        *("segcore: crashed run", "segcore: failure notice"),
        *("segcore: late run", "segcore: no run tonight"),
    ]
    put_automations(client, nightly.id, None)
    put_pool(client, "segcore", "process")
    assert sorted((each.name, str(each.id)) for each in client.read_automations()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"until": "6 am"},
        {"predict": {"batch": 0}},
        {"predict": {"bach": 1}},
        {"exports": ["docx"]},
        {"sources": "/etc"},
        {"workspace": None},
    ],
)
def test_the_server_refuses_bad_input_before_a_run_begins(client: SyncPrefectClient, settings: dict[str, Any]) -> None:
    nightly = client.read_deployment_by_name("nightly/nightly").id
    good = {"workspace": "w", "model": "m", "sources": ["in"]}
    client.create_flow_run_from_deployment(nightly, parameters={"config": good})
    with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
        client.create_flow_run_from_deployment(nightly, parameters={"config": good | settings})


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{"env": {"SEGCORE_SOURCE_ROOTS": "/"}}, {"command": "id"}, {"working_dir": "/"}])
def test_a_run_can_bring_no_environment_and_no_command(client: SyncPrefectClient, variables: dict[str, Any]) -> None:
    nightly = client.read_deployment_by_name("nightly/nightly").id
    with pytest.raises(PrefectHTTPStatusError, match="422"):
        client.create_flow_run_from_deployment(
            nightly, parameters={"config": {"workspace": "w", "sources": ["in"]}}, job_variables=variables
        )


def test_nor_would_the_worker_take_them_from_the_template(prefect_server: None) -> None:
    template = json.loads((FOLDER / "pools" / "process.json").read_text(encoding="utf-8"))
    wanted = {"env": {"SEGCORE_SOURCE_ROOTS": "/"}, "command": "id", "env.A": "b"}
    found = asyncio.run(ProcessJobConfiguration.from_template_and_values(template, wanted))
    assert (found.env, found.command, found.working_dir) == ({}, None, None)


def test_what_is_not_there_is_named(prefect_server: None) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        deploy("nowhere.yaml", 1, None)
    with pytest.raises(ConfigError, match="--notify slack-webhook/nobody: no such block"):
        deploy("deployments/prefect.yaml", 1, "slack-webhook/nobody")


def test_serve_offers_every_flow_and_schedules_the_night(prefect_server: None) -> None:
    night = NightlyConfig(workspace="w", model="m", sources=("in",))
    found = {each.flow_name: each for each in deployments(night, "0 2 * * *", "Europe/Berlin")}
    assert found.keys() == {"nightly", "retrain", *FLOWS}
    assert found["nightly"].parameters == {"config": {"workspace": "w", "model": "m", "sources": ["in"]}}
    assert found["nightly"].entrypoint == "flows.nightly.nightly"
    assert [len(each.schedules or []) for each in found.values()] == [1] + [0] * (len(found) - 1)


def test_the_kubernetes_pool_asks_for_a_gpu_and_never_tries_again() -> None:
    template = json.loads((FOLDER / "pools" / "kubernetes.json").read_text(encoding="utf-8"))
    variables = template["variables"]["properties"]
    text = json.dumps(template["job_configuration"])
    assert set(re.findall(r"{{ (\w+) }}", text)) == set(variables)
    assert not template["variables"]["additionalProperties"]
    values = {name: about["default"] for name, about in variables.items() if "default" in about}
    for each in listed("prefect-kubernetes.yaml"):
        given = each["work_pool"]["job_variables"]
        assert given.keys() <= variables.keys()
        assert given["gpus"] == (1 if each["name"] in ("nightly", "retrain", "portion", *LONG_STAGES) else 0)
        job = apply_values(template["job_configuration"], values | given)["job_manifest"]
        assert (job["apiVersion"], job["kind"], job["spec"]["backoffLimit"]) == ("batch/v1", "Job", 0)
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["restartPolicy"] == "Never"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == given["gpus"]
        assert container["image"] == values["image"] if "image" not in given else given["image"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("change", ["2027-03-28", "2027-10-31"])
def test_each_schedule_begins_one_run_a_day_also_when_the_clocks_change(file: str, change: str) -> None:
    """By Prefect's own arithmetic; without the time zone the night would move by an hour, twice a year."""
    for each in listed(file):
        for schedule in each.get("schedules", []):
            zone = ZoneInfo(schedule["timezone"])
            middle = datetime.fromisoformat(change).replace(tzinfo=zone)
            span = {"start": middle - timedelta(days=7), "end": middle + timedelta(days=7)}
            own = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
            found = [at.astimezone(zone) for at in asyncio.run(own.get_dates(n=100, **span))]
            days = [at.date() for at in found]
            assert len(days) == len(set(days)) >= 2
            is_daily = schedule["cron"].endswith("* * *")
            assert (len(days) == 14) == is_daily
            assert len({at.time() for at in found}) == 1


def test_a_night_in_the_hour_that_there_is_twice_runs_once_and_in_the_one_that_there_is_not_too() -> None:
    for change in ("2027-03-28", "2027-10-31"):
        zone = ZoneInfo("Europe/Berlin")
        start = datetime.fromisoformat(change).replace(tzinfo=zone) - timedelta(days=1)
        night = CronSchedule(cron="30 2 * * *", timezone="Europe/Berlin")
        found = asyncio.run(night.get_dates(n=100, start=start, end=start + timedelta(days=3)))
        assert len({at.astimezone(zone).date() for at in found}) == len(found) == 3
