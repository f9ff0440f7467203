"""Drift: what the stage is asked for."""

from typing import Literal

from segcore.config.base import StageConfig


class DriftConfig(StageConfig):
    """Images and a model package -> how unusual each image is to the model, and in what."""

    model: str
    """Model id in the workspace, or the path of a model package."""
    images: tuple[str, ...] = ()
    """Image ids; none = every image in the workspace."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; `auto` takes CUDA, else MPS, else the CPU."""
