"""Borrowed: what it takes to build networks of other libraries as ours are: loaded late, and on any device."""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def library(name: str) -> Any:
    """A module of a library, imported now. Its own constants are real tensors, also while a model is built on meta.

    Raises:
        ImportError: if it is not installed; libraries have other errors of their own.
    """
    with torch.device("cpu"):
        return importlib.import_module(name)


def on_any_device(build: Callable[[], M]) -> M:
    """What `build` returns, also on meta where it reads values of its tensors, which meta has not.

    Such a network is built for real and moved. The global generator stays as it is.
    """
    if torch.get_default_device().type != "meta":
        return build()
    with torch.random.fork_rng(devices=[]):
        try:
            return build()
        except (RuntimeError, NotImplementedError):  # what is wrong beside that, fails again
            with torch.device("cpu"):
                return build().to("meta")


def stores_all(model: nn.Module) -> bool:
    """Whether the state dict has every tensor of the model: not so where constants are buffers that nobody stores."""
    return {name for name, _ in model.named_buffers()} <= model.state_dict().keys()
