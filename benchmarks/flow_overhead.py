"""What Prefect adds to a night: the same images by plain commands, and as the flow `nightly` on a server.

200 new images of 1024 px, each to be ingested, predicted and reported. All take turns, each in an empty workspace; the
seconds are those of whole processes, so that a command's start counts as often as it is started.

    plain        segcore ingest, predict, drift, score, report
    sqlite       the flow, on a server that runs and keeps its records in SQLite
    postgresql   the flow, on a server with PostgreSQL; left out where that is not installed

`vs_plain_sqlite`, `vs_plain_postgresql`: medians over that of `plain`; 1.15 is the most that was asked.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from contest import clocked, put_unet, scene_shard, take_turns
from PIL import Image as Picture
from postgres import postgres, programs

from flows.server import free_port
from segcore.store import Workspace

QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
NIGHT = "import json, sys; from flows.nightly import nightly; nightly(json.loads(sys.argv[1]))"
DEVICE = {"device": "cpu", "precision": "float32"}


@contextmanager
def prefect_server(home: Path, database: str | None) -> Iterator[str]:
    """A Prefect server of our own, which starts; its API's address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    call = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environ = {**os.environ, **QUIET, "PREFECT_HOME": str(home), "PREFECT_API_URL": url}
    if database is not None:
        environ["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    server = subprocess.Popen(call, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


def wait_for(url: str) -> None:
    """Return when a server answers."""
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()  # noqa: S310 - our own server
            return
        except OSError:
            time.sleep(0.5)
    sys.exit(f"the server at {url} does not answer")


def put_images(folder: Path, number: int, side: int) -> None:
    """PNG files, no two alike."""
    folder.mkdir()
    for index in range(number):
        pixels, _ = scene_shard((index, 0))
        Picture.fromarray(pixels[:, :side, :side].transpose(1, 2, 0)).save(folder / f"{index}.png", compress_level=1)


class Nights:
    """Each night has a workspace of its own, with the model in it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def _new(self) -> tuple[Workspace, str]:
        self._count += 1
        workspace = Workspace.open(str(self._folder / f"w{self._count}"), create=True)
        return workspace, put_unet(workspace).model_id

    def plain(self) -> float:
        """By commands."""
        workspace, model = self._new()
        masks = ("--model", model)
        stages: dict[str, tuple[str, ...]] = {
            "ingest": (str(self._folder / "in"),),
            "predict": (*masks, *(f"--{name}={value}" for name, value in DEVICE.items())),
            "drift": masks,
            "score": masks,
            "report": masks,
        }

        def act() -> None:
            for stage, options in stages.items():
                self._run(["-m", "flows", stage, *options, "--workspace", workspace.uri], {})

        return self._checked(workspace, model, act)

    def flow(self, url: str) -> float:
        """As the flow."""
        workspace, model = self._new()
        sources = [str(self._folder / "in")]
        config = {"workspace": workspace.uri, "model": model, "sources": sources, "predict": DEVICE}
        environ = {"PREFECT_API_URL": url, "PREFECT_HOME": str(self._folder / "home")}
        return self._checked(workspace, model, lambda: self._run(["-c", NIGHT, json.dumps(config)], environ))

    def _checked(self, workspace: Workspace, model: str, act: Callable[[], None]) -> float:
        seconds = clocked(act)
        images = len(list((self._folder / "in").iterdir()))
        masks = sum(workspace.is_complete(image_id, model) for image_id in workspace.image_ids())
        assert masks == images, f"{masks} masks of {images} images"
        return seconds

    def _run(self, arguments: list[str], environ: dict[str, str]) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], env={**os.environ, **QUIET, **environ}, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stdout + done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=1024, help="of an image, in px")
    parser.add_argument("--rounds", type=int, default=1, help="nights of each kind")
    parser.add_argument("--quick", action="store_true", help="four images of 256 px")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    images, side, rounds = (4, 256, 1) if options.quick else (options.images, options.side, options.rounds)
    with tempfile.TemporaryDirectory(prefix="segcore-night-") as name, ExitStack() as servers:
        folder = Path(name)
        put_images(folder / "in", images, side)
        nights = Nights(folder)
        databases: dict[str, str | None] = {"sqlite": None}
        if programs() is not None:
            databases["postgresql"] = servers.enter_context(postgres()).url
        ways: dict[str, Callable[[], float]] = {"plain": nights.plain}
        urls = {way: servers.enter_context(prefect_server(folder / way, url)) for way, url in databases.items()}
        for way, url in urls.items():
            wait_for(url)
            ways[way] = partial(nights.flow, url)
        times = take_turns(ways, rounds)
    found = {f"{way}_s": round(times.median(way), 1) for way in ways}
    ratios = {f"vs_plain_{way}": times.ratio(way, "plain") for way in databases}
    if options.json:
        print(json.dumps({**ratios, **found, "images": images, "side": side, **times.as_json()}))
    else:
        print("\n".join(f"{name:22} {value}" for name, value in {**found, **ratios}.items()))


if __name__ == "__main__":
    main()
