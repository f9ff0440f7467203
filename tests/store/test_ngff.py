"""OME-NGFF 0.4: the same pixels as 0.5, in Zarr v2, under the same promises."""

import contextlib
import json
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models
import pytest
import yaozarrs
import zarr

from segcore.classes import default_classes
from segcore.errors import PlanMismatchError, StoreError
from segcore.geometry import Ints, Window
from segcore.spatial import Georef, Spacing
from segcore.store import Ngff, Objects, PyramidSpec, Staging, Workspace, verify
from segcore.store.arrays import open_with_zarr
from segcore.store.places import array_prefix
from segcore.store.plan import latest_plan
from tests.synthetic import write

RNG = np.random.default_rng(0)
SPEC = PyramidSpec(axes=("c", "y", "x"), shape=(3, 1700, 2600), dtype="uint8", kind="image", shard_px=512, ngff="0.4")
SPACING = Spacing(values={"y": 0.5, "x": 0.25}, unit="micrometer", origin="file").model_dump()
PIXELS = RNG.integers(0, 256, SPEC.shape, np.uint8)
PIXELS[:, :512, :1024] = 0  # shards of nothing but fill
PIXELS[0, :, 2048:] = 0  # chunks of it
CHUNK = re.compile(r"images/.*\.zarr/(?:labels/[^/]+/)?\d+(?:/\d+)+$")


def make(workspace: Workspace, pixels: np.ndarray, spec: PyramidSpec = SPEC, name: str = "image", **how: Any) -> None:
    channels = tuple(f"band {i}" for i in range(spec.shape[spec.axes.index("c")])) if spec.kind == "image" else ()
    with Staging.begin(workspace, "a", name, {"source": "abc"}, spec, **how) as staging:
        write(staging, pixels)
        staging.finish({"source": "a.tif", "spacing": SPACING}, default_classes(2), channels)


def label(workspace: Workspace, name: str, ngff: Ngff, **how: Any) -> None:
    spec = PyramidSpec(axes=("y", "x"), shape=SPEC.shape[1:], dtype="uint8", kind="mask", shard_px=512, ngff=ngff)
    make(workspace, (PIXELS[1] > 99).astype(np.uint8), spec, name, **how)


def levels(workspace: Workspace, name: str = "image") -> list[np.ndarray]:
    found = workspace.image("a") if name == "image" else workspace.label("a", name)
    return [found.read(Window.whole(found.shape(level)), level) for level in range(found.num_levels)]


def validate(path: str, kind: str, ngff: str) -> None:
    """Ask the outside validators."""
    yaozarrs.validate_zarr_store(path)
    found: Any = ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r"))
    assert (type(found).__name__, found.ome_zarr_version) == (kind, ngff)


def memory() -> Workspace:
    return Workspace.open(f"memory://{uuid.uuid4()}", create=True)


@pytest.mark.parametrize(
    ("shape", "dtype", "more"),
    [
        ((3, 1100, 700), "uint8", {}),
        ((5, 600, 700), "int16", {"nodata": -9, "fill": -9}),
        ((1, 600, 700), "float32", {"nodata": float("nan"), "fill": float("nan")}),
        ((2, 3, 600, 700), "uint16", {"axes": ("c", "z", "y", "x")}),
        ((1100, 700), "uint8", {"kind": "mask", "fill": 255}),
        ((600, 700), "uint32", {"kind": "instances"}),
    ],
)
@pytest.mark.parametrize("shard_px", [256, 768, 1024])
def test_every_level_is_that_of_the_other_version(
    tmp_path: Path, shape: Ints, dtype: str, more: dict[str, Any], shard_px: int
) -> None:
    pixels = RNG.integers(0, 100, shape).astype(dtype)
    pixels[..., 300:600, 100:400] = more.get("fill", 0)
    values = {"axes": ("c", "y", "x")[-len(shape) :], "shape": shape, "dtype": dtype, "kind": "image"}
    spec = PyramidSpec.model_validate({**values, "shard_px": shard_px, **more})
    name = "image" if spec.kind == "image" else "m"
    made = []
    for ngff in ("0.4", "0.5"):
        workspace = Workspace.open(str(tmp_path / ngff), create=True)
        if name != "image":  # a label names the image above it
            grey = {"axes": ("c", "y", "x"), "shape": (1, *shape), "dtype": "uint8", "kind": "image", "ngff": ngff}
            make(workspace, np.zeros((1, *shape), np.uint8), PyramidSpec.model_validate(grey))
        make(workspace, pixels, spec.model_copy(update={"ngff": ngff}), name)
        validate(f"{workspace.uri}/{array_prefix('a', name)}", "Image" if name == "image" else "ImageLabel", ngff)
        made.append(levels(workspace, name))
        assert verify(workspace) == []
    np.testing.assert_array_equal(made[0][0], pixels)
    assert len(made[0]) == len(made[1]) > 1
    for old, new in zip(*made, strict=True):
        np.testing.assert_array_equal(old, new)
        assert old.dtype == new.dtype


