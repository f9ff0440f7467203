"""Time and memory of the export of many polygons: a million objects of a mask of 20,000 px, ragged, some with a hole.

Every case runs in a process of its own that has loaded what it needs: `growth_mib` is the highest memory (summed PSS)
over what it held then. `objects` are those of a label of objects, `regions` the connected pixels of each class of the
mask; one case simplifies its outlines by a pixel.

    seconds        of the larger mask, by case: to write the file
    cpu_s          of all threads: the same, where nothing else runs
    growth_mib     the largest of all cases
    growth_flat    growth of the larger mask over that of the smaller, of one case: the worst
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from scipy import ndimage

from segcore.classes import ClassInfo
from segcore.config import ExportConfig
from segcore.export import export
from segcore.geometry import Window
from segcore.measure import MIB, tree_bytes
from segcore.spatial import Georef
from segcore.store import PyramidSpec, Staging, Workspace, instances_name

CELL_PX, NUM_SHAPES = 20, 64
MASK = "cells"
CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=1, name="one", color=(230, 159, 0)),
    ClassInfo(id=2, name="other", color=(86, 180, 233)),
)
WARM_PX = 640
EPSG = 32633


@dataclass(frozen=True)
class Case:
    """One file."""

    name: str
    side_px: int
    format: str
    of: str
    """Objects or regions."""
    simplify: str | None = None


def cases(side: int) -> list[Case]:
    return [
        *(Case(f"{kind}, objects", side, kind, "objects") for kind in ("geojson", "geopackage", "geoparquet")),
        Case("geoparquet, regions", side, "geoparquet", "regions"),
        Case("geoparquet, objects, simplified", side, "geoparquet", "objects", "1px"),
    ]


def shapes() -> npt.NDArray[np.bool_]:
    """(NUM_SHAPES, CELL_PX, CELL_PX): ragged blobs, one in four with a hole; none reaches the rim of its cell."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:CELL_PX, :CELL_PX] - (CELL_PX - 1) / 2
    found = np.zeros((NUM_SHAPES, CELL_PX, CELL_PX), np.bool_)
    for index in range(NUM_SHAPES):
        ragged = 2 * ndimage.gaussian_filter(rng.normal(size=y.shape), 1.5) / 0.2
        ring = np.hypot(y, x) < (6.5 + ragged).clip(4, 9)
        ring &= (np.hypot(y, x) > 2) | (index % 4 > 0)
        labels, _ = ndimage.label(ring)
        found[index] = labels == np.bincount(labels[labels > 0]).argmax()
    return found


