"""Foreign: weights from elsewhere -> *tensors* -> a model that training begins with.

What can be read without risk is: a model package (whose sums are checked) and a .safetensors file (which can hold
nothing but tensors). A .pt or .pth file is a pickle, which by itself can run anything: it is read only where
`unsafe_weights` says so, and then by torch's restricted loader alone (`weights_only=True`), which builds tensors and
plain containers. What a reader refuses is refused: no other one is tried.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.models.fitting import fitted
from segcore.models.package import read_package
from segcore.sources.files import SourceFile
from segcore.store import Workspace

SAFE, PICKLED = (".safetensors",), (".pt", ".pth")
MAX_BYTES = 8 << 30
"""A larger file is refused before it is read into memory."""
NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
"""Where training scripts put a model's weights in a checkpoint."""

Tensors = dict[str, torch.Tensor]


def begin_with(model: nn.Module, workspace: Workspace, config: TrainConfig) -> str | None:
    """Give a model the weights that `config.init` names, in place.

    Returns:
        A line for the user: what was taken, and what begins anew; None if there is no `init`.

    Raises:
        ConfigError: if nothing in it fits, what does is not finite, or it is a pickle that was not allowed.
        SegcoreError: if it cannot be read.
    """
    if config.init is None:
        return None
    tensors = load_foreign(workspace, config.init, config.unsafe_weights)
    return f"begins with {config.init}: {fitted(model, tensors, f'init {config.init}')}"


def digest_of_init(workspace: Workspace, init: str | None) -> str | None:
    """SHA-256 of the weights to begin with: a package's digest, or that of the file; None without any."""
    if init is None:
        return None
    if _suffix(init) in SAFE + PICKLED:
        return hashlib.sha256(_read(init)).hexdigest()
    return read_package(workspace, init).digest


def load_foreign(workspace: Workspace, init: str, unsafe: bool = False) -> Tensors:
    """The tensors of a model package or a file, by name, on the CPU.

    Args:
        workspace: in which `init` may be a model id.
        init: model id, path or URI of a package, or of a .safetensors, .pt or .pth file.
        unsafe: whether .pt and .pth files are read at all.

    Raises:
        ConfigError: if it is a pickle and `unsafe` is not set, or holds no tensors.
        SegcoreError: if it cannot be read.
    """
    suffix = _suffix(init)
    if suffix in SAFE:
        return _safetensors(init)
    if suffix not in PICKLED:
        return dict(read_package(workspace, init).load_weights().state_dict())
    if not unsafe:
        raise ConfigError(
            f"init {init}: a {suffix} file is a pickle, which can be made to run code; give .safetensors, or set "
            "unsafe_weights, which lets torch's restricted loader read it: it builds nothing but tensors"
        )
    return _pickled(init)


def _suffix(init: str) -> str:
    return PurePosixPath(init.partition("?")[0]).suffix.lower()


def _read(init: str) -> bytes:
    file = SourceFile(init)
    if file.is_folder or file.num_bytes > MAX_BYTES:
        got = "a folder" if file.is_folder else f"{file.num_bytes} bytes"
        raise ConfigError(f"init {init}: expected a file of at most {MAX_BYTES >> 30} GiB, got {got}")
    return file.whole()


def _safetensors(init: str) -> Tensors:
    try:
        return safetensors.torch.load(_read(init))
    except SafetensorError as error:
        raise ConfigError(f"init {init}: cannot be read as safetensors ({_one_line(error)})") from error


def _pickled(init: str) -> Tensors:
    data = _read(init)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"init {init}: torch's restricted loader refuses it ({_one_line(error)}); save the model's state_dict() "
            "alone, best as .safetensors"
        ) from error
    found = _state(content)
    if not found:
        keys = list(content)[:6] if isinstance(content, Mapping) else [type(content).__name__]
        got = ", ".join(map(str, keys)) or "nothing"
        raise ConfigError(
            f"init {init}: expected tensors by name, also below {', '.join(NESTED)}, got {got}; "
            "save the model's state_dict() alone"
        )
    return found


def _state(content: Any) -> Tensors:
    """The tensors of a state_dict, or of the one inside a checkpoint; {} where there are none."""
    if not isinstance(content, Mapping):
        return {}
    for key in NESTED:
        if isinstance(content.get(key), Mapping):
            return _state(content[key])
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, torch.Tensor)}


def _one_line(error: BaseException) -> str:
    """The first line is the reason; torch adds advice on how to switch its checks off."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
