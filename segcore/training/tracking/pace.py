"""Pace: how fast the last steps were, and what share of their time went into waiting for tiles."""

from collections import deque

WINDOW_S = 10.0
"""The pace is that of the steps which make up the last so many seconds of training, validations left out."""


class Pace:
    """Durations of the last steps.

    Args:
        tiles_per_step: that all processes learn from together.
    """

    def __init__(self, tiles_per_step: int) -> None:
        self._tiles_per_step = tiles_per_step
        self._last: deque[tuple[float, float]] = deque()
        self._took_s = self._waited_s = 0.0

    def add(self, took_s: float, waited_s: float) -> None:
        """A step is done: what it took, and how much of that was waiting for its tiles."""
        self._last.append((took_s, waited_s))
        self._took_s += took_s
        self._waited_s += waited_s
        while len(self._last) > 1 and self._took_s - self._last[0][0] >= WINDOW_S:
            took_s, waited_s = self._last.popleft()
            self._took_s -= took_s
            self._waited_s -= waited_s

    @property
    def tiles_per_s(self) -> float:
        """0 before the first step."""
        return self._tiles_per_step * len(self._last) / self._took_s if self._took_s > 0 else 0.0

    @property
    def waiting_share(self) -> float:
        """0..1."""
        return max(0.0, self._waited_s / self._took_s) if self._took_s > 0 else 0.0

    def told(self, loss: float, score: float | None) -> str:
        """The status line: `loss 0.2134 · 128 tiles/s · 2 % waiting for data · IoU 0.81`."""
        rate = f"{self.tiles_per_s:.0f}" if self.tiles_per_s >= 10 else f"{self.tiles_per_s:.1f}"
        parts = [f"loss {loss:.4f}", f"{rate} tiles/s", f"{self.waiting_share:.0%} waiting for data".replace("%", " %")]
        return " · ".join(parts if score is None else [*parts, f"IoU {score:.2f}"])
