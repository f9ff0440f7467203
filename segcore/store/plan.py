"""Plan and ledger: what a stage will do, frozen once, and which shards of it are finished.

    state/<image_id>/<name>/<n>/plan.json             written once, create-only
                               /shards/<level>/<i.j>  one record per finished shard, written after the shard
                               /finished.json         digests and a copy of the metadata and the plan, before the mark

The orchestrator is never asked: a rerun believes the ledger alone. Each of these objects is sealed: it holds a digest
of its own content, so that damage is found which leaves it well-formed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xxhash
from pydantic import BaseModel, ConfigDict

from segcore.errors import DamagedError, PlanMismatchError
from segcore.geometry import Ints
from segcore.store.objects import Objects

READ_THREADS = 8

SEAL = "seal"
"""Key of the digest that a sealed object holds of all its other keys."""


def digest_of(data: Any) -> str:
    """XXH3-128 of bytes or of a C-order array, in hex: it finds damage, and is no defence against forgery."""
    return xxhash.xxh3_128(data).hexdigest()


def plan_digest(plan: Mapping[str, Any]) -> str:
    """SHA-256 of a plan, in hex: what is made by an equal plan has equal pixels."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=True).encode()


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal."""
    plain = json.loads(json.dumps(value))  # as it will be read: a key that is a number becomes text
    return {**plain, SEAL: _content_digest(plain)}


def unseal(data: bytes) -> dict[str, Any]:
    """The content of a sealed object; one without a seal is of an older version, and taken as it is.

    Raises:
        ValueError: if it is no JSON object, or not the one that was sealed.
    """
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {type(found).__name__}")
    # The seal's own name can be damaged too.
    name = SEAL if SEAL in found else next((key for key in found if _is_seal(key, found)), None)
    if name is not None and (name != SEAL or not _is_seal(name, found)):
        raise ValueError("its content is not what its seal says")
    return {key: value for key, value in found.items() if key != SEAL}


def _is_seal(name: str, found: Mapping[str, Any]) -> bool:
    """True if the value of a key is the digest of all others."""
    value = found[name]
    return isinstance(value, str) and value == _content_digest({key: found[key] for key in found if key != name})


def _content_digest(value: Mapping[str, Any]) -> str:
    return digest_of(json.dumps(value, sort_keys=True).encode())  # unlike `canonical_json` in one line: much faster


def sharded_key(shard: Ints) -> str:
    """Key below its level of the one object that a shard of Zarr v3 is."""
    return f"c/{'/'.join(map(str, shard))}"


class ShardRecord(BaseModel):
    """The ledger's word that a shard is finished."""

    model_config = ConfigDict(frozen=True)

    pixels: str
    """Digest of the pixels."""
    objects: dict[str, tuple[int, str]]
    """Size in bytes and digest of every object of the shard, by its key below the level: one in OME-NGFF 0.5, one per
    chunk in 0.4. Where all pixels are the fill value, Zarr keeps none."""
    note: dict[str, Any] = {}


class Ending(BaseModel):
    """`finished.json`: what stood when all shards were there. It and what it copies can each be made from the other."""

    model_config = ConfigDict(frozen=True)

    metadata: dict[str, str]
    """Digest of every metadata object, by key."""
    documents: dict[str, str] = {}
    """The group's own metadata, whole, by key; empty where an older version wrote it."""
    frozen: dict[str, Any] = {}
    """What `plan.json` holds; empty where an older version wrote it."""


def _with_objects(record: dict[str, Any], shard: Ints) -> dict[str, Any]:
    """A record as it is now: those of version 0.1 told size and digest of the one object that a shard was."""
    if "objects" in record:
        return record
    one = (record["size"], record["digest"])
    return record | {"objects": {} if one[0] is None else {sharded_key(shard): one}}


