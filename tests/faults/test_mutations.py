"""Damaged files of every format: each ends with pixels of the size that its header tells, or with one clear line.

200 seeded damages of one small file per format, each read whole in a child of the pool. The parent lives, no decoder
hangs, and a file that was cut off never gives other pixels than the whole one.
"""

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.isolation import ChildPool, Outcome, Task
from tests.decoder_tasks import digest_whole
from tests.faults.small_files import LOSSY, MAKERS

NUM_MUTATIONS = 200
MAX_CRASHES = 2
"""The pool contains a C library that dies; many deaths would mean that something in the header was not looked at."""
KINDS = ("cut", "bits", "run", "integer")
OPEN_S, READ_S = 20.0, 20.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool() -> Iterator[ChildPool]:
    with ChildPool(2, memory_mib=512) as made:
        yield made


def cut(data: bytearray, rng: np.random.Generator) -> None:
    """Off at the end, by little or by much."""
    del data[int(len(data) * rng.choice([rng.uniform(0.01, 1), rng.uniform(0.9, 1), 1 - 2 / len(data)])) :]


def bits(data: bytearray, rng: np.random.Generator) -> None:
    """One to eight bits the other way."""
    for at in rng.integers(0, len(data), rng.integers(1, 9)):
        data[at] ^= 1 << int(rng.integers(8))


def run(data: bytearray, rng: np.random.Generator) -> None:
    """A run of bytes lost: zeros or ones."""
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 65))
    stop = min(start + length, len(data))
    data[start:stop] = bytes([int(rng.choice([0, 255]))]) * (stop - start)


def integer(data: bytearray, rng: np.random.Generator) -> None:
    """A number in the first KB replaced by an extreme one."""
    size = int(rng.choice([1, 2, 4, 8]))
    start = int(rng.integers(max(1, min(1024, len(data)) - size)))
    most = 2 ** (8 * size)
    value = int(
        rng.choice(np.array([0, 1, 2, len(data), 2**16 - 1, 10**6, most // 2 - 1, most // 2, most - 1], object))
    )
    data[start : start + size] = (value % most).to_bytes(size, str(rng.choice(["little", "big"])))  # type: ignore[arg-type]


def damaged(pristine: Path, folder: Path, number: int, rng: np.random.Generator) -> Path:
    """A copy with one damage; of a folder, in one of its files."""
    path = folder / f"{KINDS[number % len(KINDS)]}-{number}" / pristine.name
    path.parent.mkdir(parents=True)
    if pristine.is_dir():
        shutil.copytree(pristine, path)
        files = sorted(found for found in path.rglob("*") if found.is_file())
        target = files[int(rng.integers(len(files)))]
    else:
        shutil.copy(pristine, path)
        target = path
    data = bytearray(target.read_bytes())
    {"cut": cut, "bits": bits, "run": run, "integer": integer}[KINDS[number % len(KINDS)]](data, rng)
    target.write_bytes(data)
    return path


def task(path: Path) -> Task:
    return Task(digest_whole, (str(path),), str(path), OPEN_S, READ_S)


@pytest.mark.parametrize("name", MAKERS)
def test_damaged_files_end_in_pixels_or_in_one_line(name: str, tmp_path: Path, pool: ChildPool) -> None:
    called, make = MAKERS[name]
    pristine = tmp_path / called
    make(pristine)
    (whole,) = pool.run([task(pristine)])
    if whole.error is not None:
        pytest.fail(f"{name} is not read: {whole.error}")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    paths = [damaged(pristine, tmp_path, number, rng) for number in range(NUM_MUTATIONS)]
    outcomes = list(pool.run(task(path) for path in paths))
    assert len(outcomes) == NUM_MUTATIONS
    faults = [fault for outcome in outcomes if (fault := fault_of(outcome, whole, name))]
    assert not faults, "\n".join(faults)
    said = [str(outcome.error) for outcome in outcomes if outcome.error is not None]
    assert said, "no damage was noticed: the damages do not reach the reader"
    crashes = [line for line in said if "decoder crashed" in line]
    assert len(crashes) <= MAX_CRASHES, "\n".join(crashes)


def fault_of(outcome: Outcome, whole: Outcome, name: str) -> str | None:
    """What is wrong with an outcome; None if it is as promised."""
    label = outcome.task.label
    if outcome.error is None:
        was_cut = Path(label).parent.name.startswith("cut")
        if was_cut and (outcome.result[0] != whole.result[0] or (name not in LOSSY and outcome.result != whole.result)):
            return f"{label}: cut off, but pixels of {outcome.result[0]} came that are not those of the whole"
        return None
    said = str(outcome.error)
    if type(outcome.error) is not SourceError or not said.startswith(label) or "\n" in said or len(said) > 700:
        return f"{label}: {type(outcome.error).__name__} is no line for a user: {said}"
    if any(sign in said for sign in ("no sign of life", "AssertionError")):
        return f"{said}\n{outcome.traceback or ''}"
    return None
