"""Portable: a model package -> *files that run without segcore*: an ONNX graph, a torch.export program, a STAC item.

The normalisation is inside, so that whoever runs the file gives it the image's own pixel values as float32:

    pixels (N, C, [T|Z,] Y, X) --> (pixel - mean) / std --> model --> logits (N, K, [T|Z,] Y, X), before softmax

N and the sides are free; sides are multiples of the stride, two of them at least. T alone is fixed, at the frames of a
tile with its context: what remembers frame by frame is written out for each of them. What the pixels have to be (bands,
type, spacing, whether each image is stretched first) and how large tile and halo are stands in the file's metadata.
"""

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from segcore.errors import ConfigError, SegcoreError
from segcore.models.info import InputContract
from segcore.models.mlm import ITEM_SUFFIX, Artifact, mlm_item
from segcore.models.package import WEIGHTS, ModelPackage
from segcore.store import Objects

TOLERANCE = 1e-4
"""Relative difference of logits that is rounding: kernels of two libraries sum in another order."""

Floats = npt.NDArray[np.float32]


class Written(NamedTuple):
    """A file in memory, and how it answers."""

    data: bytes
    answer: Callable[[Floats], Floats]
    """Pixels -> logits, by the file itself."""


def export_model(package: ModelPackage, outputs: Sequence[str]) -> list[str]:
    """Write the package as other programs read it; a file is written once its logits were held against segcore's.

    Args:
        package: the model.
        outputs: paths or URIs; the suffix says what each becomes: `.onnx`, `.pt2` (torch.export), `.json` (a STAC item
            of the MLM extension, which lists the other files of the same call).

    Returns:
        Where they are.

    Raises:
        ConfigError: if a suffix is none of these, or the extra `onnx` is missing.
        SegcoreError: if the model cannot be exported, or a file answers otherwise than segcore.
    """
    for output in outputs:
        if _suffix(output) not in (*FORMATS, ITEM_SUFFIX):
            known = ", ".join((*FORMATS, ITEM_SUFFIX))
            raise ConfigError(f"output {output}: expected a file name that ends in one of {known}")
    artifacts = [Artifact(f"{package.folder.rstrip('/')}/{WEIGHTS}", package.weights)]
    for output in outputs:
        if _suffix(output) in FORMATS:
            written = FORMATS[_suffix(output)](package, output)
            _check(package, written, output)
            artifacts.append(Artifact(_put(output, written.data), written.data))
    paths = [artifact.path for artifact in artifacts[1:]]
    for output in outputs:
        if _suffix(output) == ITEM_SUFFIX:
            item = mlm_item(package, artifacts, _place(output)[0].uri, datetime.now(UTC))
            paths.append(_put(output, (json.dumps(item, indent=2) + "\n").encode()))
    return paths


class Portable(nn.Module):
    """A package's model that takes the image's own pixel values."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, package: ModelPackage) -> None:
        super().__init__()
        contract = package.contract
        bands = (1, len(contract.bands), *(1,) * len(contract.axes))
        self.register_buffer("mean", torch.tensor(contract.mean, dtype=torch.float32).reshape(bands))
        self.register_buffer("std", torch.tensor(contract.std, dtype=torch.float32).reshape(bands))
        self._has_missing = np.issubdtype(np.dtype(contract.dtype), np.floating)
        self.model = package.load_weights()
        self.eval().requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of pixels; in float images what is NaN or Inf is taken for average, band by band."""
        normal = (pixels - self.mean) / self.std
        if self._has_missing:
            normal = torch.where(torch.isfinite(pixels), normal, 0.0)
        logits: torch.Tensor = self.model(normal)
        return logits


def metadata(package: ModelPackage) -> dict[str, str]:
    """What a file of the model says of its input and output; lists and mappings as JSON."""
    contract = package.contract.model_dump(mode="json", exclude={"mean", "std"})
    told = {
        "model_id": package.model_id,
        "digest": package.digest,
        "input": "pixel values as float32; the normalisation is inside",
        "output": "logits, before softmax",
        **contract,
        **({} if package.contract.frames is None else {"frames": package.contract.frames}),
        **_told_of_objects(package),
        "classes": [info.model_dump(mode="json") for info in package.classes],
        "code_version": package.info.code_version,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}


def _told_of_objects(package: ModelPackage) -> dict[str, Any]:
    """Which channels follow those of the classes, and the rule by which objects are made of them."""
    rule, num_classes = package.info.instances, len(package.classes)
    if rule is None:
        return {}
    return {
        "output": f"logits: {num_classes} of the classes, before softmax; then border and depth, before a sigmoid each",
        "instances": {"border_channel": num_classes, "depth_channel": num_classes + 1, **rule.model_dump()},
    }