class PlanState:
    """One numbered plan of one image or label, and its ledger."""

    def __init__(self, objects: Objects, state_prefix: str, number: int) -> None:
        self.objects = objects
        self.number = number
        self.prefix = f"{state_prefix}/{number}"

    def load(self, or_empty: bool = False) -> dict[str, Any]:
        """The frozen plan: `{"plan": ..., "storage": ...}`.

        Args:
            or_empty: for a damaged one give {}, from which every plan differs.

        Raises:
            DamagedError: naming the file.
        """
        key = f"{self.prefix}/plan.json"
        data = self.objects.get(key)
        assert data is not None, f"{self.prefix} has no plan.json"
        try:
            return unseal(data)
        except ValueError as error:
            if or_empty:
                return {}
            where = self.objects.describe(key)
            raise DamagedError(f"{where}: damaged ({error}); run the command that made it with --overwrite") from error

    def record_key(self, level: int, shard: Ints) -> str:
        return f"{self.prefix}/shards/{level}/{'.'.join(map(str, shard))}"

    def record(self, level: int, shard: Ints) -> ShardRecord | None:
        """The record of one shard, or None if it is not finished (a damaged record is none)."""
        data = self.objects.get(self.record_key(level, shard))
        try:
            return None if data is None else ShardRecord.model_validate(_with_objects(unseal(data), shard))
        except (ValueError, TypeError, KeyError):
            return None

    def put_record(self, level: int, shard: Ints, record: ShardRecord) -> None:
        self.objects.put(self.record_key(level, shard), json.dumps(seal(record.model_dump(mode="json"))).encode())

    def delete_record(self, level: int, shard: Ints) -> None:
        self.objects.delete(self.record_key(level, shard))

    def recorded(self) -> Iterator[tuple[int, Ints]]:
        """Level and index of every finished shard, in no order."""
        for key, _ in self.objects.list(f"{self.prefix}/shards"):
            level, name = key.split("/")[-2:]
            yield int(level), tuple(int(i) for i in name.split("."))

    def records(self) -> dict[tuple[int, Ints], ShardRecord]:
        """Every record of the ledger."""
        keys = list(self.recorded())
        with ThreadPoolExecutor(READ_THREADS) as threads:
            found = threads.map(lambda key: self.record(*key), keys)
            return {key: record for key, record in zip(keys, found, strict=True) if record is not None}

    def finished(self) -> Ending | None:
        """What stood in the end, or None while the stage is not finished (damaged: it is not)."""
        data = self.objects.get(f"{self.prefix}/finished.json")
        try:
            return None if data is None else Ending.model_validate(unseal(data))
        except (ValueError, TypeError, KeyError):
            return None

    def put_finished(self, ending: Ending) -> None:
        self.objects.put(f"{self.prefix}/finished.json", canonical_json(seal(ending.model_dump())))

    def stands(self) -> bool:
        """False if it was removed, or another one took its place: what is made by it must not be written any more."""
        return self.objects.size(f"{self.prefix}/plan.json") is not None


def state_prefix(image_id: str, name: str) -> str:
    """Where the plans of an image (`name` = "image") or label are kept."""
    return f"state/{image_id}/{name}"


def latest_plan(objects: Objects, image_id: str, name: str) -> PlanState | None:
    """The newest plan, or None if there is none."""
    prefix = state_prefix(image_id, name)
    numbers = (int(folder) for folder in objects.folders(prefix) if folder.isdigit())
    for number in sorted(numbers, reverse=True):
        if objects.size(f"{prefix}/{number}/plan.json") is not None:
            return PlanState(objects, prefix, number)
    return None


def create_plan(objects: Objects, image_id: str, name: str, number: int, frozen: dict[str, Any]) -> PlanState:
    """Freeze a plan under a number; where another process was faster, its plan must be the same.

    Raises:
        PlanMismatchError: naming the difference.
    """
    state = PlanState(objects, state_prefix(image_id, name), number)
    if not objects.put_new(f"{state.prefix}/plan.json", canonical_json(seal(frozen))):
        refuse_other_plan(state.load(), frozen, f"{image_id}/{name}")
    return state


def forget_plans(objects: Objects, image_id: str, name: str) -> None:
    """Remove plans and ledgers, but no lease.

    A plan goes after all that was recorded under it: the next one gets its number, and would believe what is left.
    """
    prefix = state_prefix(image_id, name)
    keys = [key for key, _ in objects.list(prefix) if not key.startswith(f"{prefix}/lease/")]
    for key in sorted(keys, key=lambda key: key.endswith("/plan.json")):
        objects.delete(key)


def plan_difference(old: Any, new: Any, at: str = "") -> list[str]:
    """Dotted keys at which two plans differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for key in keys for line in plan_difference(old.get(key), new.get(key), f"{at}.{key}".lstrip("."))]
    same = canonical_json(old) == canonical_json(new)
    return [] if same else [f"{at}: {_short(old)} -> {_short(new)}"]


def refuse_other_plan(old: dict[str, Any], new: dict[str, Any], where: str) -> None:
    """Raise PlanMismatchError where two frozen plans differ."""
    difference = plan_difference(old, new)
    if difference:
        raise PlanMismatchError(
            f"{where}: it was made, or begun, under another plan ({'; '.join(difference[:4])}); "
            "keep the old settings, or --overwrite it; a mask may have another --name instead"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
