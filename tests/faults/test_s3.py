"""An S3 that answers 503, breaks connections, loses replies and stalls: the same pixels, as if nothing had been."""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from PIL import Image as Picture

from segcore.store import Objects, Workspace
from segcore.store.lease import Lease
from tests.conftest import Bucket
from tests.e2e.conftest import wait
from tests.faults.s3_proxy import Fault, FaultProxy, fault_proxy
from tests.inference.scenes import every_level, scene, unet_package

SOON: tuple[Fault, ...] = ("busy", "late", "reset", "lost", "cut")
"""Those that the client hears of at once; it waits half a minute for one that stalls."""


class Once:
    """The next request of a method has a fault, or the next of any."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.method: str | None = None

    def __call__(self, method: str, path: str) -> Fault | None:
        if self.method not in (None, method):
            return None
        fault, self.fault = self.fault, None
        return fault


@pytest.fixture
def once() -> Once:
    return Once()


@pytest.fixture
def objects(bucket: Bucket, s3_server: str, once: Once, monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    with fault_proxy(s3_server, once) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield Objects(f"{bucket.uri}/w")


DEEDS: dict[str, Callable[[Objects], object]] = {
    "put": lambda objects: objects.put("new", b"12"),
    "put_new": lambda objects: (objects.put_new("new", b"12"), objects.get("new")),
    "get": lambda objects: objects.get("old"),
    "open": lambda objects: objects.open("old").read(),  # type: ignore[union-attr]
    "size": lambda objects: objects.size("old"),
    "list": lambda objects: sorted(objects.list("d")),
    "folders": lambda objects: objects.folders("d"),
    "delete": lambda objects: (objects.delete("old"), objects.get("old")),
}


@pytest.mark.parametrize("fault", SOON)
@pytest.mark.parametrize("deed", DEEDS)
def test_each_deed_ends_as_if_nothing_had_been(objects: Objects, once: Once, deed: str, fault: Fault) -> None:
    objects.put("old", b"12")
    for number in range(3):
        objects.put(f"d/{number}/x", b"12")
    once.fault = fault
    assert (
        DEEDS[deed](objects)
        == {
            "put": None,
            "put_new": (True, b"12"),
            "get": b"12",
            "open": b"12",
            "size": 2,
            "list": [(f"d/{number}/x", 2) for number in range(3)],
            "folders": ("0", "1", "2"),
            "delete": (None, None),
        }[deed]
    )
    assert once.fault is None


def test_a_listing_goes_on_after_the_page_that_was_cut_off(
    bucket: Bucket, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = itertools.count()

    def fault_of(method: str, path: str) -> Fault | None:
        return "cut" if "list-type" in path and next(listings) == 1 else None

    with fault_proxy(s3_server, fault_of) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # the server is a thread of ours; 2,100 requests take 20 s
        for number in range(2100):
            backend.put_object(bucket.name, f"w/d/{number:04}", b"1")
        found = [key for key, _ in Objects(f"{bucket.uri}/w").list("d")]
    assert found == [f"d/{number:04}" for number in range(2100)]
    assert next(listings) > 3


def test_a_place_that_another_has_taken_stays_taken_when_the_reply_is_lost(objects: Objects, once: Once) -> None:
    objects.put("place", b"theirs")
    once.fault = "lost"
    assert not objects.put_new("place", b"ours")
    assert objects.get("place") == b"theirs"


@pytest.mark.parametrize("fault", SOON)
def test_a_lease_is_renewed_and_given_back_all_the_same(objects: Objects, once: Once, fault: Fault) -> None:
    once.fault, once.method = fault, "PUT"
    lease = Lease(objects, "lease", term_s=0.9)
    assert once.fault is None
    before = newest(objects)
    once.fault = fault
    wait(lambda: newest(objects) > before + 1, "it is not renewed any more", 20)
    once.fault = fault
    lease.release()
    with Lease(objects, "lease", wait=False):
        assert once.fault is None


def newest(objects: Objects) -> int:
    return max(int(key.rsplit("/", 1)[-1]) for key, _ in objects.list("lease"))


class Often:
    """One request of so many has a fault, each fault in its turn; a few stall."""

    def __init__(self, every: int, stalls: int) -> None:
        self._every, self._stalls = every, stalls
        self._count, self._turns, self._lock = itertools.count(1), itertools.cycle(SOON), threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        with self._lock:
            number = next(self._count)
            if number % self._every:
                return None
            if self._stalls and number % (5 * self._every) == 0:
                self._stalls -= 1
                return "stalled"
            return next(self._turns)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_night_over_an_s3_in_trouble_ends_with_the_same_masks(bucket: Bucket, s3_server: str, tmp_path: Path) -> None:
    """Commands in processes of their own: ingest from S3 to S3, then predict."""
    Picture.fromarray(np.moveaxis(scene(700, 600), 0, -1)).save(tmp_path / "a.png")
    bucket.put(tmp_path / "a.png", "in/a.png")
    calm = Workspace.open(str(tmp_path / "calm"), create=True)
    model = unet_package(calm).model_id
    troubled = Workspace.open(f"{bucket.uri}/w", create=True)
    assert unet_package(troubled).model_id == model
    done(calm, str(tmp_path / "a.png"), model, {})
    with fault_proxy(s3_server, Often(5, stalls=2)) as proxy:
        done(troubled, f"{bucket.uri}/in/a.png", model, {"AWS_ENDPOINT_URL": proxy.url})
    ours, theirs = (every_level(ws, ws.image_ids()[0], model) for ws in (troubled, calm))
    for level, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"level {level}")
    had = faults(proxy)
    assert min(had[fault] for fault in SOON) >= 5
    assert had["stalled"] == 2


def done(ws: Workspace, source: str, model: str, environ: dict[str, str]) -> None:
    """Ingest and predict, each a command of its own."""
    commands = (
        ("ingest", source, "--processes", "1", "--shard-px", "256"),
        ("predict", "--model", model, "--device", "cpu", "--shard-px", "256", "--tile-px", "256", "--halo", "16"),
    )
    for name, *options in commands:
        command = [sys.executable, "-m", "flows", name, *options, "--workspace", ws.uri]
        ran = subprocess.run(
            command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=400, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def faults(proxy: FaultProxy) -> dict[Fault, int]:
    """How many requests had each."""
    found: dict[Fault, int] = dict.fromkeys((*SOON, "stalled"), 0)
    for request in proxy.requests:
        if request.fault is not None:
            found[request.fault] += 1
    return found
