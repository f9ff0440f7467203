"""Compiled: a model as one fused program for each shape of tile; module -> torch.export -> Inductor -> *program*.

It is what `torch.compile` makes, ahead of time and without its guards. Those are not safe with several threads
(pytorch#118260); and after a few shapes it would fall back to the model as it is, whose last bits are others. A
program is a plain function of tiles of one shape. CUDA graphs, of `mode="reduce-overhead"`, fail in worker threads
(pytorch#123177); large tiles keep a GPU busy without them.
"""

import os
import shutil
import sys
import threading
from collections.abc import Callable

import torch
import torch._inductor
from torch import nn
from torch.utils._triton import has_triton

from segcore.errors import SegcoreError
from segcore.geometry import Ints

_ONE_AT_A_TIME = threading.Lock()
"""Inductor's settings are of the process."""


def lacking(device: torch.device) -> str | None:
    """What a machine would have to have for models to be compiled; None if nothing is known to be missing."""
    if device.type == "cuda":
        return None if has_triton() else "Triton (`pip install triton`, on a GPU that it knows)"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and sys.platform != "win32" and shutil.which(compiler.split()[0]) is None:
        return f"a C++ compiler ({compiler}, or what CXX names)"
    return None


class Compiled:
    """A model whose programs are made when a tile of a new shape comes; may be called from several threads.

    The first call takes seconds, and others wait for it. A CPU's program has as many threads as its first caller.

    Args:
        model: in evaluation mode, on its device.
        device: that one.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        # On a CPU constant weights can be packed for its kernels; what is timed must decide no bit.
        self._options = {"freezing": device.type == "cpu", "deterministic": True}
        self._programs: dict[Ints, Callable[[torch.Tensor], torch.Tensor]] = {}

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """What the model answers, within rounding.

        Raises:
            SegcoreError: if the model cannot be compiled.
        """
        layout = (*tiles.shape, *tiles.stride())
        if layout not in self._programs:
            with _ONE_AT_A_TIME:
                if layout not in self._programs:
                    self._programs[layout] = self._program(tiles)
        return self._programs[layout](tiles)

    def _program(self, tiles: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """A program that has run once: kernels for a GPU are only made then."""
        try:
            with torch.inference_mode():
                graph = torch.export.export(self._model, (tiles,)).module()
                program: Callable[[torch.Tensor], torch.Tensor] = torch._inductor.compile(
                    graph, [tiles], options=self._options
                )
                program(tiles)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler may say
            first = str(error).strip().splitlines() or [""]
            raise SegcoreError(
                f"compile: the model cannot be compiled for {tiles.device} ({type(error).__name__}: {first[0]}); "
                "give compile: off"
            ) from error
        return program
