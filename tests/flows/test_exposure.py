"""Exposure: two real servers, one as Prefect comes, one as the deployment's files set it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from flows import exposure
from flows.exposure import Exposure
from flows.server import TemporaryServer
from segcore.errors import SegcoreError

CLOSED = {
    "PREFECT_SERVER_API_AUTH_STRING": "admin:secret",
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "https://prefect.example.org",
}


def found(url: str, password: str | None = None) -> dict[str, tuple[str, bool]]:
    return {name: (told, fine) for name, told, fine in Exposure(url, password).findings()}


@pytest.mark.usefixtures("prefect_server")
def test_a_server_as_prefect_comes_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(get_current_settings().api.url)
    asked_here = found(url)
    assert all(fine for _, fine in asked_here.values())
    assert asked_here["password"][0].startswith("open (asked on this machine): everybody")
    monkeypatch.setattr(exposure, "LOCAL", ())
    asked_there = found(url)
    findings = {name for name, (_, fine) in asked_there.items() if not fine}
    assert findings >= {"TLS", "password", "other pages (CORS)", "forged requests (CSRF)"}
    assert asked_there["password"][0] == (
        "open: everybody who reaches it may run anything: set PREFECT_SERVER_API_AUTH_STRING"
    )


@pytest.fixture(scope="module")
def closed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CLOSED.items():
            patch.setenv(name, value)
        server = TemporaryServer(Path(tmp_path_factory.mktemp("closed")), pages=False)
    server.wait()
    yield server.url
    server.stop()


@pytest.mark.slow
def test_a_server_as_the_files_set_it_is_closed(closed_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure, "LOCAL", ())
    findings = found(closed_server, "admin:secret")
    assert {name for name, (_, fine) in findings.items() if not fine} == {"TLS"}
    assert findings["password"][0] == "asked for"
    assert findings["other pages (CORS)"][0] == "kept out"
    assert findings["forged requests (CSRF)"][0] == "refused"
    assert findings["work pools"][0] == "none yet: `segcore deploy` makes one"
    assert findings["pages"][0].startswith("none: is PREFECT_UI_STATIC_DIRECTORY")


@pytest.mark.slow
@pytest.mark.parametrize("password", [None, "admin:wrong"])
def test_a_wrong_password_is_said_once(closed_server: str, password: str | None) -> None:
    with pytest.raises(SegcoreError, match="does not take the password"):
        found(closed_server, password)
