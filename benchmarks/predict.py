"""Predict, from store to store, beside the bare forward pass, MONAI's sliding window and TIAToolbox.

All contestants have the same trained weights and the same image in a sharded store, and take turns, so that a busy
machine is busy for all; compare the ratios, which are of medians. Peers run in processes of their own, as their users
run them; MONAI reads and writes through our store.

    ours                     segcore.inference.predict at its defaults; `--precision` fixes the precision
    ours_gaussian            the same, blend: gaussian, tiles of 512 px that overlap by a quarter
    forward                  the model alone on ready tiles: as many, of the same sides, precision, batch and threads
    forward_best             the model alone on tiles without halo, in the best of several sides and splits of the cores
    monai_default            sliding_window_inference as its documentation shows it: float32, windows of 512 px that
                             overlap by a quarter, gaussian, four at once
    monai_50                 the same, overlapping by half
    monai_same_precision     by a quarter, in our precision, folded, channels last, one window at once, buffered
    tiatoolbox               its SemanticSegmentor at its defaults, 512 px in, 448 px out, an uncompressed tiled TIFF
                             to Zarr; in a process and an environment of its own (see tiatoolbox_peer.py)

`vs_forward` is 1 where reading, blending and writing cost nothing; `useful_vs_forward` sets the mask's pixels a second
against those of `forward_best`, so the halo counts as lost. On a GPU `ours_busy` is the share of time in which it
computes; give `--side 32768` for that figure, and `--only ours,forward` to leave out what would take hours.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from contest import Times, put_scene, put_unet, take_turns
from forward import Forward, Way, tiles_over
from gpu import Busy
from tiatoolbox_peer import tiatoolbox
from turns import Peer, PeerError

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.inference.allocator import memory_is_kept
from segcore.inference.numerics import resolve_device
from segcore.models.package import ModelPackage
from segcore.results import StageResult
from segcore.store import Workspace

QUICK_S = 45.0
"""No further round begins after this many seconds, with `--quick`."""


class Bench:
    """The contestants on one image; each method returns the seconds that it took."""

    def __init__(self, ws: Workspace, package: ModelPackage, device: str, precision: str) -> None:
        self.ws, self.package, self._asked = ws, package, precision
        self.device = resolve_device(device)
        self.image = ws.image("scene")
        self.side = self.image.shape()[1]
        self._count = 0
        self._busy: list[float] = []
        first = self._predict("crop")  # warms up, settles the precision, and says what `forward` has to do
        self.peak_mib = first.peak_mib
        self.plan = ws.label("scene", str(first.details["name"])).attributes["predict"]
        self.precision = str(self.plan["precision"])
        details = first.items[0].details
        self.num_tiles = round(details["tiles"] * (1 - details["skipped_share"]))
        self._tile_workers = int(first.details["tile_workers"])
        self._forward = Forward(package, self.device, self.precision)

    def _predict(self, blend: Literal["crop", "gaussian"]) -> StageResult:
        self._count += 1
        config = PredictConfig(
            workspace=self.ws.uri, model=self.package.model_id, images=("scene",), name=f"ours{self._count}",
            blend=blend, precision=self._asked, device=self.device.type,
        )  # fmt: skip
        result = predict(config)
        assert result.exit_code == 0, result.items
        return result

    @property
    def busy(self) -> float | None:
        """Share of time in which the GPU computes during `ours`: the best turn."""
        return max(self._busy, default=None)

    def ours(self) -> float:
        with Busy(self.device) as busy:
            seconds = self._predict("crop").seconds
        if busy.share is not None:
            self._busy.append(busy.share)
        return seconds

    def ours_gaussian(self) -> float:
        return self._predict("gaussian").seconds

    def forward(self) -> float:
        tile_px = self.plan["tile_px"][-1] + 2 * self.plan["halo_px"][-1]
        way = Way(tile_px, self._tile_workers, 1, self.plan["batch"])
        return self._forward.seconds(way, self.num_tiles)

    def best_ways(self) -> dict[str, Callable[[], float]]:
        """`forward_best`: the image's pixels in each of the two ways that were the fastest in a survey."""
        found: dict[str, Callable[[], float]] = {}
        for way in self._forward.best_ways(1024**2):
            num_tiles = tiles_over(self.side**2, way)
            share = self.side**2 / (num_tiles * way.tile_px**2)
            found[f"forward_best ({way})"] = partial(self._best, way, num_tiles, share)
        return found

    def _best(self, way: Way, num_tiles: int, share: float) -> float:
        return self._forward.seconds(way, num_tiles) * share


