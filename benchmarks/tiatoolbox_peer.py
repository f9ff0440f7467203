"""TIAToolbox as a peer of predict.py: an environment that is made once, and a process in it.

Its pins clash with ours (an older torch, numpy and dask), so it is installed without its dependencies into an
environment of its own under `benchmarks/.cache/tiatoolbox`, which finds torch and whatever else it shares with us in
the environment that the benchmark runs in, and gets the rest at versions that TIAToolbox allows.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import tifffile
from contest import CACHE
from turns import Peer, PeerError, last_line

from segcore.geometry import Window
from segcore.models.package import ModelPackage
from segcore.store import Image

HOME = CACHE / "tiatoolbox"
SERVER = Path(__file__).with_name("tiatoolbox_server.py")
PACKAGES = (
    "tiatoolbox==2.1.3", "torchvision==0.28.0", "timm==1.0.27", "transformers==5.14.0", "tokenizers==0.22.2",
    "huggingface_hub==1.23.0", "pandas==3.0.2", "scikit-learn==1.8.0", "joblib==1.5.2", "threadpoolctl==3.8.0",
    "numba==0.65.1", "llvmlite==0.47.0", "umap-learn==0.5.12", "pynndescent==0.7.0",
    "opencv-python-headless==4.14.0.94", "wsidicom==0.33.1", "glymur==0.14.8", "SimpleITK==2.5.7",
    "universal-pathlib==0.3.10", "pathlib-abc==0.5.2", "defusedxml==0.7.1", "tqdm==4.70.1",
)  # fmt: skip


def environment() -> Path:
    """The Python of TIAToolbox's environment, which is made where it is not there.

    Raises:
        PeerError: if a package cannot be installed.
    """
    python, stamp = HOME / "bin" / "python", HOME / "installed.txt"
    shared = [str(Path(__file__).parents[1]), sysconfig.get_path("purelib")]
    wanted = "\n".join([*PACKAGES, *shared])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    sys.stderr.write(f"installing TIAToolbox, once, into {HOME}\n")
    venv.create(HOME, clear=True, with_pip=True)
    own = next(HOME.glob("lib/python*/site-packages"))
    (own / "shared.pth").write_text("\n".join(shared))
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise PeerError(f"pip: {last_line(done.stderr)}")
    stamp.write_text(wanted)
    return python


def tiatoolbox(folder: Path, image: Image, package: ModelPackage, device: str) -> Peer:
    """TIAToolbox in its environment.

    Args:
        folder: for its input, its output and what it says.
        image: whose pixels it gets as an uncompressed tiled TIFF: it does not read Zarr v3.
        package: whose weights it has.
        device: where it runs.

    Raises:
        PeerError: if it cannot take part.
    """
    python, slide = environment(), folder / "scene.tif"
    pixels = np.moveaxis(image.read(Window.whole(image.shape())), 0, -1)
    centimeter = 10_000  # at 1 um per pixel
    tifffile.imwrite(
        slide, pixels, tile=(256, 256), photometric="rgb", resolution=(centimeter,) * 2, resolutionunit="CENTIMETER"
    )
    command = [str(python), str(SERVER), str(slide), package.folder.removeprefix("file://"), device]
    return Peer(command, folder / "tiatoolbox.log")
