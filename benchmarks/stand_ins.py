"""Mask R-CNN where torchvision's compiled part does not fit torch: by the stand-ins of the tests, which are slower.

The package registry's torchvision is such a one beside a CPU torch; it is installed into a folder of its own, kept.
"""

import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

ZOO = Path(__file__).with_name(".cache") / "zoo"
SMALL_MASK_RCNN = (
    *("--task", "instances", "--arguments", "encoder=resnet18", "--arguments", "features=64"),
    *("--arguments", "hidden=256", "--arguments", "proposals=300", "--arguments", "sampled=64"),
)
"""Of which a CPU makes some steps in a few minutes."""
WITH_STAND_INS = """
from tests.zoo import load_torchvision
load_torchvision()
from flows.cli import app
app(prog_name="segcore")
"""


def torchvision_command() -> dict[str, Any]:
    """What a call of `quality.segcore` needs beside its arguments."""
    known = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    path = os.pathsep.join([*_folders(), *known])
    return {"start": ("-c", WITH_STAND_INS), "environ": {**os.environ, "PYTHONPATH": path}}


def load_torchvision() -> None:
    """In this process."""
    sys.path.extend(_folders())
    from tests.zoo import load_torchvision as load

    load()


@cache
def _folders() -> list[str]:
    """The tests, and torchvision, which is installed where it is missing."""
    path = [str(Path(__file__).parents[1])]
    if importlib.util.find_spec("torchvision") is None:
        if not (ZOO / "torchvision").is_dir():
            major, minor = (int(part) for part in torch.__version__.split(".")[:2])
            fits = f"torchvision==0.{minor + 15}.*" if major == 2 else "torchvision"
            call = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(ZOO), fits]
            subprocess.run(call, check=True, stdout=sys.stderr)
        path.append(str(ZOO))
    return path
