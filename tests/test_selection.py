"""What `--model` stands for, against the package's own id."""

from pathlib import Path

import numpy as np
import pytest

from segcore.classes import default_classes
from segcore.errors import ConfigError
from segcore.models import ModelConfig, build_model
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.selection import mask_name, select
from segcore.store import Label, Objects, PyramidSpec, Staging, Workspace
from tests.synthetic import put_image, put_label


def _package(objects: Objects, prefix: str) -> ModelPackage:
    config = ModelConfig(architecture="unet", arguments={"in_channels": 1, "num_classes": 2, "channels": [4, 8]})
    contract = InputContract(bands=("grey",), dtype="uint8", spacing=None, mean=(1.0,), std=(1.0,), stride=2)
    info = PackageInfo(name="cells", architecture=config, contract=contract, classes=default_classes(2))
    return write_package(objects, prefix, info, build_model(config).state_dict())


def test_mask_name_of_a_package_is_its_id(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    package = _package(ws.objects, "models")
    folder = tmp_path / "models" / package.model_id
    for model in (str(folder), f"{folder}/", f"file://{folder}", package.model_id):
        assert mask_name(ws, model) == package.model_id


def test_mask_name_of_a_bare_folder_is_the_package_unless_a_mask_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "i", np.ones((1, 20, 20), np.uint8))
    package = _package(Objects(str(tmp_path / "ws")), "elsewhere")
    Path(package.folder).rename(tmp_path / "best")
    monkeypatch.chdir(tmp_path)
    assert mask_name(ws, "best") == package.model_id
    put_label(ws, "i", "best", np.ones((20, 20), np.uint8))
    assert mask_name(ws, "best") == "best"


def test_mask_name_of_a_package_at_a_uri(tmp_path: Path) -> None:
    package = _package(Objects("memory://shelf/of"), "")
    ws = Workspace.open(str(tmp_path), create=True)
    assert mask_name(ws, f"memory://shelf/of/{package.model_id}/") == package.model_id


@pytest.mark.parametrize("model", ["", "../x", "/nowhere", "nosuchscheme://x/y", "s3://x", "file:///no/x", "target"])
def test_mask_name_refuses_what_is_neither(tmp_path: Path, model: str) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    with pytest.raises(ConfigError, match=r"^--model .*: expected ") as caught:
        mask_name(ws, model)
    assert "\n" not in str(caught.value)


def test_select_names_a_mask_that_is_not_finished(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    for image_id in ("done", "half", "none"):
        put_image(ws, image_id, np.ones((1, 20, 20), np.uint8))
    put_label(ws, "done", "m", np.ones((20, 20), np.uint8))
    spec = PyramidSpec(axes=("y", "x"), shape=(20, 20), dtype="uint8", kind="mask", fill=255)
    Staging.begin(ws, "half", "m", {"v": 0}, spec).close()
    done, half = select(ws, "m")
    assert (done.image_id, done.error) == ("done", None)
    assert (half.image_id, half.mask) == ("half", None)
    assert half.error is not None
    assert "not complete" in half.error


def test_select_counts_an_image_once(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "i", np.ones((1, 20, 20), np.uint8))
    put_label(ws, "i", "m", np.ones((20, 20), np.uint8))
    assert [found.image_id for found in select(ws, "m", images=("i", "i"))] == ["i"]


@pytest.mark.parametrize(
    ("changed", "stale"), [({}, False), ({"digest": "d0"}, True), ({"plan": 7}, True), ({"valid": 7}, True)]
)
def test_select_names_a_mask_of_an_earlier_image(tmp_path: Path, changed: dict[str, object], stale: bool) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = np.ones((20, 20), np.uint8)
    put_image(ws, "i", pixels[None], has_valid=True)
    put_label(ws, "i", "valid", pixels)
    now = {"digest": None, "plan": ws.image("i").attributes["plan"], "valid": ws.image("i").valid_plan}
    put_label(ws, "i", "m", pixels, attributes={"predict": {"source": now | {"spacing": None} | changed}})
    (found,) = select(ws, "m")
    earlier = "image i: mask m: the mask was made from an earlier version of this image; predict again"
    assert found.error == (earlier if stale else None)
    assert (found.mask is None) == stale


def test_select_goes_on_after_an_error_that_nobody_foresaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    for image_id in "ab":
        put_image(ws, image_id, np.ones((1, 20, 20), np.uint8))
        put_label(ws, image_id, "m", np.ones((20, 20), np.uint8))
    read = Workspace.label

    def label(self: Workspace, image_id: str, name: str) -> Label:
        if image_id == "a":
            raise RuntimeError("out of\nluck")
        return read(self, image_id, name)

    monkeypatch.setattr(Workspace, "label", label)
    assert [item.error for item in select(ws, "m")] == ["image a: RuntimeError: out of luck", None]