def test_an_interrupted_run_goes_on_and_writes_nothing_twice(workspace: Workspace) -> None:
    written = []
    for stop_after in (3, 0, 7, 5, None):
        staging = Staging.begin(workspace, "a", "image", {"source": "abc"}, SPEC)
        written += write(staging, PIXELS, stop_after)
        assert workspace.image_ids() == []
        if stop_after is None:
            staging.finish({"spacing": SPACING}, channels=("r", "g", "b"))
        staging.close()
    assert sorted(written) == sorted(SPEC.grid(0).indices())
    whole = memory()
    make(whole, PIXELS)
    for mine, undisturbed in zip(levels(workspace), levels(whole), strict=True):
        np.testing.assert_array_equal(mine, undisturbed)
    assert workspace.image_ids() == ["a"]
    assert verify(workspace) == []


class InjectedError(StoreError):
    """What a store that is away raises."""


def test_failing_writes_end_in_the_same_pixels(local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    objects: Objects = local_workspace.objects
    put, count = objects.put, [0]

    def fail_now_and_then(key: str, data: bytes) -> None:
        if CHUNK.match(key):
            count[0] += 1
            if count[0] % 5 == 0:  # in the middle of a shard's objects
                raise InjectedError
        put(key, data)

    monkeypatch.setattr(objects, "put", fail_now_and_then)
    for _ in range(100):
        with contextlib.suppress(InjectedError):
            make(local_workspace, PIXELS)
            break
    assert count[0] > 80
    np.testing.assert_array_equal(levels(local_workspace)[0], PIXELS)
    np.testing.assert_array_equal(levels(local_workspace)[1], SPEC.reduced(PIXELS))
    assert verify(local_workspace) == []


def test_what_is_all_fill_has_no_object_and_the_mark_comes_last(
    local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, keys = local_workspace.objects, []
    put = objects.put
    monkeypatch.setattr(objects, "put", lambda key, data: (keys.append(key), put(key, data)))
    make(local_workspace, PIXELS)
    assert keys[-1] == "images/a.ome.zarr/.zattrs"
    record = latest_plan(objects, "a", "image")
    assert record is not None
    folder = Path(local_workspace.uri) / "images/a.ome.zarr"
    for shard, wanted in (((0, 0, 0), []), ((0, 1, 4), ["1/1/4", "2/1/4"]), ((0, 1, 1), ["0/1/1", "1/1/1", "2/1/1"])):
        found = record.record(0, shard)
        assert found is not None
        assert sorted(found.objects) == wanted
        there = [f"{c}/{shard[1]}/{shard[2]}" for c in range(3) if (folder / f"0/{c}/{shard[1]}/{shard[2]}").exists()]
        assert there == wanted


def test_verify_names_every_object_and_a_rerun_mends_only_its_shard(local_workspace: Workspace) -> None:
    with Staging.begin(local_workspace, "a", "image", {"source": "abc"}, SPEC) as staging:
        write(staging, PIXELS)
    folder = Path(local_workspace.uri) / "images/a.ome.zarr"
    (folder / "0/1/2/3").write_bytes(b"cut")
    with Staging.begin(local_workspace, "a", "image", {"source": "abc"}, SPEC) as staging:
        assert write(staging, PIXELS) == [(0, 2, 3)]
        staging.finish({"spacing": SPACING}, channels=("r", "g", "b"))
    assert verify(local_workspace) == []
    (folder / "0/2/1/1").unlink()
    data = bytearray((folder / "1/0/1/1").read_bytes())
    data[9] ^= 1
    (folder / "1/0/1/1").write_bytes(data)
    (folder / "0/0/0").mkdir(parents=True, exist_ok=True)
    (folder / "0/0/0/0").write_bytes(b"ghost")
    (folder / "2/.zarray").write_text("{}")
    found = {(problem.key.removeprefix("images/a.ome.zarr/"), problem.what[:5]) for problem in verify(local_workspace)}
    assert found == {("0/2/1/1", "missi"), ("1/0/1/1", "damag"), ("0/0/0/0", "there"), ("2/.zarray", "damag")}


def test_a_window_is_the_same_through_zarr_and_tensorstore(local_workspace: Workspace) -> None:
    make(local_workspace, PIXELS)
    window = Window((0, 201, 333), (3, 700, 1001))
    reader = open_with_zarr(local_workspace.objects, "images/a.ome.zarr/0", "0.4")
    np.testing.assert_array_equal(local_workspace.image("a").read(window), PIXELS[window.slices])
    np.testing.assert_array_equal(reader.read(window), PIXELS[window.slices])


def test_outside_validators_and_zarr_accept_image_and_labels(local_workspace: Workspace) -> None:
    make(local_workspace, PIXELS)
    label(local_workspace, "m-1", "0.4")
    root = str(Path(local_workspace.uri) / "images/a.ome.zarr")
    validate(root, "Image", "0.4")
    validate(f"{root}/labels/m-1", "ImageLabel", "0.4")
    group = zarr.open_group(root, mode="r", zarr_format=2)
    image: Any = ome_zarr_models.open_ome_zarr(group)
    datasets = image.attributes.multiscales[0].datasets
    assert datasets[2].coordinateTransformations[0].scale == [1.0, 2.0, 1.0]
    assert datasets[2].coordinateTransformations[1].translation == [0.0, 0.75, 0.375]
    assert dict(group["labels"].attrs) == {"labels": ["m-1"]}
    for level, pixels in enumerate(levels(local_workspace)):
        array: Any = group[str(level)]
        np.testing.assert_array_equal(array[:], pixels)
        assert (array.chunks, array.order) == ((1, 512, 512), "C")
    document = json.loads((Path(root) / "0/.zarray").read_text())
    assert document["compressor"] == {"id": "zlib", "level": 1}
    assert document["dimension_separator"] == "/"
    assert not list(Path(root).rglob("zarr.json"))


def test_spacing_georef_and_classes_come_back(workspace: Workspace) -> None:
    georef = Georef(crs_wkt='PROJCS["x"]', epsg=26914, transform=(5.0, 0.0, 1e5, 0.0, -5.0, 4e6))
    with Staging.begin(workspace, "a", "image", {}, SPEC) as staging:
        write(staging, PIXELS)
        staging.finish({"spacing": SPACING, "georef": georef.model_dump()}, channels=("r", "g", "b"))
    label(workspace, "m-1", "0.4")
    image = workspace.image("a")
    assert (image.ngff, image.georef, image.channels) == ("0.4", georef, ("r", "g", "b"))
    assert image.spacing == Spacing.model_validate(SPACING)
    assert workspace.label_names("a") == ["m-1"]
    assert workspace.label("a", "m-1").classes == default_classes(2)


def test_the_version_changes_by_overwriting_and_leaves_nothing_of_the_other(local_workspace: Workspace) -> None:
    root = Path(local_workspace.uri) / "images/a.ome.zarr"
    five = SPEC.model_copy(update={"ngff": "0.5"})
    marks: dict[Ngff, set[str]] = {"0.4": {".zgroup", ".zattrs", ".zarray"}, "0.5": {"zarr.json"}}
    make(local_workspace, PIXELS, five)
    label(local_workspace, "m-1", "0.5")
    with pytest.raises(PlanMismatchError, match=r'storage\.ngff: null -> "0\.4"'):
        make(local_workspace, PIXELS)
    for spec in (SPEC, five):
        make(local_workspace, PIXELS, spec, overwrite=True)
        assert local_workspace.label_names("a") == ["m-1"]
        label_list = zarr.open_group(str(root / "labels"), mode="r").attrs.asdict()
        assert label_list.get("ome", label_list).get("labels") == []  # the mask is still of the other version
        assert verify(local_workspace) == []
        label(local_workspace, "m-1", spec.ngff, overwrite=True)
        label_list = zarr.open_group(str(root / "labels"), mode="r").attrs.asdict()
        assert label_list.get("ome", label_list)["labels"] == ["m-1"]
        np.testing.assert_array_equal(levels(local_workspace)[0], PIXELS)
        assert verify(local_workspace) == []
        found = {path.name for path in root.rglob("*") if path.is_file() and not path.name.isdigit()}
        assert found == marks[spec.ngff]


def test_plans_and_records_from_before_there_was_a_choice_still_count(local_workspace: Workspace) -> None:
    spec = SPEC.model_copy(update={"ngff": "0.5"})
    assert "ngff" not in spec.frozen
    make(local_workspace, PIXELS, spec)
    folder = Path(local_workspace.uri) / "state/a/image/0/shards"
    for path in folder.rglob("*"):
        if path.is_file():
            record = json.loads(path.read_text())
            del record["seal"]
            size, digest = next(iter(record.pop("objects").values()), (None, None))
            path.write_text(json.dumps(record | {"size": size, "digest": digest}))
    assert verify(local_workspace) == []
    local_workspace.objects.delete("images/a.ome.zarr/zarr.json")
    with Staging.begin(local_workspace, "a", "image", {"source": "abc"}, spec) as staging:
        assert staging.windows() == []


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("nodata", [float("nan"), float("inf"), float("-inf")])
def test_a_fill_value_that_is_not_finite_is_json(local_workspace: Workspace, ngff: Ngff, nodata: float) -> None:
    pixels = RNG.random((1, 700, 900), np.float32)
    pixels[:, :512] = nodata
    spec = SPEC.model_copy(update={"shape": pixels.shape, "dtype": "float32", "ngff": ngff})
    make(local_workspace, pixels, spec.model_copy(update={"fill": nodata, "nodata": nodata}))
    np.testing.assert_array_equal(levels(local_workspace)[0], pixels)
    path = f"{local_workspace.uri}/images/a.ome.zarr"
    validate(path, "Image", ngff)
    np.testing.assert_array_equal(zarr.open_array(f"{path}/0", mode="r")[...], pixels)
