"""The files of the services: units that systemd accepts, a compose file whose doors are shut, settings that exist."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import Settings
from pydantic import AliasChoices, BaseModel

FOLDER = Path(__file__).parents[2] / "deployments"
UNITS = sorted((FOLDER / "systemd").glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit(tmp_path: Path, unit: Path) -> None:
    text = unit.read_text(encoding="utf-8").replace("/opt/segcore/.venv/bin/prefect", sys.executable)
    assert sys.executable in text
    (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True)
    assert (done.returncode, done.stderr.replace("\n", " ")) == (0, "")


def test_the_worker_ends_on_the_signal_that_it_heeds_and_has_no_secret_in_its_unit() -> None:
    text = (FOLDER / "systemd" / "segcore-worker.service").read_text(encoding="utf-8")
    assert "KillSignal=SIGINT" in text
    assert "EnvironmentFile=/etc/segcore/worker.env" in text
    assert not any("AUTH_STRING" in unit.read_text(encoding="utf-8") for unit in UNITS)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    return found


def test_only_the_proxy_is_reached_from_outside(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == {"postgres", "redis", "server", "services", "worker", "proxy"}
    assert {name for name, each in services.items() if "ports" in each} == {"proxy"}
    assert {name for name, each in services.items() if "outside" in each["networks"]} == {"proxy"}
    assert compose["networks"]["inside"] == {"internal": True}
    mounted = {mount.partition(":")[0] for each in services.values() for mount in each.get("volumes", [])}
    assert compose["volumes"].keys() == {name for name in mounted if re.fullmatch(r"\w+", name)}


def test_the_server_asks_for_a_password_and_keeps_its_records_in_postgresql(compose: dict[str, Any]) -> None:
    for name in ("server", "services"):
        environ = compose["services"][name]["environment"]
        assert environ["PREFECT_SERVER_API_AUTH_STRING"] == "${ADMIN:?}"
        assert environ["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
        assert environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "https://${HOST:?}"
        assert environ["PREFECT_SERVER_DATABASE_DRIVER"] == "postgresql+asyncpg"


def test_the_server_unpacks_its_pages_where_it_may_write(compose: dict[str, Any]) -> None:
    # By default that is its installation, which is root's: there would be no pages, and only a line of the log says so.
    unit = (FOLDER / "systemd" / "segcore-server.service").read_text(encoding="utf-8")
    assert "StateDirectory=prefect\n" in unit
    assert "PREFECT_UI_STATIC_DIRECTORY=/var/lib/prefect/" in unit
    environ = compose["services"]["server"]["environment"]
    assert environ["PREFECT_UI_STATIC_DIRECTORY"].startswith(f"{environ['PREFECT_HOME']}/")
    docker = (FOLDER / "compose" / "Dockerfile").read_text(encoding="utf-8")
    assert f"mkdir {environ['PREFECT_HOME']} && chown segcore {environ['PREFECT_HOME']}" in docker


def test_the_worker_keeps_its_caches_where_it_may_write(compose: dict[str, Any]) -> None:
    # Its user has no home, or one that is read-only: matplotlib would warn, and look for fonts, in every run.
    unit = (FOLDER / "systemd" / "segcore-worker.service").read_text(encoding="utf-8")
    assert "StateDirectory=segcore\n" in unit
    assert "MPLCONFIGDIR=/var/lib/segcore/" in unit
    assert "state:/state" in compose["services"]["worker"]["volumes"]
    assert compose["services"]["worker"]["environment"]["MPLCONFIGDIR"].startswith("/state/")


@pytest.mark.parametrize("name", ["server", "worker"])
def test_a_shell_reads_the_settings_as_systemd_does(tmp_path: Path, name: str) -> None:
    text = (FOLDER / "systemd" / f"{name}.env.example").read_text(encoding="utf-8")
    file = tmp_path / "own.env"
    file.write_text(text.replace("CHANGE", "a $b;c").replace("/srv/segcore/incoming", "/a b;/c"), encoding="utf-8")
    read = subprocess.run(["sh", "-c", f"set -a && . {file} && env"], env={}, capture_output=True, text=True)
    assert read.stderr == ""
    values = set(read.stdout.splitlines())
    expected = {
        "server": {
            "PREFECT_SERVER_API_AUTH_STRING=admin:a $b;c-password",
            "PREFECT_SERVER_DATABASE_PASSWORD=a $b;c-database",
        },
        "worker": {"PREFECT_API_AUTH_STRING=admin:a $b;c-password", "SEGCORE_SOURCE_ROOTS=/a b;/c"},
    }
    assert expected[name] <= values


def test_the_worker_of_the_compose_file_reads_and_writes_where_it_may(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    environ = worker["environment"]
    mounts = dict(mount.split(":", 1) for mount in (each.replace(":?", "") for each in worker["volumes"]))
    assert mounts["${INCOMING}"] == f"{environ['SEGCORE_SOURCE_ROOTS']}:ro"
    assert mounts["${WORKSPACE}"] == environ["SEGCORE_WORKSPACE_ROOTS"]
    assert (worker["stop_signal"], worker["read_only"], worker["cap_drop"]) == ("SIGINT", True, ["ALL"])


def test_every_variable_of_the_compose_file_is_in_the_example(compose: dict[str, Any]) -> None:
    text = (FOLDER / "compose" / "compose.yaml").read_text(encoding="utf-8")
    example = (FOLDER / "compose" / "segcore.env.example").read_text(encoding="utf-8")
    given = set(re.findall(r"^#?(\w+)=", example, re.M))
    assert set(re.findall(r"\${(\w+)", text)) == given
    assert set(re.findall(r"\${(\w+):\?}", text)) == set(re.findall(r"^(\w+)=", example, re.M))


def known_settings(model: type[BaseModel] = Settings) -> Iterator[str]:
    """Every name by which the environment can set one of Prefect's settings."""
    prefix = str(model.model_config.get("env_prefix", "")).lower()
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_settings(field.annotation)
        yield f"{prefix}{name}".upper()
        if isinstance(field.validation_alias, AliasChoices):
            yield from (str(choice).upper() for choice in field.validation_alias.choices if isinstance(choice, str))


def test_every_setting_of_prefect_in_these_files_exists() -> None:
    files = [*FOLDER.rglob("*.example"), *UNITS, *FOLDER.rglob("*.yaml"), *FOLDER.rglob("*.json")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = set(re.findall(r"\bPREFECT_[A-Z_]+\b(?=[=:\"])", text))
    assert len(named) > 10
    unknown = {name for name in named - set(known_settings()) if not name.startswith("PREFECT_REDIS_")}
    assert unknown == set()
