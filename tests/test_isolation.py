"""Isolation: what becomes of tasks whose child behaves, raises, crashes, hangs, eats memory or loses its parent."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from segcore.errors import ConfigError, SourceError
from segcore.isolation import ByName, ChildPool, Outcome, Task

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def tasks() -> Iterator[ModuleType]:
    """The functions, importable by name here and in the children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        yield importlib.import_module("decoder_tasks")


@pytest.fixture(scope="module")
def pool(tasks: ModuleType) -> Iterator[ChildPool]:
    with ChildPool(2, memory_mib=200) as made:
        yield made


def run_one(pool: ChildPool, function: Any, *args: Any, **deadlines: float) -> Outcome:
    (outcome,) = pool.run([Task(function, args, "some.tif", **deadlines)])
    return outcome


def gone(pid: int, within_s: float = 10) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_every_task_gets_its_own_result(pool: ChildPool, tasks: ModuleType) -> None:
    wanted = [Task(tasks.double, (value,), f"{value}.tif") for value in range(20)]
    found = {outcome.task.label: outcome.result for outcome in pool.run(wanted)}
    assert found == {f"{value}.tif": 2 * value for value in range(20)}


def test_a_function_by_name_is_imported_by_the_child_alone(pool: ChildPool) -> None:
    (outcome,) = pool.run([Task(ByName("decoder_tasks", "double"), (4,), "x")])
    assert outcome.result == 8
    (outcome,) = pool.run([Task(ByName("decoder_tasks", "nothing_like_it"), (), "x.tif")])
    assert "nothing_like_it" in str(outcome.error)


def test_children_live_for_many_tasks(pool: ChildPool, tasks: ModuleType) -> None:
    pids = {outcome.result for outcome in pool.run(Task(tasks.pid, (), "x") for _ in range(12))}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_tasks_are_taken_only_as_children_come_free(pool: ChildPool, tasks: ModuleType) -> None:
    taken = 0

    def endless() -> Iterator[Task]:
        nonlocal taken
        while True:
            taken += 1
            yield Task(tasks.double, (taken,), "x")

    run = pool.run(endless())
    for finished in range(1, 6):
        next(run)
        assert taken <= finished + 2
    run.close()


def test_segcore_errors_pass_as_they_are(pool: ChildPool, tasks: ModuleType) -> None:
    outcome = run_one(pool, tasks.refuse)
    assert type(outcome.error) is ConfigError
    assert str(outcome.error) == "slide.svs: refused\nfor a reason"
    assert outcome.attempts == 1


def test_other_errors_become_one_line(pool: ChildPool, tasks: ModuleType) -> None:
    outcome = run_one(pool, tasks.raise_value_error)
    assert type(outcome.error) is SourceError
    assert str(outcome.error) == "some.tif: ValueError: two lines"
    assert outcome.attempts == 1
    assert outcome.traceback is not None
    assert "raise_value_error" in outcome.traceback


def test_a_result_that_cannot_travel_is_an_error(pool: ChildPool, tasks: ModuleType) -> None:
    assert "some.tif: " in str(run_one(pool, tasks.unpicklable).error)


@pytest.mark.parametrize(("function", "said"), [("crash", "signal SEGV"), ("exit_quietly", "exit status 7")])
def test_a_crash_is_tried_again_and_then_named(pool: ChildPool, tasks: ModuleType, function: str, said: str) -> None:
    outcome = run_one(pool, getattr(tasks, function))
    assert str(outcome.error) == f"some.tif: decoder crashed ({said}) (tried 2 times)"
    assert outcome.attempts == 2
    assert run_one(pool, tasks.double, 4).result == 8


def test_a_child_that_dies_once_costs_nothing(pool: ChildPool, tasks: ModuleType, tmp_path: Path) -> None:
    outcome = run_one(pool, tasks.crash_once, str(tmp_path / "mark"))
    assert (outcome.result, outcome.error, outcome.attempts) == ("second try", None, 2)


def test_silence_while_opening_and_while_reading(pool: ChildPool, tasks: ModuleType) -> None:
    started = time.monotonic()
    wanted = [
        Task(tasks.sleep, (60.0, 0, 0.0), "opens.tif", open_deadline_s=0.4),
        Task(tasks.sleep, (0.0, 1, 60.0), "reads.tif", read_deadline_s=0.4),
    ]
    found = {outcome.task.label: str(outcome.error) for outcome in pool.run(wanted)}
    assert found["opens.tif"] == "opens.tif: no sign of life for 0.4 s while opening; stopped (tried 2 times)"
    assert found["reads.tif"] == "reads.tif: no sign of life for 0.4 s while reading; stopped (tried 2 times)"
    assert time.monotonic() - started < 30


