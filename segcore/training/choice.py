"""Choice: what a run takes where nothing was asked for, and why; config, images -> *choice*."""

from dataclasses import dataclass, field
from typing import Any

from segcore.config import TrainConfig
from segcore.config.train import Loss
from segcore.training.data import TrainingData

CHANNELS = (16, 32, 64, 128, 128)
TILE_PX, BATCH = 128, 4
LEARNING_RATES = {"adamw": 3e-3, "sgd": 0.05}


@dataclass(frozen=True)
class Choice:
    """What the config leaves open, settled."""

    channels: tuple[int, ...]
    """Of a U-Net's stages."""
    tile_px: int
    batch: int
    loss: dict[Loss, float]
    learning_rate: float
    reasons: dict[str, str] = field(default_factory=dict, compare=False)
    """By setting: why it was chosen so; nothing of what was given."""

    def as_json(self) -> dict[str, Any]:
        """For the run's config: what decides how it goes."""
        return {
            "channels": list(self.channels),
            "tile_px": self.tile_px,
            "batch": self.batch,
            "loss": dict(self.loss),
            "learning_rate": self.learning_rate,
        }


def choose(config: TrainConfig, data: TrainingData) -> Choice:
    """Settle what a config leaves open."""
    del data
    return Choice(
        channels=config.channels or CHANNELS,
        tile_px=config.tile_px or TILE_PX,
        batch=config.batch or BATCH,
        loss=config.loss or {"ce": 1.0, "dice": 1.0},
        learning_rate=config.learning_rate or LEARNING_RATES[config.optimizer],
    )
