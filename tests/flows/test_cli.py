"""The command line: help, lazy loading, exit codes, one line per error, one object per --json."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows import console, functions
from flows.cli import COMMANDS, app
from flows.commands.stage import SHOWS
from flows.options import FLOWS_ONLY, merged_config
from flows.reference import FORMATS_PAGES, described_elsewhere, reference, walk, with_formats
from segcore.config import STAGES, PredictConfig, StageConfig
from segcore.errors import ConfigError, StoreError
from segcore.progress import Progress
from segcore.results import ItemResult, StageResult
from segcore.sources import readers

DOCS = Path(__file__).parents[2] / "docs"
RUNNER = CliRunner()
PREDICT = ["predict", "--workspace", "w", "--model", "m"]


def run_segcore(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flows", *args], capture_output=True, text=True, timeout=120)


def instead_of(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """Puts `function` in the place of every stage of the core."""
    stand_in = ModuleType("stand_in")
    stand_in.run = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", stand_in)
    monkeypatch.setattr(functions, "FUNCTIONS", dict.fromkeys(STAGES, ("stand_in", "run")))


def test_every_command_has_help_and_is_in_the_docs() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert page == reference(), "make reference"
    for path, command, _ in walk():
        assert command.help, f"{path} has no help"
        assert described_elsewhere(path) or f"## {path}\n" in page
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help, f"{path}: {parameter.name} has no help"


@pytest.mark.parametrize("page", FORMATS_PAGES, ids=lambda page: page.name)
def test_the_table_of_formats_is_that_of_the_readers(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == with_formats(text), "make reference"
    for reader in readers():
        for found in reader.formats:
            assert f"| {found.name} |" in text


def test_help_of_all_agrees_with_help_of_each() -> None:
    for path, command, _ in walk():
        words = path.split()
        if len(words) == 2 and COMMANDS[words[1]][0] in ("stage", "config"):
            assert command.help == COMMANDS[words[1]][1]


@pytest.mark.parametrize("stage", STAGES)
def test_options_are_exactly_the_fields_of_the_config(stage: str) -> None:
    command = next(command for path, command, _ in walk() if path == f"segcore {stage}")
    assert {parameter.name for parameter in command.params} == (
        set(STAGES[stage].model_fields) - FLOWS_ONLY | {"config", "prefect", "json", "debug", *SHOWS.get(stage, ())}
    )


@pytest.mark.parametrize("stage", functions.FUNCTIONS)
def test_every_stage_has_its_function(stage: str) -> None:
    assert functions.stage_function(stage).__name__ == stage
    assert stage in STAGES


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom flows.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'prefect', 'torch', 'monai', 'dask', 'zarr', 'pydantic', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "predict" in done.stdout


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "predict.yaml"
    file.write_text("workspace: from-file\nmodel: m\nbatch: 4\nblend: gaussian\n")
    done = RUNNER.invoke(app, ["config", "show", "predict", "--config", str(file), "--batch", "2", "--no-overwrite"])
    assert done.exit_code == 0
    expected = PredictConfig(workspace="from-file", model="m", batch=2, blend="gaussian")
    assert yaml.safe_load(done.stdout) == expected.model_dump(mode="json")


def test_options_by_name_are_taken_apart_at_the_last_equals_sign() -> None:
    given = {"workspace": "w", "model": "m", "thresholds": ["tumour=0.3", "a=b=1"]}
    assert merged_config(PredictConfig, None, given).thresholds == {"tumour": 0.3, "a=b": 1.0}
    with pytest.raises(ConfigError, match=r"--thresholds tumour: expected NAME=VALUE"):
        merged_config(PredictConfig, None, {**given, "thresholds": ["tumour"]})
    with pytest.raises(ConfigError, match="thresholds"):
        merged_config(PredictConfig, None, {**given, "thresholds": ["tumour=much"]})


def test_options_of_several_numbers_are_split_at_commas() -> None:
    done = RUNNER.invoke(app, ["config", "show", "train", "--workspace", "w", "--channels", "8,16,32", "--json"])
    assert json.loads(done.stdout)["settings"]["channels"] == [8, 16, 32]


@pytest.mark.parametrize(("given", "expected"), [("exact", "exact"), ("fast", "fast"), ("64", 64)])
def test_an_option_of_words_or_a_number(given: str, expected: str | int) -> None:
    show = ["config", "show", *PREDICT, "--json"]
    done = RUNNER.invoke(app, [*show, "--halo", given])
    assert json.loads(done.stdout)["settings"]["halo"] == expected
    assert "<exact|fast|int>" in RUNNER.invoke(app, ["predict", "--help"]).stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["predct"], "predct"),
        ([*PREDICT, "--batc", "1"], "--batch"),
        (["predict"], "--workspace is missing"),
        ([*PREDICT, "--batch", "0"], "batch: Input should be greater than or equal to 1"),
        ([*PREDICT, "--blend", "mean"], "'crop', 'gaussian'"),
        ([*PREDICT, "--config", "{file}"], "did you mean 'shard_px'?"),
        ([*PREDICT, "--halo", "wide"], "expected exact, fast or a number of px, got 'wide'"),
        ([*PREDICT, "--config", "missing.yaml"], "missing.yaml"),
        (["ingest", "--workspace", "w"], "nothing to ingest"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(args: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "predict.yaml"
    file.write_text("shardpx: 3\n")
    done = RUNNER.invoke(app, [arg.format(file=file) for arg in args])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def failing(config: StageConfig, progress: Progress) -> StageResult:
    raise StoreError("image a: no such image;\nexpected one of b, c")


def broken(config: StageConfig, progress: Progress) -> StageResult:
    raise ZeroDivisionError("division by zero")


def test_an_error_of_the_core_is_one_line_and_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, failing)
    done = RUNNER.invoke(app, PREDICT)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == "segcore predict: image a: no such image; expected one of b, c\n"


def test_a_bug_is_one_line_that_says_so_and_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, broken)
    done = RUNNER.invoke(app, PREDICT)
    assert done.exit_code == 1
    assert done.stderr.startswith("segcore predict: ZeroDivisionError: division by zero; this is a bug")
    assert len(done.stderr.splitlines()) == 1
    assert "in broken" in RUNNER.invoke(app, [*PREDICT, "--debug"]).stderr


def test_json_of_a_failed_stage_is_one_object_too(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, failing)
    done = RUNNER.invoke(app, [*PREDICT, "--json"])
    found = json.loads(done.stdout)
    assert found["state"] == "failed"
    assert found["error"] == "image a: no such image; expected one of b, c"
    assert {"paths", "seconds", "peak_mib"} <= set(found)


JSON_ARGUMENTS: dict[str, list[str]] = {
    "champion": [],
    "clean": [],
    "config show train": [],
    "deploy": ["--file", "nowhere.yaml"],
    "doctor": [],
    "drift": ["--model", "m"],
    "explain": ["--model", "m"],
    "export": ["--model", "m", "--output", "out"],
    "export-model": ["--model", "m", "--output", "m.onnx"],
    "ingest": ["a.tif"],
    "inspect": ["a.tif"],
    "measure": ["--model", "m"],
    "models": ["conv1"],
    "predict": ["--model", "m"],
    "preview": [],
    "refine": ["--model", "m", "--objects"],
    "repair": [],
    "report": ["--model", "m"],
    "score": ["--model", "m"],
    "train": [],
    "tune": [],
    "verify": [],
    "view": ["--image", "none"],  # else it serves what the others made
}


def test_json_of_every_command_has_the_keys_that_scripts_rely_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = {path.removeprefix("segcore "): command for path, command, _ in walk()}
    shown = {
        path for path, command in commands.items() if {"json", "json_"} & {option.name for option in command.params}
    }
    assert {path for path in shown if not path.startswith("config ")} == {*JSON_ARGUMENTS, "demo"} - {
        "config show train"
    }
    for path, arguments in JSON_ARGUMENTS.items():
        where = [] if path in ("deploy", "inspect", "models") else ["--workspace", "w"]
        done = RUNNER.invoke(app, [*path.split(), *arguments, *where, "--json"])
        found = json.loads(done.stdout)
        assert {"paths", "seconds", "peak_mib"} <= set(found), path


def partly(config: StageConfig, progress: Progress) -> StageResult:
    progress.start("ingest", 2, "sources")
    progress.advance(2)
    return StageResult(
        stage="ingest",
        items=(
            ItemResult(state="done", source="a.tif", image="a-01234567"),
            ItemResult(state="failed", source="b.tif", error="b.tif: not an image"),
        ),
        paths=("w/images/a-01234567.ome.zarr",),
        seconds=1.5,
        peak_mib=90.0,
    )


def test_json_lists_every_source_and_the_code_says_partly(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, partly)
    done = RUNNER.invoke(app, ["ingest", "a.tif", "b.tif", "--workspace", "w", "--json"])
    assert done.exit_code == 3
    assert json.loads(done.stdout) == {
        "stage": "ingest",
        "state": "partly",
        "paths": ["w/images/a-01234567.ome.zarr"],
        "seconds": 1.5,
        "peak_mib": 90.0,
        "sources": [
            {"state": "done", "source": "a.tif", "image": "a-01234567", "details": {}},
            {"state": "failed", "source": "b.tif", "error": "b.tif: not an image", "details": {}},
        ],
        "details": {},
    }


def test_text_names_failures_and_what_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, partly)
    done = RUNNER.invoke(app, ["ingest", "a.tif", "b.tif", "--workspace", "w"])
    assert done.stdout.splitlines() == [
        "failed: b.tif: not an image",
        "-> w/images/a-01234567.ome.zarr",
        "ingest: 1 done, 1 failed in 1.5 s, peak memory 90 MiB",
    ]
    assert done.stderr.splitlines() == ["ingest: 2 sources", "ingest: 2/2 sources, 100 %, 0 s left"]


def test_text_names_the_first_paths_alone() -> None:
    result = StageResult(stage="ingest", paths=tuple(f"{i}.zarr" for i in range(12)), details={"targets": {"empty": 1}})
    lines = list(console.result_lines(result))
    assert lines[:3] == ["targets:", "  empty: 1", "-> 0.zarr"]
    assert lines[11:-1] == ["-> 9.zarr", "-> and 2 more (all of them: --json)"]


def test_of_a_long_list_the_first_are_shown() -> None:
    gone = [f"in/{i}.tif" for i in range(13)]
    lines = list(console.result_lines(StageResult(stage="ingest", details={"vanished": gone})))
    assert lines[0].endswith("in/9.tif and 3 more (all of them: --json)")


def interrupted(config: StageConfig, progress: Progress) -> StageResult:
    raise KeyboardInterrupt


def test_ctrl_c_is_one_line_and_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, interrupted)
    done = RUNNER.invoke(app, PREDICT)
    assert done.exit_code == 130
    assert done.stderr == "segcore: interrupted; the same command goes on from what is finished\n"


def test_stdout_holds_the_object_alone_whatever_libraries_print(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom flows import console\n"
        "with console.stdout_kept_clean():\n    print('from python'); os.system('echo from a child')\n"
        "print('{}')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "{}\n"
    assert sorted(done.stderr.split()) == ["a", "child", "from", "from", "python"]


def test_inspect_names_the_bad_file_and_shows_the_good_one(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (7, 5), (10, 20, 30)).save(tmp_path / "good.png")
    (tmp_path / "bad.tif").write_text("no image")
    done = run_segcore("inspect", "--json", str(tmp_path / "bad.tif"), str(tmp_path / "good.png"))
    bad, good = json.loads(done.stdout)["sources"]
    assert done.returncode == 3
    assert bad["state"] == "failed"
    assert str(tmp_path / "bad.tif") in bad["error"]
    assert good["details"]["shape"] == [3, 5, 7]


@pytest.mark.parametrize("switch", [[], ["--json"]])
def test_ingest_names_every_source_that_fails_once(tmp_path: Path, switch: list[str]) -> None:
    from PIL import Image

    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (7, 5), (10, 20, 30)).save(folder / "good.png")
    content = (folder / "good.png").read_bytes()
    (folder / "header.png").write_bytes(content[:12])
    (folder / "pixels.png").write_bytes(content[:45] + bytes(len(content) - 45))
    done = run_segcore("ingest", str(folder), "--workspace", str(tmp_path / "w"), *switch)
    assert done.returncode == 3
    for name in ("header.png", "pixels.png"):
        lines = [line for line in (done.stdout + done.stderr).splitlines() if f"{folder}/{name}: " in line]
        assert len(lines) == 1, lines
    if not switch:
        failed = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
        assert [line.split(": ")[1] for line in failed] == [f"{folder}/header.png", f"{folder}/pixels.png"]
        assert "1 done, 2 failed" in done.stdout.splitlines()[-1]


def test_inspect_shows_a_source_at_the_spacing_that_is_asked_for(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (7, 5)).save(tmp_path / "a.png")
    done = run_segcore("inspect", "--json", "--spacing", "2um", str(tmp_path / "a.png"))
    (shown,) = json.loads(done.stdout)["sources"]
    assert shown["details"]["spacing"] == {"values": {"y": 2.0, "x": 2.0}, "unit": "micrometer", "origin": "user"}
    assert run_segcore("inspect", "--spacing", "2parsec", str(tmp_path / "a.png")).returncode == 2


def test_doctor_finds_a_workspace_that_can_be_written(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["doctor", "--workspace", str(tmp_path / "w"), "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert found["state"] == "done"
    checks = {check["source"]: check["details"]["found"] for check in found["checks"]}
    assert "create-only put works" in checks["workspace"]
    assert not list((tmp_path / "w").rglob("doctor-*"))


def test_doctor_fails_where_the_server_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = run_segcore("doctor")
    assert done.returncode == 1
    assert "prefect server: FAILED: http://127.0.0.1:9/api (PREFECT_API_URL) does not answer" in done.stdout


def test_version_is_the_packages_own() -> None:
    from segcore import __version__

    assert RUNNER.invoke(app, ["--version"]).stdout == f"segcore {__version__}\n"


def test_a_dry_run_of_predict_is_told_in_words() -> None:
    details = {
        "model": "m-1", "name": "m-1", "dry_run": True, "precision": "float32", "tiles": 200, "shards": 1,
        "read_bytes": 7, "write_bytes": 5_500_000, "disk_bytes": 68_400, "expected_cpu_s": 620.0, "expected_s": 310.0,
        "memory_mib": 640, "skipped_share": 0.25,
    }  # fmt: skip
    lines = list(console.result_lines(StageResult(stage="predict", details=details)))
    assert lines[:9] == [
        "nothing was written; this is what would be done:",
        "  tiles: 150 of 200 to infer, 25.0% skipped",
        "  disk: about 68.4 kB in 1 shard (5.5 MB before compression)",
        "  memory: at most 640 MiB",
        "  time: about 5 min (10 min of CPU time)",
        "model: m-1",
        "name: m-1",
        "precision: float32",
        lines[8],
    ]


def test_report_compares_two_and_prints_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[StageConfig] = []

    def stand_in(config: StageConfig, progress: Progress) -> StageResult:
        seen.append(config)
        return StageResult(stage="report")

    instead_of(monkeypatch, stand_in)
    assert RUNNER.invoke(app, ["report", "--workspace", "w", "--compare", "new", "reports/old"]).exit_code == 0
    assert seen[0].compare == ("new", "reports/old")  # type: ignore[attr-defined]
    printed = RUNNER.invoke(app, ["report", "--schema"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)["title"] == "segcore report.json"
    assert len(seen) == 1