def program_of(package: ModelPackage) -> ExportedProgram:
    """The model as a graph whose batch and sides are free, but for the frames of a sequence.

    Raises:
        SegcoreError: if torch.export cannot trace it.
    """
    contract = package.contract
    free: dict[int, object] = {0: Dim("batch")}
    for number, (axis, step) in enumerate(zip(contract.axes, contract.strides, strict=True), start=2):
        cells = Dim(f"{axis}_cells", min=2)
        if axis != "t":
            free[number] = step * cells if step > 1 else cells
    example = torch.zeros(2, len(contract.bands), *_sides(contract, [3 + n for n in range(len(contract.axes))]))
    try:
        with _quietly():
            return torch.export.export(Portable(package), (example,), dynamic_shapes={"pixels": free})
    except Exception as error:  # torch's exporter has no common error
        raise SegcoreError(f"model {package.model_id}: torch.export cannot trace it ({_one_line(error)})") from error


def _sides(contract: InputContract, cells: Sequence[int]) -> list[int]:
    """Of a tile of so many strides, axis by axis; the frames of a sequence are fixed."""
    return [
        contract.frames or 1 if axis == "t" else step * count
        for axis, step, count in zip(contract.axes, contract.strides, cells, strict=True)
    ]


def to_program(package: ModelPackage, output: str) -> Written:
    """A torch.export program: `torch.export.load(FILE).module()(pixels)`."""
    buffer = io.BytesIO()
    torch.export.save(program_of(package), buffer, extra_files={"segcore.json": json.dumps(metadata(package))})
    buffer.seek(0)
    module = torch.export.load(buffer).module()
    return Written(buffer.getvalue(), lambda pixels: np.asarray(module(torch.from_numpy(pixels))))


def to_onnx(package: ModelPackage, output: str) -> Written:
    """An ONNX graph of one input `pixels` and one output `logits`, weights included.

    Raises:
        ConfigError: if the extra is missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ConfigError(f"{output}: ONNX needs the extra `onnx`: pip install 'segcore[onnx]'") from error
    program = program_of(package)
    with _quietly():
        exported = torch.onnx.export(program, input_names=["pixels"], output_names=["logits"], verbose=False)
    assert exported is not None, "torch.onnx.export without a file gives the program"
    model = exported.model_proto
    names = ("batch", None, *(None if axis == "t" else axis for axis in package.contract.axes))
    for value in (*model.graph.input, *model.graph.output):
        for side, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if name is not None:
                side.dim_param = name  # in place of torch's own, `4*s58`
    for key, text in metadata(package).items():
        model.metadata_props.add(key=key, value=text)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return Written(data, lambda pixels: np.asarray(session.run(["logits"], {"pixels": pixels})[0]))


FORMATS: dict[str, Callable[[ModelPackage, str], Written]] = {".onnx": to_onnx, ".pt2": to_program}


def _check(package: ModelPackage, written: Written, output: str) -> None:
    """Hold the file's logits of noise against the model's own, at a size that it was not traced with.

    Raises:
        SegcoreError: if they differ by more than rounding.
    """
    contract, random = package.contract, np.random.default_rng(0)
    sides = _sides(contract, [5 - n for n in range(len(contract.axes))])
    bands = (1, -1, *(1,) * len(sides))
    mean, std = (np.reshape(values, bands) for values in (contract.mean, contract.std))
    pixels = (mean + std * random.normal(size=(1, len(contract.bands), *sides))).astype(np.float32)
    with torch.inference_mode():
        expected = Portable(package)(torch.from_numpy(pixels)).numpy()
    got = written.answer(pixels)
    off = float(np.abs(got - expected).max()) if got.shape == expected.shape else float("inf")
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not off <= allowed:
        raise SegcoreError(
            f"{output}: expected logits within {allowed:.2g} of segcore's, they are {off:.2g} off; nothing was written"
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporters tell developers: their own use of deprecated functions, and no torchvision."""
    log = logging.getLogger("torch.onnx._internal.exporter")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _suffix(output: str) -> str:
    return PurePosixPath(output).suffix.lower()


def _place(output: str) -> tuple[Objects, str]:
    folder, name = os.path.split(output)
    return Objects(folder or "."), name


def _put(output: str, data: bytes) -> str:
    objects, name = _place(output)
    objects.create()
    objects.put(name, data)
    return objects.describe(name)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
