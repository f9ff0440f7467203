"""`segcore models`: what a user reads before choosing a network."""

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from segcore.models import ARCHITECTURES


def called(*args: str) -> Any:
    return CliRunner().invoke(app, ["models", *args], standalone_mode=True)


def test_all_are_listed_each_with_when_to_choose_it() -> None:
    text = called().output
    for name, entry in ARCHITECTURES.items():
        assert f"\n{name} " in f"\n{text}"
        assert entry.use in text
        if entry.paper:
            assert re.search(rf"{re.escape(entry.use)} \([^()]+, (?:19|20)\d\d\)\n", text)


def test_json_has_a_row_for_each() -> None:
    rows = {row["name"]: row for row in json.loads(called("--json").output)["models"]}
    assert rows.keys() == ARCHITECTURES.keys()
    assert rows["unet"]["parameters"] == 1_286_722
    assert rows["unet"]["arguments"]["channels"]["default"] == [16, 32, 64, 128, 128]
    assert (rows["unet"]["tiling_is_exact"], rows["pspnet"]["tiling_is_exact"]) == (True, False)
    assert rows["convlstm_unet"]["axes"] == ["t", "y", "x"]
    assert [rows[name]["chosen"] for name in ("unet", "otsu")] == [["channels", "norm"], []]


def test_one_is_shown_with_its_arguments_and_measured() -> None:
    text = called("conv1", "--measure", "--device", "cpu").output
    assert "--arguments kernel_px=1" in text
    assert "Mpx/s" in text
    assert "ms a 1080p frame on cpu" in text


def test_an_unknown_one_is_one_line() -> None:
    done = called("u-net")
    assert done.exit_code == 2
    assert "no network is called 'u-net'; did you mean unet?" in done.output


@pytest.mark.parametrize("word", ["--help"])
def test_help_answers(word: str) -> None:
    assert "--measure" in called(word).output
