"""Prepared: a package's model made ready for one device and precision; package -> *modules* -> numerics."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segcore.inference.compiled import Compiled
from segcore.inference.dropout import sub_network
from segcore.models.image_norm import adapted, has_image_norm
from segcore.models.layout import laid_out
from segcore.models.package import ModelPackage

Answering = Callable[[torch.Tensor], torch.Tensor]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Fold each batch norm that directly follows a convolution of the same `nn.Sequential` into it, in place.

    Only a Sequential says by itself that nothing else sees what lies between the two. The answers stay the
    same within rounding; the model must be in evaluation mode.
    """
    for parent in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for i in range(len(parent) - 1):
            conv, norm = parent[i], parent[i + 1]
            if isinstance(conv, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                parent[i] = fuse_conv_bn_eval(conv, norm)
                parent[i + 1] = nn.Identity()
    return model


def prepared(package: ModelPackage, device: torch.device, precision: str) -> nn.Module:
    """The package's model, folded, channels last, in `precision` on `device`."""
    model = fold_batch_norm(package.load_weights("cpu").eval()).requires_grad_(False)
    return laid_out(model.to(device, DTYPES[precision]))


class Member:
    """One model on the device, or samples of it, with its own normalisation.

    A model with image norms is to be `adapted` to each image; as it is it takes the statistics of each tile.

    Args:
        package: the model.
        device: where it runs.
        precision: "float32", "bfloat16" or "float16".
        samples: number of sub-networks that take the model's place; 0 = itself.
        can_compile: whether compiled code may be asked for.
    """

    def __init__(
        self, package: ModelPackage, device: torch.device, precision: str, samples: int, can_compile: bool
    ) -> None:
        contract = package.contract
        self.stride = contract.stride
        self._device, self._dtype, self._samples, self._can_compile = device, DTYPES[precision], samples, can_compile
        model = prepared(package, device, precision)
        self.adapts = has_image_norm(model)
        self._as_trained: nn.Module | None = None
        if self.adapts:
            self._as_trained = laid_out(package.load_weights("cpu").requires_grad_(False).to(device))
        self._make_ready(model)
        bands = (1, len(contract.bands), *(1,) * len(contract.axes))
        self._mean = torch.tensor(contract.mean, dtype=torch.float32, device=device).reshape(bands)
        self._std = torch.tensor(contract.std, dtype=torch.float32, device=device).reshape(bands)

    def _make_ready(self, model: nn.Module) -> None:
        """Have it answer."""
        modules = [sub_network(model, sample) for sample in range(self._samples)] or [model]
        self._eager: list[Answering] = [*modules]
        self._compiled: list[Answering] = [Compiled(each, self._device) for each in modules if self._can_compile]

    def adapted(self, tiles: torch.Tensor, missing: torch.Tensor | None) -> "Member":
        """The same for one image, by a sample of it (K, C, ...), float32; itself if it has no image norms.

        The statistics are taken in float32, so that they are the same in every precision.
        """
        if self._as_trained is None:
            return self
        own = copy.copy(self)
        model = fold_batch_norm(adapted(self._as_trained, self._normal(tiles, missing)))
        own._make_ready(model.to(self._dtype))
        return own

    @property
    def num_bytes(self) -> int:
        """Of its weights."""
        weights = () if self._as_trained is None else self._as_trained.parameters()
        return sum(weight.numel() for weight in weights) * self._dtype.itemsize * max(1, self._samples)

    def sampled(self, compiled: bool) -> list[Answering]:
        """The model, or its samples: normalised tiles -> logits."""
        return self._compiled if compiled else self._eager

    def normalised(self, tiles: torch.Tensor, missing: torch.Tensor | None) -> torch.Tensor:
        """(pixel - mean) / std of float32 tiles; what is missing is taken for average."""
        return self._normal(tiles, missing).to(self._dtype)

    def _normal(self, tiles: torch.Tensor, missing: torch.Tensor | None) -> torch.Tensor:
        normal = tiles.sub(self._mean).div_(self._std)
        return normal if missing is None else normal.masked_fill_(missing, 0.0)
