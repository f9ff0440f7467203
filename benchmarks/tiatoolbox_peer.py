"""TIAToolbox as a peer of predict.py: an environment that is made once, and a process in it that takes turns.

Its pins clash with ours (an older torch, numpy and dask), so it is installed without its dependencies into an
environment of its own under `benchmarks/.cache/tiatoolbox`, which finds torch and whatever else it shares with us in
the environment that the benchmark runs in, and gets the rest at versions that TIAToolbox allows.
"""

import json
import subprocess
import sys
import sysconfig
import venv
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import tifffile
from contest import CACHE

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


class PeerError(Exception):
    """TIAToolbox cannot take part; one line that says why."""


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
        raise PeerError(f"pip: {_last_line(done.stderr)}")
    stamp.write_text(wanted)
    return python


class Peer:
    """A process of TIAToolbox that has loaded the model and waits for its turns; a context manager.

    Args:
        folder: for its input, its output and what it says.
        image: whose pixels it gets as an uncompressed tiled TIFF: it does not read Zarr v3.
        package: whose weights it has.
        device: where it runs.
    """

    def __init__(self, folder: Path, image: Image, package: ModelPackage, device: str) -> None:
        python, slide = environment(), folder / "scene.tif"
        pixels = np.moveaxis(image.read(Window.whole(image.shape())), 0, -1)
        centimeter = 10_000  # at 1 um per pixel
        tifffile.imwrite(
            slide, pixels, tile=(256, 256), photometric="rgb", resolution=(centimeter,) * 2, resolutionunit="CENTIMETER"
        )
        self._log: IO[str] = (folder / "tiatoolbox.log").open("w+")
        command = [str(python), str(SERVER), str(slide), package.folder.removeprefix("file://"), device]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        try:
            self._answer()
            self.seconds()  # warms up
        except PeerError:
            self.__exit__(None, None, None)
            raise

    def seconds(self) -> float:
        """One turn: seconds from slide to Zarr.

        Raises:
            PeerError: if the process has ended.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer, which says it
            self._process.stdin.write("turn\n")
            self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # it writes other lines too
                found: dict[str, Any] = json.loads(line)
                return found
        self._process.wait()
        self._log.seek(0)
        raise PeerError(_last_line(self._log.read()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._log.close()


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it ended without a word"])[-1]