def test_beats_keep_a_slow_task_alive(pool: ChildPool, tasks: ModuleType) -> None:
    heard: list[int] = []
    slow = Task(tasks.sleep, (0.0, 6, 0.5), "slow.tif", read_deadline_s=2.0)
    (outcome,) = pool.run([slow], on_beat=lambda task, amount: heard.append(amount))
    assert outcome.result == "done"
    assert heard == [0, 1, 2, 3, 4, 5]


def test_a_long_step_that_goes_on_outlives_the_deadline_of_opening(pool: ChildPool, tasks: ModuleType) -> None:
    heard: list[int] = []
    slow = Task(tasks.unpack_slowly, (6, 0.5), "large.nii.gz", open_deadline_s=2.0, read_deadline_s=2.0)
    (outcome,) = pool.run([slow], on_beat=lambda task, amount: heard.append(amount))
    assert outcome.result == "done"
    assert heard == [0] * 6


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is enforced by Linux only")
def test_memory_over_the_limit_is_refused_and_under_it_is_not(pool: ChildPool, tasks: ModuleType) -> None:
    refused = run_one(pool, tasks.allocate, 250)
    assert str(refused.error) == (
        "some.tif: needs more than 200 MiB of memory to decode (MemoryError); raise memory_mib"
    )
    assert refused.attempts == 1
    for _ in range(5):
        assert run_one(pool, tasks.allocate, 150).result == 150 << 20


def test_noise_of_children_stays_away_from_the_terminal(
    pool: ChildPool, tasks: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_one(pool, tasks.make_noise).error is None
    assert capfd.readouterr() == ("", "")


def test_leaving_a_run_kills_what_is_under_way(tasks: ModuleType, tmp_path: Path) -> None:
    with ChildPool(2) as pool:
        run = pool.run([Task(tasks.hold_everything, (str(tmp_path),), "stuck"), Task(tasks.double, (1,), "quick")])
        assert next(run).result == 2
        while not (pids := [int(path.name) for path in tmp_path.iterdir()]):
            time.sleep(0.05)
        run.close()
        assert gone(pids[0])
        assert run_one(pool, tasks.double, 3).result == 6


def test_temporary_files_go_with_the_pool(tasks: ModuleType, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with ChildPool(1) as pool:
        assert run_one(pool, tasks.leave_temporary, str(said)).error is not None
        assert Path(said.read_text()).exists()
    assert not Path(said.read_text()).exists()


def test_children_survive_the_thread_that_began_the_run(tasks: ModuleType) -> None:
    """The kernel's parent-death signal follows the starting thread, not the process."""
    with ChildPool(1) as pool:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(run_one(pool, tasks.pid).result))
        thread.start()
        thread.join()
        time.sleep(0.3)
        assert run_one(pool, tasks.pid).result == found[0]


def script(body: str) -> str:
    return f"import sys; sys.path.insert(0, {str(HERE)!r})\n{body}"


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "user_script.py"
    path.write_text(
        script(
            "import decoder_tasks\nfrom segcore.isolation import ChildPool, Task\nprint('once')\n"
            "with ChildPool(2) as pool:\n"
            "    print(sorted(o.result for o in pool.run([Task(decoder_tasks.double, (i,), 'x') for i in range(3)])))\n"
        )
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "once\n[0, 2, 4]\n"


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    path = tmp_path / "killed_parent.py"
    path.write_text(
        script(
            "import decoder_tasks\nfrom segcore.isolation import ChildPool, Task\n"
            "with ChildPool(2) as pool:\n"
            f"    list(pool.run([Task(decoder_tasks.hold_everything, ({str(marks)!r},), 'x')] * 2))\n"
        )
    )
    parent = subprocess.Popen([sys.executable, path])
    until = time.monotonic() + 60
    while len(list(marks.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    pids = [int(mark.name) for mark in marks.iterdir()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=10)
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("module", ["segcore.isolation", "segcore.sources", "segcore.targets"])
def test_neither_torch_nor_zarr_is_imported(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'zarr', 'prefect'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"
