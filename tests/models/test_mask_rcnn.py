"""Mask R-CNN: torchvision's, weight by weight and answer by answer; listed and named where the extra is missing.

What compares with torchvision runs where the extra is installed.
"""

import importlib
import json
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from flows.cli import app
from segcore.classes import default_classes
from segcore.errors import ConfigError
from segcore.instances.rule import Rule
from segcore.models import ARCHITECTURES, ModelConfig, build_model, checked_arguments, weightless
from segcore.models import listing as listing_module
from segcore.models.fitting import fitted
from segcore.models.mask_rcnn import AT_ONCE
from segcore.models.package import InputContract, PackageInfo, read_package, write_package
from segcore.store import Objects
from tests.zoo import OWN, aligned, load_torchvision

SMALL: dict[str, Any] = {
    "encoder": "resnet18",
    "features": 16,
    "hidden": 32,
    "anchors": (16, 32, 64, 128, 256),
    "proposals": 40,
    "sampled": 16,
    "max_objects": 20,
    "min_score": 0.3,
}


@pytest.fixture(scope="module")
def torchvision() -> Any:
    load_torchvision()
    return importlib.import_module("torchvision")


def config(**arguments: Any) -> ModelConfig:
    given = {"in_channels": 2, "num_classes": 5, **arguments}
    return ModelConfig(architecture="mask_rcnn", arguments=checked_arguments("mask_rcnn", given))


def built(**arguments: Any) -> Any:
    torch.manual_seed(0)
    return build_model(config(**{**SMALL, **arguments}))


def noise(count: int, side: int = 128) -> torch.Tensor:
    return torch.randn(count, 2, side, side, generator=torch.Generator().manual_seed(4))


class Backbone(nn.Module):
    """Encoder and pyramid as torchvision's detector takes them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels = model.body, model.fpn, SMALL["features"]

    def forward(self, tiles: torch.Tensor) -> Any:
        return self.fpn(OrderedDict(zip("0123", self.body(tiles)[1:], strict=True)))


def theirs_of(torchvision: Any, model: Any) -> Any:
    """Torchvision's detector around the same parts, which leaves tiles of 128 px as they are."""
    size = {"min_size": 128, "max_size": 128, "image_mean": [0.0, 0.0], "image_std": [1.0, 1.0]}
    found = torchvision.models.detection.MaskRCNN(Backbone(model), 3, **size)
    found.rpn, found.roi_heads = model.rpn, model.roi_heads
    found.train(model.training).transform.eval()  # in training it draws the size of an image
    return found


def test_its_answers_are_torchvisions(torchvision: Any) -> None:
    model = built().eval()
    tiles = noise(2)
    with torch.inference_mode():
        found, theirs = model.found(tiles), theirs_of(torchvision, model)(list(tiles))
        logits = model(tiles)
    assert sum(len(each.boxes) for each in found) > 5
    for own, other in zip(found, theirs, strict=True):
        torch.testing.assert_close(own.boxes, other["boxes"])
        assert torch.equal(own.rows, other["labels"])  # the background is class 0 here
        assert (other["scores"].diff() <= 0).all()
    assert logits.shape == (2, 5, 128, 128)
    assert torch.isfinite(logits).all()


def test_masks_of_many_objects_are_made_few_at_a_time(torchvision: Any) -> None:
    model = built().eval()
    regions = torch.randn(2 * AT_ONCE + 3, 16, 14, 14, generator=torch.Generator().manual_seed(1))
    layers = (model.roi_heads.mask_head, model.roi_heads.mask_predictor)
    seen: list[int] = []
    layers[1].conv5_mask.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    with torch.inference_mode():
        in_parts = layers[1](layers[0](regions))
        each = torch.cat([layers[1](layers[0](region)) for region in regions.split(1)])
    assert seen[:3] == [AT_ONCE, AT_ONCE, 3]
    torch.testing.assert_close(in_parts, each)


def test_its_loss_is_the_sum_of_torchvisions(torchvision: Any) -> None:
    model = built().train()
    masks = torch.zeros(2, 128, 128, dtype=torch.uint8)
    masks[0, 10:40, 20:60] = masks[1, 70:100, 30:50] = 1
    unknown = {"unknown": torch.zeros(128, 128, dtype=torch.bool)}
    target = {"boxes": torch.tensor([[20.0, 10, 60, 40], [30, 70, 50, 100]]), "masks": masks, **unknown}
    kinds = torch.tensor([1, 2])
    none = {"boxes": torch.zeros(0, 4), "masks": masks[:0], **unknown}
    theirs = theirs_of(torchvision, model)
    torch.manual_seed(3)
    own = model.loss(noise(2), [{**target, "rows": kinds}, {**none, "rows": kinds[:0]}])
    torch.manual_seed(3)
    losses = theirs(list(noise(2)), [{**target, "labels": kinds}, {**none, "labels": kinds[:0]}])
    assert len(losses) == 5
    torch.testing.assert_close(own, sum(losses.values()))
    own.backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None] == []


