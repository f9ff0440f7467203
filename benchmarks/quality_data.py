"""The data sets of quality.py: which files, which are held out, and which score counts.

Images are held out whole, by image or by the scene that they are parts of, never by tile.
"""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel

PARTS = Path(__file__).with_name(".cache") / "quality" / "parts"
DATA = Path(os.environ.get("SEGCORE_DATA", Path(__file__).parents[2] / "shared" / "data")).absolute()

Row = dict[str, Any]
"""Of a manifest; `split` is test for what is held out."""

DUBAI_CLASSES = """id,name,color,ignore
0,water,#E2A929,0
1,land,#8429F6,0
2,road,#6EC1E4,0
3,building,#3C1098,0
4,vegetation,#FEDD3A,0
255,unlabelled,#9B9B9B,1
255,never labelled,#000000,1
"""
MEMBRANE_CLASSES = "id,name\n0,membrane\n1,cell\n"


@dataclass(frozen=True)
class DataSet:
    """One of the folders of SEGCORE_DATA."""

    rows: Callable[[int, int], list[Row]]
    """By fold, and number of folds."""
    score: str
    """`foreground_dice`, `foreground_iou` or `miou` of all held-out pixels, or `<class>:dice`."""
    folds: int = 1
    classes: str = ""
    """A class table, or the name of a built-in one."""
    options: tuple[str, ...] = ()
    """Of `segcore ingest`."""
    training: tuple[str, ...] = ()
    """Of `segcore train`, beside minutes, seed and threads."""
    has_peer: bool = True


def held_out(rows: Sequence[Row], test: set[int]) -> list[Row]:
    """The rows, those of these numbers held out, all others for training."""
    return [{**row, "split": "test" if number in test else "train"} for number, row in enumerate(rows)]


def dealt(rows: Sequence[Row], fold: int, folds: int) -> list[Row]:
    """One fold of the rows after a seeded shuffle, which is the same for all folds."""
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    return held_out(rows, set(order[fold::folds]))


def drive(fold: int, folds: int) -> list[Row]:
    """Vessels of the retina; the field of view is the valid mask, outside which nothing is trained on or scored."""
    folder = DATA / "drive" / "training"
    rows = [
        {
            "source": folder / f"images/{i}_training.tif",
            "target": folder / f"1st_manual/{i}_manual1.gif",
            "valid": folder / f"mask/{i}_training_mask.gif",
        }
        for i in range(21, 31)
    ]
    return dealt(rows, fold, folds)


def dsb2018(fold: int, folds: int) -> list[Row]:
    """Nuclei of several kinds of microscopy; one mask file per nucleus."""
    folder = DATA / "dsb2018" / "stage1_train"
    names = sorted(path.name for path in folder.iterdir())
    rows = [{"source": folder / f"{n}/images/{n}.png", "target": folder / f"{n}/masks/*.png"} for n in names]
    return dealt(rows, fold, folds)


def isbi(fold: int, folds: int) -> list[Row]:
    """Membranes in 20 sections of one stack; the last four are held out."""
    folder = DATA / "isbi2012_em"
    rows = [{"source": folder / f"image/{i}.png", "target": folder / f"label/{i}.png"} for i in range(20)]
    return held_out(rows, {16, 17, 18, 19})


def camvid(fold: int, folds: int) -> list[Row]:
    """Street scenes at 1 Hz; the last five frames of each sequence are held out, and the two before them left out."""
    folder, rows = DATA / "camvid", list[Row]()
    for name in ("0001TP", "0006R0", "0016E5"):
        paths = sorted((folder / "train").glob(f"{name}*.png"))
        for number, path in enumerate(paths):
            left = len(paths) - number
            if left <= 5 or left > 7:
                target = folder / "trainannot" / path.name
                rows.append({"source": path, "target": target, "split": "test" if left <= 5 else "train"})
    return rows


def dubai(fold: int, folds: int) -> list[Row]:
    """Land cover; the parts of one tile touch, so one of the three tiles is held out."""
    folder, tile = DATA / "dubai_aerial", ("t2", "t5", "t8")[fold]
    return [
        {
            "source": path,
            "target": folder / f"mask/{path.stem}.png",
            "split": "test" if path.stem.endswith(tile) else "train",
            "group": path.stem[-2:],
        }
        for path in sorted((folder / "image").glob("*.jpg"))
    ]


def magnetic_tile(fold: int, folds: int) -> list[Row]:
    """Defects of magnets; one of the six images of each kind is held out."""
    paths = sorted((DATA / "magnetic_tile").glob("*/*.jpg"))
    kinds = [path.parent.name for path in paths]
    rows = [{"source": path, "target": path.with_suffix(".png")} for path in paths]
    return held_out(rows, {kinds.index(kind) for kind in set(kinds)})


def parts(image: Path, target: Path, axis: int, planes: Sequence[tuple[str, int, int]]) -> list[Row]:
    """Parts of a volume along an axis, each of a split; written once, each with its own affine."""
    PARTS.mkdir(parents=True, exist_ok=True)
    rows = []
    for split, start, stop in planes:
        row: Row = {"split": split}
        for role, path in (("source", image), ("target", target)):
            row[role] = PARTS / f"{split}-{start}-{path.name}"
            whole = nibabel.Nifti1Image.from_filename(path)
            nibabel.save(
                whole.slicer[tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))], row[role]
            )
        rows.append(row)
    return rows


def spleen(fold: int, folds: int) -> list[Row]:
    """Spleen in a CT, one scan: planes below and above train, six in the middle are held out, with a gap of one."""
    folder = DATA / "nifti" / "msd_spleen_ct"
    names = ("sub-spleen2_ct.nii.gz", "sub-spleen2_ct_seg-manual.nii.gz")
    return parts(folder / names[0], folder / names[1], 2, (("train", 0, 9), ("test", 10, 16), ("train", 17, 26)))


def cord(fold: int, folds: int) -> list[Row]:
    """Spinal cord in an MRI, one scan: along the cord 35 mm train, the last 16 are held out, 4 between are left out."""
    folder = DATA / "nifti" / "sct_t2_cord"
    return parts(folder / "t2.nii.gz", folder / "t2_seg-manual.nii.gz", 1, (("train", 0, 35), ("test", 39, 55)))


VOLUMES = ("--architecture", "unet", "--arguments", "dims=3")
DATA_SETS: dict[str, DataSet] = {
    "drive": DataSet(drive, "foreground_dice", folds=5),
    "dsb2018": DataSet(dsb2018, "foreground_iou", folds=5),
    "isbi": DataSet(isbi, "membrane:dice", classes=MEMBRANE_CLASSES, options=("--threshold", "127")),
    "camvid": DataSet(camvid, "miou", classes="camvid"),
    "dubai": DataSet(dubai, "miou", folds=3, classes=DUBAI_CLASSES),
    "magnetic_tile": DataSet(magnetic_tile, "foreground_iou", options=("--threshold", "127")),
    "spleen": DataSet(spleen, "foreground_dice", training=VOLUMES, has_peer=False),
    "cord": DataSet(cord, "foreground_dice", training=VOLUMES, has_peer=False),
}
