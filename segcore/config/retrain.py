"""Retrain: what the weekly training of a challenger is asked for; the parameters of the flow, and its form."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from segcore.config.base import StageConfig, build_config
from segcore.config.parts import Settings, part_of
from segcore.config.predict import PredictConfig
from segcore.config.results import ScoreConfig
from segcore.config.train import TrainConfig
from segcore.errors import ConfigError

FILLED: dict[str, tuple[type[StageConfig], set[str]]] = {
    "train": (TrainConfig, {"workspace", "run", "folds", "dry_run"}),
    "predict": (PredictConfig, {"workspace", "model", "images", "name", "until", "dry_run"}),
    "score": (ScoreConfig, {"workspace", "model", "images", "split", "against"}),
}
"""By stage: its config, and what the flow fills in."""


class RetrainConfig(StageConfig):
    """The targets there are now -> a challenger, and the better one of it and the champion."""

    split: Literal["test", "val"] = Field(default="test", title="Held-out split")
    """Where both are scored: images of this split that have a target; no model trains on them."""
    metric: Literal["miou", "mean_dice", "foreground_iou", "pixel_accuracy"] = Field(default="miou", title="Score")
    """What decides."""
    least: float = Field(default=0.0, ge=0, lt=1, title="Least difference")
    """The challenger is better where the whole interval of the difference lies above this."""
    promote: Literal["better", "ask", "never"] = Field(default="better", title="Promote")
    """`better`: a challenger that is; `ask`: a person decides, the run waits for the answer; `never`: only say."""
    ask_hours: float = Field(default=12.0, gt=0, le=168, title="Hours to answer")
    """How long `ask` waits; without an answer the champion stays."""
    train: Annotated[Settings, part_of(*FILLED["train"])] = Field(default={}, title="Settings of train")
    """Architecture, minutes..."""
    predict: Annotated[Settings, part_of(*FILLED["predict"])] = Field(default={}, title="Settings of predict")
    """Of both models: blend, device..."""
    score: Annotated[Settings, part_of(*FILLED["score"])] = Field(default={}, title="Settings of score")
    """Boundaries, number of draws for the intervals..."""

    @model_validator(mode="after")
    def _every_stage_agrees(self) -> Self:
        try:
            for stage, (config, filled) in FILLED.items():
                for key in filled & getattr(self, stage).keys():
                    raise ConfigError(f"{stage}.{key}: the flow fills it in; leave it out")
                model = {"model": "m"} if "model" in config.model_fields else {}
                build_config(config, self.settings(stage, **model), stage)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def settings(self, stage: str, **filled: Any) -> Settings:
        """All settings of a stage: the user's, and those that the flow fills in."""
        return {"workspace": self.workspace, **getattr(self, stage), **filled}