def test_what_nobody_knows_teaches_no_background(torchvision: Any) -> None:
    """Of regions with their middle in an ignored part those of objects teach, and no others."""
    model = built().train()
    masks = torch.zeros(1, 128, 128, dtype=torch.uint8)
    masks[0, 50:80, 40:80] = 1
    unknown = torch.zeros(128, 128, dtype=torch.bool)
    unknown[:, 64:] = True
    target = {"boxes": torch.tensor([[40.0, 50, 80, 80]]), "masks": masks, "rows": torch.tensor([1])}
    anchors = torch.rand(500, 4, generator=torch.Generator().manual_seed(1)) * 60
    anchors[:, 2:] += anchors[:, :2] + 5
    anchors[0] = torch.tensor([60.0, 50, 90, 80])  # of the object, by little: neither
    anchors[1] = torch.tensor([45.0, 50, 84, 80])  # of the object, and its middle is ignored
    (all_known,), _ = model.rpn.assign_targets_to_anchors([anchors], [{**target, "unknown": ~unknown & unknown}])
    (labels,), _ = model.rpn.assign_targets_to_anchors([anchors], [{**target, "unknown": unknown}])
    is_right = (anchors[:, 0] + anchors[:, 2]) / 2 >= 64
    expected = torch.where((all_known == 0) & is_right, -1, all_known)
    assert torch.equal(labels, expected)
    assert labels[1] == 1
    assert ((all_known == 0) & is_right).sum() > 50
    seen: list[Any] = []
    model.roi_heads.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[1]))
    model.loss(noise(1), [{**target, "unknown": unknown}])
    assert len(seen[0]) > 0
    assert (seen[0][:, [0, 2]].mean(dim=1) < 64).all()


def test_classes_keep_their_numbers_whichever_is_the_background(torchvision: Any) -> None:
    first, last = built().eval(), built(background=2).eval()
    with torch.inference_mode():
        one, other = first(noise(1)), last(noise(1))
    assert one[:, 1:3].amax() > -1
    torch.testing.assert_close(other, one[:, [1, 2, 0, 3, 4]])
    with pytest.raises(ConfigError, match=r"^architecture mask_rcnn: background 3: expected a number below 3$"):
        weightless(config(background=3))


def test_weights_that_torchvision_publishes_fit_by_name(torchvision: Any) -> None:
    with torch.device("meta"):
        published = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    theirs = {name.removeprefix("backbone."): value.shape for name, value in published.state_dict().items()}
    own = weightless(config(in_channels=3, num_classes=91 + 2))
    assert {name: value.shape for name, value in own.state_dict().items()} == theirs
    # In what it publishes the norms are frozen, and no weights.
    norms = sum(value.numel() for name, value in own.named_parameters() if ".bn" in name or "downsample.1" in name)
    assert sum(value.numel() for value in own.parameters()) - norms == 44_401_393
    two = weightless(config(in_channels=3, num_classes=4))
    assert sum(value.numel() for value in two.parameters()) == ARCHITECTURES["mask_rcnn"].told.parameters  # type: ignore[union-attr]


def test_names_of_older_files_are_found(torchvision: Any) -> None:
    model = built()
    older = {}
    for name, value in model.state_dict().items():
        name = name.replace("_blocks.0.0.", "_blocks.0.").replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for k in range(4):
            name = name.replace(f"mask_head.{k}.0.", f"mask_head.mask_fcn{k + 1}.")
        older[f"backbone.{name}" if name.startswith(("body", "fpn")) else name] = value + 1
    assert not older.keys() & {
        "rpn.head.conv.0.0.weight",
        "roi_heads.mask_head.0.0.weight",
        "fpn.inner_blocks.0.0.bias",
    }
    assert fitted(model, older).anew == {}
    torch.testing.assert_close(model.rpn.head.conv[0][0].weight, older["rpn.head.conv.weight"])


def test_a_package_has_the_same_answers(torchvision: Any, tmp_path: Path) -> None:
    model = built().eval()
    contract = InputContract(
        bands=("a", "b"), dtype="uint8", spacing=None, mean=(0.0,) * 2, std=(1.0,) * 2, stride=64, halo_px=64
    )
    classes = default_classes(3)
    info = PackageInfo(
        name="m", architecture=config(**SMALL), contract=contract, classes=classes, instances=Rule(depth_px=1)
    )
    package = write_package(Objects(str(tmp_path)), "models", info, model.state_dict())
    again = read_package(None, package.folder).load_weights()
    with torch.inference_mode():
        assert torch.equal(again(noise(1)), model(noise(1)))
        low = again.to("cpu", torch.bfloat16)
        assert {weight.dtype for weight in low.parameters()} == {torch.float32}  # boxes have px that bfloat16 has not
        assert torch.equal(low(noise(1).bfloat16()), model(noise(1).bfloat16().float()))


def called(*args: str) -> Any:
    return CliRunner().invoke(app, ["models", *args], standalone_mode=True)


def test_it_is_listed_where_the_extra_is_missing_and_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models.detection", None)
    line = "needs the extra `zoo` (torchvision is missing): pip install 'segcore[zoo]'"
    text = called("--measure", "mask_rcnn").output
    assert f"mask_rcnn: Mask R-CNN\n  {ARCHITECTURES['mask_rcnn'].use}\n  {line}\n" in text
    assert f"  {line}\n" in called().output
    (row,) = json.loads(called("mask_rcnn", "--json").output)["models"]
    assert (row["missing"], row["stride"], row["tiling_is_exact"]) == (line, 64, False)
    with pytest.raises(ConfigError, match=r"^architecture mask_rcnn: needs the extra `zoo` \(.* is missing\): pip"):
        weightless(config())


def test_regions_are_aligned_as_torchvision_does(torchvision: Any) -> None:
    """The stand-in for its compiled part, where that is missing."""
    if not OWN:
        pytest.skip("torchvision's own operators load here")
    features = torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    regions = torch.tensor([[0, 4.0, 8, 40, 52], [1, 10.5, 3.25, 30, 20], [1, 60, 40, 79, 63]])
    for half in (False, True):
        expected = OWN[0](features, regions, 0.25, 7, 5, 2, half)
        torch.testing.assert_close(aligned(features, regions, 0.25, 7, 5, 2, half), expected, rtol=1e-4, atol=1e-5)
