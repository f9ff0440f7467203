"""Champion: who stands, the history, and two that promote at one moment."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from segcore.champion import champion, history, promote
from segcore.errors import DamagedError, StoreError
from segcore.store import Workspace
from tests.inference.scenes import unet_package


@pytest.fixture(params=["folder", "memory"])
def ws(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "w") if request.param == "folder" else f"memory://{tmp_path}", create=True)


def test_the_last_one_promoted_stands_and_the_others_are_remembered(ws: Workspace) -> None:
    assert champion(ws) is None
    for number, model in enumerate(["a-1", "b-2", "a-1", *(f"m-{n}" for n in range(9))]):
        entry = promote(ws, model, why=f"because {number}", after=champion(ws))
        assert (entry.number, champion(ws)) == (number, entry)
    assert [entry.model for entry in history(ws)][:3] == ["a-1", "b-2", "a-1"]
    assert [entry.number for entry in history(ws)] == list(range(12))


def test_the_same_one_again_changes_nothing(ws: Workspace) -> None:
    first = promote(ws, "a-1")
    assert promote(ws, "a-1", after=first) == first
    assert len(history(ws)) == 1


def test_of_two_that_promote_at_one_moment_one_is_told(ws: Workspace) -> None:
    first = promote(ws, "a-1")
    promote(ws, "b-2", after=first)
    with pytest.raises(StoreError, match=r"b-2 was promoted meanwhile; expected a-1 to be the champion"):
        promote(ws, "c-3", after=first)
    assert [entry.model for entry in history(ws)] == ["a-1", "b-2"]


def test_a_damaged_entry_is_named(ws: Workspace) -> None:
    promote(ws, "a-1")
    ws.objects.put("champion/0.json", b'{"model": "b"')
    with pytest.raises(DamagedError, match=r"champion/0\.json: damaged"):
        champion(ws)


def called(*args: str) -> Any:
    return CliRunner().invoke(app, ["champion", *args])


def test_the_command_promotes_a_model_and_refuses_what_is_none(tmp_path: Path) -> None:
    uri = str(tmp_path / "w")
    package = unet_package(Workspace.open(uri, create=True))
    (tmp_path / "w" / "images").mkdir()
    assert "no champion yet" in called("--workspace", uri).output
    assert called("--workspace", uri, "--promote", "nobody-01234567").exit_code == 1
    assert f"-> {package.model_id}  since 2" in called("--workspace", uri, "--promote", package.model_id).output
    found = json.loads(called("--workspace", uri, "--json").stdout)
    assert (found["champion"], len(found["history"])) == (package.model_id, 1)
