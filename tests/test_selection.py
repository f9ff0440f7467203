"""What `--model` stands for, against the package's own id."""

from pathlib import Path

import numpy as np
import pytest

from segcore.classes import default_classes
from segcore.errors import ConfigError
from segcore.models import ModelConfig, build_model
from segcore.models.package import InputContract, PackageInfo, write_package
from segcore.selection import mask_name, select
from segcore.store import PyramidSpec, Staging, Workspace
from tests.synthetic import put_image, put_label


def test_mask_name_of_a_package_is_its_id(tmp_path: Path) -> None:
    config = ModelConfig(architecture="unet", arguments={"in_channels": 1, "num_classes": 2, "channels": [4, 8]})
    contract = InputContract(bands=("grey",), dtype="uint8", spacing=None, mean=(1.0,), std=(1.0,), stride=2)
    info = PackageInfo(name="cells", architecture=config, contract=contract, classes=default_classes(2))
    ws = Workspace.open(str(tmp_path), create=True)
    package = write_package(ws.objects, "models", info, build_model(config).state_dict())
    folder = tmp_path / "models" / package.model_id
    assert mask_name(str(folder)) == package.model_id
    assert mask_name(f"{folder}/") == package.model_id
    assert mask_name(package.model_id) == package.model_id


@pytest.mark.parametrize("model", ["", "../x", "/nowhere", "nosuchscheme://x/y"])
def test_mask_name_refuses_what_is_neither(model: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mask_name(model)
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
