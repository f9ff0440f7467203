"""Skipping: a slide three quarters of whose tiles are background, against the same pixels with nothing said about them.

Both images have the same pixels: clumps of the seeded scene on an even background. One of them says what is background,
the other does not; ours with the one takes turns with ours with the other. `same_on_tissue` is the share of pixels in
the clumps whose class is the same in both masks: it has to be 1.

    --marked nodata        the background is the image's nodata value
    --marked valid         a label `valid` says which pixels are usable
    --marked foreground    a label `foreground` at a coarse level, as ingest makes it
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from contest import Pixels, clocked, put_scene, put_unet, take_turns

from segcore.classes import default_classes
from segcore.config import PredictConfig
from segcore.geometry import Ints, Window
from segcore.inference import predict
from segcore.ingest.foreground import CLASSES, coarse_level
from segcore.store import PyramidSpec, Staging, Workspace

CLUMP_PX = 1024
BACKGROUND = 255
Marked = Literal["nodata", "valid", "foreground"]


def clumps(side: int) -> Pixels:
    """A quarter of the cells of 1024 px, chosen by a seed: (Y, X) bool, True = tissue."""
    cells = side // CLUMP_PX
    chosen = np.random.default_rng(0).permutation(cells**2) < cells**2 // 4
    return chosen.reshape(cells, cells)


def put_slides(ws: Workspace, side: int, marked: Marked) -> None:
    """Images `marked` and `plain`, of the same pixels."""
    is_tissue = clumps(side)

    def paint(pixels: Pixels, start: Ints) -> None:
        cells = np.ix_(*(np.arange(a, a + n) // CLUMP_PX for a, n in zip(start, pixels.shape[1:], strict=True)))
        pixels[:, ~is_tissue[cells]] = BACKGROUND

    put_scene(ws, side, "plain", paint)
    if marked == "nodata":
        put_scene(ws, side, "marked", paint, nodata=BACKGROUND)
        return
    put_scene(ws, side, "marked", paint, attributes={"has_valid": True} if marked == "valid" else None)
    image = PyramidSpec(axes=("c", "y", "x"), shape=(3, side, side), dtype="uint8", kind="image")
    level = coarse_level(image) if marked == "foreground" else 0
    shape = image.levels[level][1:]
    spec = PyramidSpec(
        axes=("y", "x"), shape=shape, dtype="uint8", kind="mask", base_level=level, num_levels=len(image.levels)
    )
    cells = np.ix_(*(np.arange(n) * 2**level // CLUMP_PX for n in shape))
    with Staging.begin(ws, "marked", marked, {"side": side}, spec) as staging:
        staging.put_all(is_tissue[cells].astype(np.uint8))
        staging.finish({"source": "seeded"}, classes=CLASSES if marked == "foreground" else default_classes(2))


class Slides:
    """Ours on either image; the last masks can be compared."""

    def __init__(self, ws: Workspace, side: int) -> None:
        self.ws, self.side = ws, side
        self.model = put_unet(ws).model_id
        self.skipped: dict[str, float] = {}
        self._count = 0

    def turn(self, image_id: str) -> float:
        self._count += 1
        config = PredictConfig(workspace=self.ws.uri, model=self.model, images=(image_id,), name=f"mask{self._count}")

        def act() -> None:
            result = predict(config)
            assert result.exit_code == 0, result.items
            self.skipped[image_id] = result.items[0].details["skipped_share"]

        return clocked(act)

    def same_on_tissue(self) -> float:
        """Of the last two masks."""
        names = {name: f"mask{self._count - i}" for i, name in enumerate(("plain", "marked"))}
        same = [
            np.mean(np.equal(*(self.ws.label(image_id, name).read(window) for image_id, name in names.items())))
            for window in (
                Window((int(y) * CLUMP_PX, int(x) * CLUMP_PX), (CLUMP_PX, CLUMP_PX))
                for y, x in np.argwhere(clumps(self.side))
            )
        ]
        return float(np.mean(same))


def main() -> None:
    """Measure, and print one JSON object, or the same as lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4096 px and 2 rounds instead of 8192 px and 5")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--marked", default="nodata", choices=("nodata", "valid", "foreground"))
    options = parser.parse_args()
    side, rounds = (4096, 2) if options.quick else (8192, 5)
    with tempfile.TemporaryDirectory() as folder:
        ws = Workspace.open(str(Path(folder, "workspace")), create=True)
        put_slides(ws, side, options.marked)
        slides = Slides(ws, side)
        slides.turn("marked")  # warms up
        times = take_turns({name: partial(slides.turn, name) for name in ("marked", "plain")}, rounds)
        found: dict[str, Any] = {
            "side_px": side,
            "marked": options.marked,
            "skipped_share": slides.skipped["marked"],
            "vs_no_skipping": times.ratio("plain", to="marked"),
            "same_on_tissue": slides.same_on_tissue(),
            **times.as_json(),
        }
    lines = [json.dumps(found)] if options.json else [f"{key:28} {value}" for key, value in found.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    if not slides.skipped["marked"]:
        sys.exit("predict skipped nothing: it does not look at this mark")


if __name__ == "__main__":
    main()
