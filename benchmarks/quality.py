"""Scores on real images: ingest, train from scratch, predict and score, each as a user runs it.

    dsb2018   nuclei; 46 images train, 12 are held out (shuffled by seed)
    drive     vessels inside the field of view; 8 train, 2 are held out (29, 30)
    dubai     five land-cover classes; the tiles t2 and t5 train, t8 is held out

The images are those of SEGCORE_DATA (default: ../shared/data). Nothing is tuned to a data set. With `--peer`, MONAI's
tutorial U-Net (monai_unet.py) is trained next on the same images for the same time: `<score>_vs_monai` are the ratios.

    python benchmarks/quality.py drive dsb2018 --minutes 15 --threads 1 --peer --json
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("SEGCORE_DATA", Path(__file__).parents[2] / "shared" / "data")).absolute()

DUBAI_CLASSES = """id,name,color,ignore
0,water,#E2A929,0
1,land,#8429F6,0
2,road,#6EC1E4,0
3,building,#3C1098,0
4,vegetation,#FEDD3A,0
255,unlabelled,#9B9B9B,1
255,never labelled,#000000,1
"""

Row = dict[str, Any]


def drive_rows() -> list[Row]:
    """The field of view is the valid mask, so that nothing outside is trained on or scored."""
    folder = DATA / "drive" / "training"
    return [
        {
            "source": folder / f"images/{i}_training.tif",
            "target": folder / f"1st_manual/{i}_manual1.gif",
            "valid": folder / f"mask/{i}_training_mask.gif",
            "split": "test" if i in (29, 30) else "train",
        }
        for i in range(21, 31)
    ]


def dsb2018_rows() -> list[Row]:
    """One mask file per nucleus."""
    ids = sorted(path.name for path in (DATA / "dsb2018" / "stage1_train").iterdir())
    random.Random(0).shuffle(ids)
    folder = DATA / "dsb2018" / "stage1_train"
    return [
        {
            "source": folder / f"{name}/images/{name}.png",
            "target": folder / f"{name}/masks/*.png",
            "split": "test" if number < 12 else "train",
        }
        for number, name in enumerate(ids)
    ]


def dubai_rows() -> list[Row]:
    """Parts of one tile touch, so the tile is the group."""
    folder = DATA / "dubai_aerial"
    images = sorted((folder / "image").glob("*.jpg"))
    return [
        {
            "source": path,
            "target": folder / f"mask/{path.stem}.png",
            "split": "test" if path.stem.endswith("t8") else "train",
            "group": path.stem[-2:],
        }
        for path in images
    ]


ROWS = {"drive": drive_rows, "dsb2018": dsb2018_rows, "dubai": dubai_rows}


def segcore(*arguments: str) -> dict[str, Any]:
    """One command; its JSON. What it says on the way is shown."""
    call = [sys.executable, "-m", "flows", *arguments, "--json"]
    done = subprocess.run(call, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(name: str, folder: Path, minutes: float, threads: int) -> dict[str, Any]:
    """One data set from files to scores on its held-out images."""
    rows = ROWS[name]()
    manifest, workspace = folder / f"{name}.csv", str(folder / name)
    with manifest.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    classes: tuple[str, ...] = ()
    if name == "dubai":
        (folder / "classes.csv").write_text(DUBAI_CLASSES, encoding="utf-8")
        classes = ("--classes", str(folder / "classes.csv"))
    segcore("ingest", "--manifest", str(manifest), "--workspace", workspace, *classes)
    budget = ("--minutes", str(minutes), "--threads", str(threads))
    trained = segcore("train", "--workspace", workspace, "--name", name, *budget)
    model = trained["details"]["model"]
    segcore("predict", "--workspace", workspace, "--model", model)
    scored = segcore("score", "--workspace", workspace, "--model", model, "--split", "test")
    return {
        "scores": scored["scores"]["overall"],
        "per_class": scored["scores"]["per_class"],
        "train_s": trained["seconds"],
        "workspace": workspace,
        "model": model,
    }


def beside_peer(ours: dict[str, Any], minutes: float, threads: int) -> dict[str, Any]:
    """The peer's scores on the same images, and ours in its units."""
    from benchmarks.monai_unet import train_and_score

    peer = train_and_score(ours["workspace"], minutes, threads)
    shared = ("foreground_iou", "foreground_dice", "miou")
    return {"peer": peer} | {f"{key}_vs_monai": round(ours["scores"][key] / peer["scores"][key], 3) for key in shared}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ROWS), help=f"data sets (default: {' '.join(ROWS)})")
    parser.add_argument("--minutes", type=float, default=15.0, help="training time for each")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the training; 0 = all cores")
    parser.add_argument("--peer", action="store_true", help="train and score MONAI's tutorial U-Net, too")
    parser.add_argument("--folder", type=Path, help="keep the workspaces here (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="DRIVE for half a minute: shows that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    names, minutes = (["drive"], 0.4) if arguments.quick else (arguments.names, arguments.minutes)
    if not DATA.is_dir():
        parser.error(f"no folder of real images at {DATA}; set SEGCORE_DATA")
    with tempfile.TemporaryDirectory(prefix="segcore-quality-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: measure(name, folder, minutes, arguments.threads) for name in names}
        if arguments.peer:
            for result in found.values():
                result |= beside_peer(result, minutes, arguments.threads)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, result in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in result["scores"].items() if value))
        print("".join(f"{name}: {key} {value}\n" for key, value in result.items() if key.endswith("_vs_monai")), end="")


if __name__ == "__main__":
    main()
