"""Dask workers on this machine: how much faster two are than one, and how well sixteen keep a model busy that waits.

Every case is a process of its own, bound to as many cores as it has dask workers (all of them for the sleeping model).
It predicts a small image first, so that no start-up is measured, and then a large one.

    vs_forward_scaling   what the second dask worker brings (Mpx/s of two over those of one) over what a second process
                         brings to the bare forward pass of the same model, in the same run
    sleeping_16          how many times as many work units a second sixteen dask workers do as one, where the model
                         sleeps (as while a GPU computes) for 25 times the CPU time of a shard; 160 work units
    sleeping_16_long     the same with 640
    leader_cpu_s         of the process that leads, for the 640
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import BANDS, put_conv1, put_scene, put_unet
from sleeping import SECONDS

from flows.dask import dask_crew
from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.inference.numerics import Network
from segcore.measure import num_cores
from segcore.models.package import read_package
from segcore.progress import SILENT
from segcore.store import PyramidSpec, Staging, Workspace

SHARD_PX = 256
UNIT_PX = 4 * SHARD_PX
COMMON: dict[str, Any] = {"device": "cpu", "precision": "float32", "tile_workers": 1, "foreground": "off"}
SMALL_SHARDS = {"shard_px": SHARD_PX, "tile_px": SHARD_PX}
FORWARD_S = 8.0
FORWARD_TILE_PX = 512
SLEEP_FACTOR = 25
FEW_UNITS, MANY_UNITS, MORE_UNITS = 16, 160, 640


def put_wide(ws: Workspace, name: str, units: int) -> None:
    """A blank image of so many work units of the smallest shards."""
    columns = max(divisor for divisor in range(1, 33) if units % divisor == 0)
    shape = (3, UNIT_PX * (units // columns), UNIT_PX * columns)
    spec = PyramidSpec(axes=("c", "y", "x"), shape=shape, dtype="uint8", kind="image", shard_px=2048)
    with Staging.begin(ws, name, "image", {"benchmark": name}, spec) as staging:
        staging.put_all(np.full(shape, 100, np.uint8))
        staging.finish({"digest": name}, channels=BANDS)


# In a process of its own


def forward(uri: str, model: str) -> float:
    """Tiles a second of the bare forward pass, on one thread."""
    torch.set_num_threads(1)
    network = Network(read_package(Workspace.open(uri), model), torch.device("cpu"), "float32", batch=1)
    tile = torch.randint(0, 255, (1, 3, FORWARD_TILE_PX, FORWARD_TILE_PX), dtype=torch.uint8).numpy()
    with network.tile_worker():
        network.ids(tile, (0, 0))
        began, tiles = time.perf_counter(), 0
        while time.perf_counter() - began < FORWARD_S:
            network.ids(tile, (0, 0))
            tiles += 1
        return tiles / (time.perf_counter() - began)


def spread(uri: str, model: str, workers: int, small: str, large: str) -> dict[str, float]:
    """Seconds of the large image on dask workers that have done the small one, and the leader's CPU time."""
    common = {**COMMON, "workspace": uri, "model": model, "name": f"mask-{os.getpid()}"}
    common |= SMALL_SHARDS if SECONDS in os.environ else {"shard_px": SHARD_PX}
    with dask_crew(f"LOCAL:{workers}") as crew:
        for image in (small, large):
            began, cpu = time.perf_counter(), time.process_time()
            (item,) = predict(PredictConfig.model_validate({**common, "images": [image]}), SILENT, crew).items
            assert item.state == "done", item.error
            seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": seconds, "cpu_s": cpu_s}


# In the process that measures


def measured(cores: int, case: list[Any], sleep_s: float = 0.0, copies: int = 1) -> list[Any]:
    """What so many processes answer to a case, each bound to `cores` cores: the first ones, or each its own."""
    environ = dict(os.environ)
    if sleep_s:
        preload = json.dumps([str(Path(__file__).with_name("sleeping.py"))])
        environ |= {SECONDS: str(sleep_s), "DASK_DISTRIBUTED__WORKER__PRELOAD": preload}
    own = sorted(os.sched_getaffinity(0))
    running = []
    for number in range(copies):
        bound = ",".join(map(str, own[number * cores : (number + 1) * cores] or own))
        call = [sys.executable, __file__, "--case", json.dumps(case), "--cores", bound]
        running.append(subprocess.Popen(call, env=environ, stdout=subprocess.PIPE, text=True))
    answers = [each.communicate()[0] for each in running]
    if any(each.returncode for each in running):
        sys.exit(f"a case failed: {case}")
    return [json.loads(answer) for answer in answers]


def scaling(uri: str, unet: str, rounds: int) -> dict[str, float]:
    """Of real inference, on one core and on two."""
    one, two = [], []
    for _ in range(rounds):
        alone = measured(1, ["forward", uri, unet])[0]
        both = sum(measured(1, ["forward", uri, unet], copies=2))
        seconds = [measured(n, ["spread", uri, unet, n, "small", "large"])[0]["seconds"] for n in (1, 2)]
        one.append(both / alone)
        two.append(seconds[0] / seconds[1])
    dask, bare = statistics.median(two), statistics.median(one)
    return {"forward_scaling": bare, "dask_scaling": dask, "vs_forward_scaling": dask / bare}


def sleeping(uri: str, conv1: str, more: bool) -> dict[str, float]:
    """Of a model that sleeps: one dask worker, then sixteen."""
    config = {**COMMON, **SMALL_SHARDS, "workspace": uri, "model": conv1, "images": ["few"]}
    predict(PredictConfig.model_validate({**config, "name": "warm"}))
    began = time.process_time()
    predict(PredictConfig.model_validate({**config, "name": "cpu"}))
    shard_s = (time.process_time() - began) / (16 * FEW_UNITS)
    sleep_s = SLEEP_FACTOR * shard_s
    cores = num_cores()
    alone = measured(cores, ["spread", uri, conv1, 1, "tiny", "few"], sleep_s)[0]["seconds"] / FEW_UNITS
    found = {"shard_cpu_s": shard_s, "sleep_s": sleep_s}
    for name, image, units in (("sleeping_16", "many", MANY_UNITS), ("sleeping_16_long", "more", MORE_UNITS)):
        if name == "sleeping_16" or more:
            spread_over = measured(cores, ["spread", uri, conv1, 16, "few", image], sleep_s)[0]
            found |= {name: alone / (spread_over["seconds"] / units), "leader_cpu_s": spread_over["cpu_s"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096, help="of the image that is really inferred, px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2048 px, one round, no sleeping model")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--cores", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
        name, *arguments = json.loads(options.case)
        print(json.dumps({"forward": forward, "spread": spread}[name](*arguments)))
        return
    with tempfile.TemporaryDirectory(prefix="segcore-scale-out-") as folder:
        ws = Workspace.open(folder, create=True)
        unet = put_unet(ws).model_id
        put_scene(ws, 512, "small")
        put_scene(ws, 2048 if options.quick else options.side, "large")
        found = scaling(ws.uri, unet, 1 if options.quick else options.rounds)
        if not options.quick:
            conv1 = put_conv1(ws).model_id
            for name, units in (("tiny", 1), ("few", FEW_UNITS), ("many", MANY_UNITS), ("more", MORE_UNITS)):
                put_wide(ws, name, units)
            found |= sleeping(ws.uri, conv1, more=True)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:20} {value:.4g}")


if __name__ == "__main__":
    main()
