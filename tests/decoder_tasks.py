"""What the children of tests/test_isolation.py run: well-behaved, broken and hostile decoders."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from segcore.alive import alive
from segcore.errors import ConfigError

Beat = Callable[..., None]


def double(beat: Beat, value: int) -> int:
    return 2 * value


def pid(beat: Beat) -> int:
    return os.getpid()


def refuse(beat: Beat) -> None:
    raise ConfigError("slide.svs: refused\nfor a reason")


def raise_value_error(beat: Beat) -> None:
    raise ValueError("two\nlines")


def unpicklable(beat: Beat) -> object:
    return lambda: None


def crash(beat: Beat) -> None:
    ctypes.string_at(0)


def exit_quietly(beat: Beat) -> None:
    os._exit(7)


def crash_once(beat: Beat, mark: str) -> str:
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGABRT)
    return "second try"


def sleep(beat: Beat, before_s: float, beats: int, between_s: float) -> str:
    time.sleep(before_s)
    for amount in range(beats):
        beat(amount)
        time.sleep(between_s)
    return "done"


def unpack_slowly(beat: Beat, blocks: int, between_s: float) -> str:
    for _ in range(blocks):
        time.sleep(between_s)
        alive()
    return "done"


def hold_everything(beat: Beat, mark: str) -> None:
    """Say who we are, then sit in C code with the interpreter's lock held: no Python thread can run."""
    Path(mark, str(os.getpid())).touch()
    ctypes.PyDLL(None).sleep(600)


def allocate(beat: Beat, mib: int) -> int:
    return len(bytes(mib << 20))


def leave_temporary(beat: Beat, ending: str) -> str:
    import tempfile

    path = tempfile.mkstemp()[1]
    Path(ending).write_text(path)
    os.kill(os.getpid(), signal.SIGKILL)
    return path


def make_noise(beat: Beat) -> None:
    os.write(1, b"NOISE on stdout\n")
    os.write(2, b"NOISE on stderr\n")
    print("NOISE by print")


def read_whole(beat: Beat, uri: str) -> tuple[int, ...]:
    from segcore.geometry import Window
    from segcore.sources import open_source

    with open_source(uri) as source:
        beat()
        pixels = source.read(Window.whole(source.info.shape))
        source.read_valid(Window.whole(source.info.shape[-2:]))
        return tuple(pixels.shape)


def digest_whole(beat: Beat, uri: str) -> tuple[tuple[int, ...], str]:
    """Shape that the header tells, and a digest of all pixels and their validity, checked to be of that shape."""
    import hashlib

    import numpy as np

    from segcore.geometry import Window
    from segcore.sources import Limits, Opening, open_source

    with open_source(uri, Opening(limits=Limits(max_px=2**24, max_whole_px=2**24))) as source:
        beat()
        info = source.info
        pixels = source.read(Window.whole(info.shape))
        beat()
        plane = tuple(n for n, axis in zip(info.shape, info.axes, strict=True) if axis != "c")
        valid = source.read_valid(Window.whole(plane))
        if pixels.shape != info.shape or valid.shape != plane or pixels.dtype.name != info.dtype:
            raise AssertionError(f"{pixels.shape} {pixels.dtype} of {info.shape} {info.dtype}")
        said = hashlib.sha256(np.ascontiguousarray(pixels).tobytes() + valid.tobytes()).hexdigest()
        return info.shape, said


def read_by_gdal(beat: Beat, path: str) -> float:
    import rasterio

    with rasterio.open(path) as dataset:
        return float(dataset.read(1).sum())