def painted(window: Window, num_cells: int, blobs: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Class ids and object ids (Y, X) of a window."""
    first = [a // CELL_PX for a in window.start]
    last = [-(-b // CELL_PX) for b in window.stop]
    rows, columns = np.mgrid[first[0] : last[0], first[1] : last[1]]
    inside = blobs[(rows * 7919 + columns * 104729) % NUM_SHAPES]
    inside &= ((rows < num_cells) & (columns < num_cells))[..., None, None]
    ids = (rows * num_cells + columns + 1)[..., None, None] * inside
    classes = (1 + (rows + columns) % 2)[..., None, None] * inside
    cut = window.relative_to(tuple(a * CELL_PX for a in first)).slices
    pixels = [np.swapaxes(part, 1, 2).reshape(rows.shape[0] * CELL_PX, -1)[cut] for part in (classes, ids)]
    return pixels[0].astype(np.uint8), pixels[1].astype(np.uint32)


def put_mask(ws: Workspace, side: int) -> None:
    """An image without pixels, a mask and its objects; shard by shard."""
    image_id, blobs, num_cells = f"side{side}", shapes(), side // CELL_PX
    transform = (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0)
    georef = Georef(crs_wkt=CRS.from_epsg(EPSG).to_wkt(), epsg=EPSG, transform=transform).model_dump(mode="json")
    own = {"georef": georef, "source": "seeded"}
    specs = {
        "image": PyramidSpec(axes=("c", "y", "x"), shape=(1, side, side), dtype="uint8", kind="image"),
        MASK: PyramidSpec(axes=("y", "x"), shape=(side, side), dtype="uint8", kind="mask"),
        instances_name(MASK): PyramidSpec(axes=("y", "x"), shape=(side, side), dtype="uint32", kind="instances"),
    }
    more = {MASK: {"digest": "m"}, instances_name(MASK): {"digest": "i", "mask": MASK, "objects": num_cells**2}}
    for name, spec in specs.items():
        with Staging.begin(ws, image_id, name, {"side": side}, spec) as staging:
            for unit in staging.windows():
                writer = staging.writer(unit)
                for shard in staging.pending(unit):
                    window = staging.shard_window(shard)
                    if name == "image":
                        writer.put(shard, np.zeros(window.shape, np.uint8))
                    else:
                        writer.put(shard, painted(window, num_cells, blobs)[name != MASK])
            if name == "image":
                staging.finish(own, channels=("band",))
            else:
                staging.finish({**own, **more[name]}, classes=CLASSES if name == MASK else ())


# In a process of its own


def measured(uri: str, case: Case) -> dict[str, float]:
    """Time and memory of one file; what libraries take when they are used first is taken off."""
    with tempfile.TemporaryDirectory(dir=Path(uri).parent) as folder:

        def exported(side: int) -> Any:
            config = ExportConfig.model_validate(
                {
                    "workspace": uri,
                    "model": MASK if case.of == "regions" else instances_name(MASK),
                    "images": (f"side{side}",),
                    "output": folder,
                    "format": case.format,
                    "simplify": case.simplify,
                    "coordinates": "pixels" if case.format == "geojson" else "auto",
                }
            )
            result = export(config)
            assert result.exit_code == 0, result.items
            return result

        exported(WARM_PX)
        before, began = tree_bytes(), time.process_time()
        result = exported(case.side_px)
        cpu_s = time.process_time() - began
        (path,) = result.paths
        return {
            "objects": result.items[0].details["objects"],
            "seconds": result.seconds,
            "cpu_s": round(cpu_s, 1),
            "growth_mib": round(result.peak_mib - before / MIB, 1),
            "file_mib": round(Path(path).stat().st_size / MIB, 1),
        }


# In the process that prints


def in_child(uri: str, case: Case) -> dict[str, float]:
    """What is measured in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps({"uri": uri, "case": asdict(case)})]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def run(folder: Path, sides: tuple[int, int], only: str) -> dict[str, Any]:
    """Two masks, and the cases of each whose name has a word in it."""
    uri = str(folder / "workspace")
    ws = Workspace.open(uri, create=True)
    for side in (WARM_PX, *sides):
        put_mask(ws, side)
    pairs = []
    for each in zip(*map(cases, sides), strict=True):
        if only in each[0].name:
            pairs.append(tuple(asdict(case) | in_child(uri, case) for case in each))
            sys.stderr.write(f"{pairs[-1][1]}\n")  # a full run takes a while
    return {
        "objects": pairs[0][1]["objects"],
        **{key: {large["name"]: large[key] for _, large in pairs} for key in ("seconds", "cpu_s")},
        "growth_mib": max(large["growth_mib"] for _, large in pairs),
        "growth_flat": max(round(large["growth_mib"] / small["growth_mib"], 2) for small, large in pairs),
        "rows": [row for pair in pairs for row in pair],
    }


def main() -> None:
    """Measure, and print one JSON object, or the same as lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2500 and 4000 px, 40,000 objects")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asked = json.loads(options.child)
        print(json.dumps(measured(asked["uri"], Case(**asked["case"]))))
        return
    with tempfile.TemporaryDirectory(prefix="segcore-export-") as folder:
        found = run(Path(folder), (2500, 4000) if options.quick else (5000, 20_000), options.only)
    if options.json:
        print(json.dumps(found))
        return
    for row in found.pop("rows"):
        print("  ".join(f"{key} {value}" for key, value in row.items() if value is not None))
    print("\n".join(f"{key:20} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
