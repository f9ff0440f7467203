"""How busy a GPU is while a block runs, as the driver says it."""

import statistics
import threading
from types import TracebackType
from typing import Self

import torch

INTERVAL_S = 0.1


class Busy:
    """Samples the share of time in which the GPU computes, while a `with` block runs.

    `share` is the mean of the samples, 0 to 1; None on other devices, in a block that is too short for ten samples,
    and without the package nvidia-ml-py, through which PyTorch asks the driver.
    """

    def __init__(self, device: torch.device) -> None:
        self._samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True) if _can_tell(device) else None

    @property
    def share(self) -> float | None:
        return round(statistics.mean(self._samples), 3) if len(self._samples) >= 10 else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._samples.append(torch.cuda.utilization() / 100)


def _can_tell(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    try:
        torch.cuda.utilization()
    except (ImportError, RuntimeError):  # no nvidia-ml-py, or a driver that does not say
        return False
    return True
