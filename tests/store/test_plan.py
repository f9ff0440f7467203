"""Plan and ledger: whatever of the state is changed and stays well-formed is found, named and mended."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segcore.errors import DamagedError
from segcore.store import PyramidSpec, Staging, Workspace, seal, unseal, verify
from segcore.store.plan import SEAL, canonical_json
from tests.synthetic import write

SPEC = PyramidSpec(axes=("c", "y", "x"), shape=(1, 300, 500), dtype="uint8", kind="image", shard_px=256)
PLAN = {"source": {"digest": "abc", "size": 1234}, "tile": 512, "tolerance": 0.25}
PIXELS = np.random.default_rng(0).integers(1, 256, SPEC.shape, dtype=np.uint8)
RECORD = "state/a/image/0/shards/0/0.1.1"
SEALED = {
    "segcore.json": {"layout": 1},
    "splits/0a1b.json": {"split": "train"},
    "state/models/m-1/cpu.json": {"precision": "float32", "agreement": {"bfloat16": 0.9991}},
    "state/a/seen.json": {"stamp": {"size": 77, "mtime_ns": 1234567890}, "digest": "0123abcd"},
    "state/a/image/score.json": {"format": 1, "counts": [[12, 3], [4, 567]]},
}
"""What others write; its readers are tested where they are."""
KEYS = [*SEALED, "state/a/image/0/plan.json", "state/a/image/0/finished.json", RECORD]
NUM_FLIPS = 100


def make(workspace: Workspace, overwrite: bool = False) -> int:
    """Begin or go on; how many shards of level 0 were written."""
    with Staging.begin(workspace, "a", "image", PLAN, SPEC, overwrite=overwrite) as staging:
        if staging.finished:
            return 0
        num_written = len(write(staging, PIXELS))
        staging.finish({"source": "a.tif"}, channels=("grey",))
    return num_written


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace.open(str(tmp_path_factory.mktemp("made") / "w"), create=True)
    make(workspace)
    for key, value in SEALED.items():
        workspace.objects.put(key, canonical_json(seal(value)))
    assert verify(workspace) == []
    return workspace


def flips(data: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """The same object with one byte changed, well-formed and of another content."""
    while True:
        changed = bytearray(data)
        changed[rng.integers(len(data))] = rng.choice(np.frombuffer(b"0123456789abcdefxyzE-. ", np.uint8))
        try:
            if json.loads(changed) != json.loads(data):
                yield bytes(changed)
        except ValueError:
            continue


def with_a_digit_flipped(data: bytes) -> bytes:
    """The first number of the content made another."""
    found = re.search(rb": (\d)", data)
    assert found is not None
    at = found.start(1)
    return data[:at] + (b"7" if data[at : at + 1] != b"7" else b"8") + data[at + 1 :]


def damage(workspace: Workspace, key: str) -> None:
    data = workspace.objects.get(key)
    assert data is not None
    workspace.objects.put(
        key, with_a_digit_flipped(data) if key != RECORD else data.replace(b'"pixels": "', b'"pixels": "0')
    )


@pytest.mark.parametrize(
    "value", [{}, {"b": [1, 2.5e-7, None], "a": {"ä": float("inf"), "x": (1, 2)}}, {"n": {10: 1, 9: 2}}]
)
def test_what_is_sealed_is_read_back(value: dict[str, object]) -> None:
    expected = json.loads(json.dumps(value))
    assert unseal(json.dumps(seal(value)).encode()) == unseal(canonical_json(seal(value))) == expected
    assert unseal(json.dumps(value).encode()) == expected, "without a seal, as older versions wrote it"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff", "decode"),
        (b"[1]", "JSON object, got list"),
        (b'{"a": 1, "seal": null}', "not what its seal says"),
        (b'{"a": 1, "seal": "0"}', "not what its seal says"),
    ],
)
def test_what_is_no_sealed_object_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        unseal(data)


@pytest.mark.parametrize("key", KEYS)
def test_verify_names_every_object_with_a_changed_byte(made: Workspace, key: str) -> None:
    pristine = made.objects.get(key)
    assert pristine is not None
    changes = flips(pristine, np.random.default_rng(len(key)))
    try:
        for _ in range(NUM_FLIPS):
            changed = next(changes)
            made.objects.put(key, changed)
            problems = verify(made)
            assert [problem.key for problem in problems] == [key], changed
            assert problems[0].what.startswith("damaged")
    finally:
        made.objects.put(key, pristine)
    assert verify(made) == []


def test_a_changed_record_costs_its_shard_alone(local_workspace: Workspace) -> None:
    make(local_workspace)
    damage(local_workspace, RECORD)
    assert make(local_workspace, overwrite=True) == 1
    assert verify(local_workspace) == []


def test_changed_digests_of_the_metadata_cost_no_shard(local_workspace: Workspace) -> None:
    make(local_workspace)
    key = "state/a/image/0/finished.json"
    data = local_workspace.objects.get(key) or b""
    local_workspace.objects.put(key, re.sub(rb'": "[0-9a-f]', b'": "x', data, count=1))
    assert [problem.key for problem in verify(local_workspace)] == [key]
    assert make(local_workspace) == 0
    assert verify(local_workspace) == []


def test_a_changed_plan_is_an_error_and_overwrite_makes_all_anew(local_workspace: Workspace) -> None:
    make(local_workspace)
    damage(local_workspace, "state/a/image/0/plan.json")
    with pytest.raises(DamagedError, match=r"state/a/image/0/plan\.json: damaged .* --overwrite$"):
        make(local_workspace)
    assert make(local_workspace, overwrite=True) == SPEC.grid(0).num_cells
    assert local_workspace.objects.folders("state/a/image") == ("1", "lease")
    assert verify(local_workspace) == []


def test_a_changed_marker_is_named_and_can_be_made_anew(local_workspace: Workspace) -> None:
    make(local_workspace)
    damage(local_workspace, "segcore.json")
    with pytest.raises(DamagedError, match=r"segcore\.json: damaged .* delete it"):
        Workspace.open(local_workspace.uri)
    local_workspace.objects.delete("segcore.json")
    assert verify(Workspace.open(local_workspace.uri, create=True)) == []


def test_a_workspace_without_seals_is_as_good_as_before(local_workspace: Workspace) -> None:
    make(local_workspace)
    for path in [
        path for path in Path(local_workspace.uri).rglob("*") if path.is_file() and "images" not in path.parts
    ]:
        content = json.loads(path.read_bytes())
        assert (SEAL in content) == ("lease" not in path.parts)
        path.write_text(json.dumps({name: value for name, value in content.items() if name != SEAL}))
    assert verify(Workspace.open(local_workspace.uri)) == []
    with Staging.begin(local_workspace, "a", "image", PLAN, SPEC) as staging:
        assert staging.finished
