"""Masks of volumes and sequences: plane by plane, and on another grid."""

from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Opening
from segcore.targets import TargetOpening, load_classes, masks
from segcore.targets.target import open_target, open_valid
from tests.targets.volumes import Memory, affine, source_info, whole

SHAPE = (4, 30, 40)
IMAGE = source_info((2, *SHAPE))
WINDOWS = (Window.whole(SHAPE), Window((1, 3, 7), (2, 20, 9)), Window((3, 29, 39), (1, 1, 1)))


def stack(path: Path, pixels: Any, axes: str = "ZYX") -> str:
    photometric = "rgb" if axes.endswith("S") else "minisblack"
    tifffile.imwrite(path, pixels, ome=True, photometric=photometric, metadata={"axes": axes})
    return str(path)


@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_ids_of_a_stack(tmp_path: Path, rng: np.random.Generator, axes: str) -> None:
    ids = rng.integers(0, 4, SHAPE, dtype=np.uint8)
    order = ("t", "c", "y", "x") if axes == "TYX" else ("c", "z", "y", "x")
    image = source_info((SHAPE[0], 2, *SHAPE[1:]), order) if axes == "TYX" else IMAGE
    with closing(open_target([stack(tmp_path / "m.ome.tif", ids, axes)], image, TargetOpening())) as target:
        assert target.kind == "index"
        for window in WINDOWS:
            np.testing.assert_array_equal(target.read(window), ids[window.slices])


def test_objects_of_a_volume_and_what_of_it_is_usable(tmp_path: Path, rng: np.random.Generator) -> None:
    one, two = rng.integers(0, 2, (2, *SHAPE), dtype=np.uint8)
    paths = [stack(tmp_path / f"{i}.ome.tif", found * 255) for i, found in enumerate((one, two))]
    with closing(open_target(paths, IMAGE, TargetOpening())) as target:
        expected = np.where(one, 1, np.where(two, 2, 0))
        np.testing.assert_array_equal(target.read_instances(Window.whole(SHAPE)), expected)
        assert target.notes == (f"objects overlap on {(one & two).sum()} px; the earlier file keeps them",)
    plane = tmp_path / "plane.tif"
    tifffile.imwrite(plane, one[0])
    with open_valid(paths[1], IMAGE) as volume, open_valid(str(plane), IMAGE) as flat:
        for window in WINDOWS:
            np.testing.assert_array_equal(volume.read(window), two[window.slices] > 0)
            expected_plane = np.broadcast_to(one[0], SHAPE)[window.slices] > 0
            np.testing.assert_array_equal(flat.read(window), expected_plane)


@pytest.mark.parametrize(("shape", "axes"), [((30, 40), "YX"), ((3, 30, 40), "ZYX")])
def test_other_planes_than_the_image_are_refused(tmp_path: Path, shape: tuple[int, ...], axes: str) -> None:
    path = stack(tmp_path / "m.ome.tif", np.zeros(shape, np.uint8), axes)
    with pytest.raises(SourceError, match=r"m\.ome\.tif: the mask has .* px, its source z 4 x y 30 x x 40"):
        open_target([path], IMAGE, TargetOpening())


@pytest.mark.parametrize("with_palette", [False, True])
def test_a_sequence_may_have_a_mask_per_frame(tmp_path: Path, rng: np.random.Generator, with_palette: bool) -> None:
    ids = rng.integers(0, 3, (11, 30, 40), dtype=np.uint8)
    paths = []
    for number, frame in enumerate(ids):
        picture = Picture.fromarray(frame)
        if with_palette:
            picture = Picture.fromarray(frame, "L").convert("P")
            picture.putdata(frame.ravel().tolist())
            picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
        picture.save(tmp_path / f"m{number}.png")  # m10 comes after m9
        paths.append(str(tmp_path / f"m{number}.png"))
    image = source_info((11, 1, 30, 40), ("t", "c", "y", "x"))
    table = (tmp_path / "classes.csv").write_text("name,color\na,#00C800\nb,#C80000\nc,#090909\n") and load_classes(
        str(tmp_path / "classes.csv")
    )
    target = open_target(sorted(paths), image, TargetOpening(table=table if with_palette else None), instances=True)
    assert not target.has_instances
    np.testing.assert_array_equal(whole(target, ids.shape), 2 - ids if with_palette else ids)
    with pytest.raises(SourceError, match=r"10 masks of one frame each for the 11 frames of image\.nii"):
        open_target(paths[:10], image, TargetOpening())
    if with_palette:
        picture.putpalette([9, 9, 9, 0, 200, 0, 200, 0, 0])
        picture.save(paths[-1])
        with pytest.raises(SourceError, match=r"m10\.png: its palette is not that of .*m0\.png"):
            open_target(paths, image, TargetOpening(table=table))


def test_an_object_of_a_volume_is_no_plane(tmp_path: Path) -> None:
    paths = [stack(tmp_path / f"{i}.ome.tif", np.ones(SHAPE[1:], np.uint8), "YX") for i in range(2)]
    with pytest.raises(SourceError, match=r"0\.ome\.tif: the mask has y 30 x x 40 px, its source z 4 x y 30 x x 40"):
        open_target(paths, IMAGE, TargetOpening())


def put_in_memory(monkeypatch: pytest.MonkeyPatch, source: Memory) -> None:
    """Masks are this source, whatever their name."""

    def opened(uri: str, opening: Opening) -> Memory:
        return source

    monkeypatch.setattr(masks, "open_source", opened)


def test_labels_of_another_grid_are_ignored_outside_and_counted(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = source_info((1, *SHAPE), affine=affine(np.diag([1, 1, 2, 1])))
    ids = rng.integers(0, 3, (1, 3, 30, 40), dtype=np.uint8)
    place = np.diag([1.0, 1, 2, 1])
    place[:3, 3] = (5, 0, 4)  # five columns to the right, two planes up
    put_in_memory(monkeypatch, Memory(ids, uri="moved.nii", affine=affine(place)))
    (tmp_path / "moved.nii").write_bytes(b"-")
    target = open_target([str(tmp_path / "moved.nii")], image, TargetOpening())
    expected = np.full(SHAPE, 255)
    expected[2:, :, 5:] = ids[0, :2, :, :35]
    num_lost = int((ids > 0).sum() - (ids[0, :2, :, :35] > 0).sum())
    assert target.notes == (
        "moved.nii: labels of another grid, brought to the image's by nearest",
        f"moved.nii: {num_lost} labelled px lie outside the image",
    )
    np.testing.assert_array_equal(whole(target, SHAPE), expected)


@pytest.mark.parametrize("name", ["msd_spleen_ct", "sct_t2_cord", "totalseg_pseudolabel"])
def test_real_volumes(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files = sorted((data_dir / "nifti" / name).glob("*.nii.gz"))
    scan, labels = (nibabel.load(next(f for f in files if ("seg" in f.name) is is_seg)) for is_seg in (False, True))
    ids = np.asarray(labels.dataobj).T.astype(np.uint8)
    image = source_info((1, *scan.shape[::-1]), affine=affine(scan.affine))
    put_in_memory(monkeypatch, Memory(ids[None], uri="labels.nii", affine=affine(labels.affine)))
    (tmp_path / "labels.nii").write_bytes(b"-")
    with closing(open_target([str(tmp_path / "labels.nii")], image, TargetOpening())) as target:
        assert target.notes == ()
        np.testing.assert_array_equal(target.read(Window.whole(ids.shape)), ids)
        assert target.classes[-1].id == max(1, ids.max())