def summary(bench: Bench, times: Times) -> dict[str, Any]:
    """Ratios of medians; those of contestants that took no part are left out."""
    best = [name for name in times.seconds if name.startswith("forward_best")]
    fastest = min(best, key=times.median, default="")
    found: dict[str, Any] = {
        "mpx_per_s": round(bench.side**2 / 1e6 / times.median("ours"), 4),
        "vs_forward": times.ratio("forward", to="ours"),
        "useful_vs_forward": times.ratio(fastest, to="ours"),
        "vs_monai_default": times.ratio("monai_default", to="ours"),
        "vs_monai_50": times.ratio("monai_50", to="ours"),
        "vs_monai_same_precision": times.ratio("monai_same_precision", to="ours"),
        "gaussian_vs_monai_gaussian": times.ratio("monai_same_precision", to="ours_gaussian"),
        "vs_tiatoolbox": times.ratio("tiatoolbox", to="ours"),
        "ours_busy": bench.busy,
    }
    found = {name: value for name, value in found.items() if value is not None}
    if fastest:
        found["forward_best"] = fastest.removeprefix("forward_best ").strip("()")
    return {**found, "peak_mib": bench.peak_mib, **times.as_json()}


OURS = ("ours", "forward", "forward_best", "ours_gaussian")
MONAI = {"monai_default": "default", "monai_50": "half", "monai_same_precision": "same_precision"}
NAMES = (*OURS, *MONAI, "tiatoolbox")


def contestants(bench: Bench, wanted: set[str], folder: Path, peers: ExitStack) -> dict[str, Callable[[], float]]:
    """What takes part, by name; the processes of peers end with `peers`."""
    found: dict[str, Callable[[], float]] = {}
    for name in OURS:
        if name in wanted:
            found |= bench.best_ways() if name == "forward_best" else {name: getattr(bench, name)}
    if wanted & {*MONAI}:
        script = str(Path(__file__).with_name("monai_peer.py"))
        command = [sys.executable, script, bench.ws.uri, bench.package.model_id, bench.device.type, bench.precision]
        monai = peers.enter_context(Peer(command, folder / "monai.log"))
        found |= {name: partial(monai.seconds, asked) for name, asked in MONAI.items() if name in wanted}
    if "tiatoolbox" in wanted:
        try:
            peer = tiatoolbox(folder, bench.image, bench.package, bench.device.type)
            found["tiatoolbox"] = peers.enter_context(peer).seconds
        except PeerError as error:
            sys.stderr.write(f"tiatoolbox is left out: {error}\n")
    return found


def main() -> None:
    """Measure, and print one JSON object, or the same as lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2048 px, 3 rounds; without monai_50 and TIAToolbox")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--side", type=int, help="of the image, px")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", help=f"some of {','.join(NAMES)}; `ours` always takes part")
    options = parser.parse_args()
    left_out = {"monai_50", "tiatoolbox"} if options.quick else set()
    wanted = set(options.only.split(",")) | {"ours"} if options.only else {*NAMES} - left_out
    if unknown := wanted - {*NAMES}:
        parser.error(f"--only: expected some of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    side = options.side or (2048 if options.quick else 4096)
    rounds = options.rounds or (3 if options.quick else 5)
    with ExitStack() as stack:
        stack.enter_context(memory_is_kept())  # from the start, as in a command of its own
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ws = Workspace.open(str(folder / "workspace"), create=True)
        put_scene(ws, side)
        bench = Bench(ws, put_unet(ws), options.device, options.precision)
        seldom = ["monai_default"] if options.quick else []
        until_s = QUICK_S if options.quick and not options.rounds else None
        found = summary(bench, take_turns(contestants(bench, wanted, folder, stack), rounds, seldom, until_s))
    found = {"side_px": side, "device": bench.device.type, "precision": bench.precision, **found}
    lines = [json.dumps(found)] if options.json else [f"{key:28} {value}" for key, value in found.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
