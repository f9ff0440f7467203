"""Clock: how much of the run is over, by steps or by time, and when the next validation is due."""

import time
from dataclasses import dataclass, field

from segcore.config import TrainConfig

NUM_VALIDATIONS = 10
MAX_VALIDATION_SHARE = 0.1
"""Of the time budget, for the validations; and as much again for the scores of the finished model."""


@dataclass
class Clock:
    """Counts steps, or the seconds of a budget, across interruptions.

    With `max_steps` nothing depends on time, so that a run can be repeated exactly.
    """

    config: TrainConfig
    elapsed_before_s: float = 0.0
    """Spent by this run before it was interrupted."""
    validation_cost_s: float = 0.0
    """Of one validation; measured once there was one."""
    final_ratio: float = 1.0
    """Cost of scoring the finished model, in validations."""
    began: float = field(default_factory=time.monotonic)
    """When this start of the run began, on the monotonic clock."""

    @property
    def elapsed_s(self) -> float:
        """Time of the whole run, over all its starts."""
        return self.elapsed_before_s + time.monotonic() - self.began

    def fraction(self, steps_done: int) -> float:
        """Share of the run that is over, 0..1."""
        if self.config.max_steps is not None:
            return min(1.0, steps_done / self.config.max_steps)
        budget_s = 60 * self.config.minutes
        scoring_s = self.validation_cost_s + self.final_cost_s
        return min(1.0, self.elapsed_s / max(budget_s - scoring_s, 0.5 * budget_s))

    @property
    def final_cost_s(self) -> float:
        """Time set aside for scoring the finished model, as far as the budget has room for it."""
        wanted_s = self.validation_cost_s * self.final_ratio
        if self.config.max_steps is not None:
            return wanted_s
        return max(self.validation_cost_s, min(wanted_s, MAX_VALIDATION_SHARE * 60 * self.config.minutes))

    def validation_due(self, steps_done: int, last_step: int, last_fraction: float, fraction: float) -> bool:
        """True if it is time to validate.

        Args:
            steps_done: so far.
            last_step: steps done at the last validation, 0 if there was none.
            last_fraction: share of the run that was over then.
            fraction: share that is over now.
        """
        if fraction >= 1:
            return True
        if self.config.validate_every:
            return steps_done - last_step >= self.config.validate_every
        if self.config.max_steps is not None:
            return steps_done - last_step >= -(-self.config.max_steps // NUM_VALIDATIONS)
        affordable = self.validation_cost_s / (MAX_VALIDATION_SHARE * 60 * self.config.minutes)
        return fraction - last_fraction >= max(1 / NUM_VALIDATIONS, affordable)
