"""Loop: tiles -> steps -> validations -> checkpoints, in one place to read."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass

import numpy as np
import torch

from segcore.augment import Augmented, Augmenter
from segcore.config import TrainConfig
from segcore.errors import SegcoreError
from segcore.geometry import rounded_up
from segcore.progress import Progress
from segcore.sampling import Loader, Pixels, Truth
from segcore.training.choice import Choice
from segcore.training.clock import Clock
from segcore.training.data import TrainingData, sampler_of
from segcore.training.learner import Learner
from segcore.training.parallel import ALONE, Group
from segcore.training.runs import Run
from segcore.training.schedule import PLATEAU_PATIENCE, is_settled, learning_rate
from segcore.training.tracking import Glimpse, Pace, tracked
from segcore.training.validate import OBJECT_SCORES, HeldOut, main_of, main_score, summary

CHECKPOINT_EVERY_S = 60.0
"""So much is lost at most by a kill between two validations."""
TELL_EVERY_S = 2.0
"""Between two updates of the status line."""
GRAPH_PX = 128
"""The network is drawn as it takes a tile of about this side."""
MAX_PENDING = 20
"""Losses that stay on a GPU before they are fetched: each fetch waits for the device."""
FINAL_SHARE = 16
"""The finished model is scored on so many times more pixels than a validation looks at."""
MAX_SKIPPED = 20
"""Steps in a row with NaN or Inf in the gradient before the run stops; float16's scaler takes a dozen to start."""
CURVE_SCORES = (*OBJECT_SCORES, "foreground_iou", "foreground_dice", "miou", "pixel_accuracy")

Watch = Callable[[float, float], bool]
"""Called after each validation with the share of the run that is over and the score; True = no more of this run."""


class StoppedError(Exception):
    """The watcher of a run wants no more of it. Its checkpoint stands; without the watcher it would go on."""


@dataclass
class State:
    """Where the run stands, beside the tensors; JSON."""

    step: int = 0
    """Steps done."""
    elapsed_s: float = 0.0
    validation_cost_s: float = 0.0
    validated_step: int = 0
    validated_fraction: float = 0.0
    best_step: int = 0
    best_score: float = -1.0
    stale: int = 0
    """Validations since the best one."""
    halvings: int = 0
    """Of the learning rate, by the schedule `plateau`."""
    finished: bool = False
    precision: str = "float32"
    """Of forward and backward, since the last start that took a step."""


class Training:
    """One run: the learner, its data, and where it stands; `fit` goes on from the last checkpoint."""

    def __init__(
        self,
        settings: tuple[TrainConfig, Choice],
        data: TrainingData,
        learner: Learner,
        held_out: HeldOut,
        run: Run,
        progress: Progress,
        group: Group = ALONE,
    ) -> None:
        self.config, self.choice = config, choice = settings
        self.data, self.learner, self.held_out = data, learner, held_out
        self._augmenter = Augmenter(self.choice.augments, config.seed, data.mean, data.std)
        self._run, self.progress, self._group = run, progress, group
        self.watch: Watch | None = None
        self._own = group.share_of(self.choice.batch)
        self.state = State(precision=learner.precision)
        self._restore()
        self.clock = Clock(
            config,
            self.state.elapsed_s,
            self.state.validation_cost_s,
            FINAL_SHARE * config.validation_mpx * 1e6 / max(1, held_out.num_px),
        )
        self._curve = tracked(run, self.state.step, config.mlflow, progress)
        self._glimpse = Glimpse(data.validation if run.writes else (), data.classes, choice.tile_px)
        self._pace = Pace(choice.batch * config.accumulate)
        self._pending: list[tuple[int, float, torch.Tensor]] = []
        self._saved_at = self._told_at = time.monotonic()
        self._budget_s = int(60 * config.minutes)
        self._told_s = min(int(self.state.elapsed_s), self._budget_s)

    def fit(self) -> None:
        """Train until the steps, the time or the patience are used up.

        Raises:
            StoppedError: if the watcher wants no more of it.
        """
        state = self.state
        self._begin_progress()
        with self._curve, closing(self._batches()) as ahead:
            while not state.finished:
                step, fraction = state.step, self._fraction()
                rate = self._rate(fraction)
                began, waited_before_s = time.monotonic(), ahead.waited_s
                drawn = [next(ahead) for _ in range(self.config.accumulate)]
                together = [self._prepared(*batch) for batch in drawn]
                is_frozen = fraction < self.config.freeze
                loss = self.learner.step(together, rate, step, settled=is_settled(fraction), frozen=is_frozen)
                self._pending.append((step + 1, rate, loss))
                state.step = step + 1
                self._pace.add(time.monotonic() - began, ahead.waited_s - waited_before_s)
                self._after_step(self._fraction())

    def keep(self) -> None:
        """Of a model without weights, in place of `fit`: it is its best as it stands."""
        with self._curve:
            self._keep_best(0.0)

    def _fraction(self) -> float:
        """Share of the run that is over; of a budget of time by one clock for all processes."""
        fraction = self.clock.fraction(self.state.step)
        return fraction if self.config.max_steps is not None else self._group.agreed(fraction)

    def _rate(self, fraction: float) -> float:
        config = self.config
        return learning_rate(config.schedule, self.choice.learning_rate, fraction, config.warm_up, self.state.halvings)

    def _batches(self) -> Loader:
        config, batch = self.config, self.choice.batch
        sampler = sampler_of(config, self.data, self.choice.tile_px)
        return Loader(sampler, batch, self.state.step * config.accumulate, config.readers, self._own)

    def _prepared(self, step: int, pixels: Pixels, target: Truth) -> Augmented:
        """This process's own tiles of a batch, on the device, normalised and augmented."""
        return self._augmenter(self.learner.to_input(pixels), self.learner.to_classes(target), step, self._own.start)

    def _after_step(self, fraction: float) -> None:
        """Validate, checkpoint and tell, where it is time."""
        state = self.state
        if self.learner.skipped >= MAX_SKIPPED:
            self._stop_at_last_good()
        due = self.clock.validation_due(state.step, state.validated_step, state.validated_fraction, fraction)
        is_told = due or time.monotonic() - self._told_at > TELL_EVERY_S
        if is_told or len(self._pending) >= MAX_PENDING:
            self._fetch_losses()
        if due:
            score = self._validate(fraction)
            self._show()
            state.finished = fraction >= 1 or 0 < self.config.patience <= state.stale
        if due or time.monotonic() - self._saved_at > CHECKPOINT_EVERY_S:
            self._checkpoint()
        if is_told:
            self._tell()
        if due and not state.finished and self.watch is not None and self.watch(fraction, score):
            raise StoppedError

    def _fetch_losses(self) -> None:
        """Move pending losses into the curve; one that is not finite changed nothing, and is left out."""
        for step, rate, loss in self._pending:
            value = float(loss)
            self._curve.add(step, {"loss": value} | {"learning_rate": rate} if np.isfinite(value) else {"skipped": 1})
        if self.config.max_steps is not None:
            self.progress.advance(len(self._pending))
        self._pending.clear()

    def _tell(self) -> None:
        """The status line, and of a budget of time how much of it is over."""
        self._told_at, elapsed_s = time.monotonic(), min(int(self.clock.elapsed_s), self._budget_s)
        if self.config.max_steps is None:
            self.progress.advance(elapsed_s - self._told_s)
        self._told_s = elapsed_s
        self.progress.status(self._pace.told(self._curve.recent("loss", 20), self._curve.last("foreground_iou")))

    def _stop_at_last_good(self) -> None:
        """The weights are those of the last good step: keep them, and give up.

        Raises:
            SegcoreError: always.
        """
        self.state.step -= self.learner.skipped
        self._pending = self._pending[: -self.learner.skipped]
        self._checkpoint()
        raise SegcoreError(
            f"run {self._run.run_id}: {self.learner.skipped} steps in a row gave NaN or Inf; it stopped at step "
            f"{self.state.step}: begin with its checkpoint (--init {self._run.describe('last.safetensors')}) and a "
            f"learning_rate below {self.choice.learning_rate:g}, or with --no-amp"
        )

    def _validate(self, fraction: float) -> float:
        """Score the averaged weights, and keep them if they are the best so far; without held-out images the last."""
        state, began = self.state, time.monotonic()
        state.validated_step, state.validated_fraction = state.step, fraction
        if not self.held_out.parts:
            self._keep_best(0.0)
            return 0.0
        tally = self.held_out.count(self.learner.average.state_dict(), self._group)
        cost_s = self._group.agreed(time.monotonic() - began)
        self.clock.validation_cost_s = state.validation_cost_s = cost_s
        score, scores = main_score(tally, self.data.classes), summary(tally, self.data.classes)
        self._curve.add(state.step, {name: scores[name] for name in CURVE_SCORES if scores.get(name) is not None})
        state.stale += 1
        if score > state.best_score or score == state.best_score == 0:  # the first objects come late
            self._keep_best(score)
        elif state.stale % PLATEAU_PATIENCE == 0:
            state.halvings += 1  # only `plateau` heeds it
        self.progress.note(
            f"step {state.step}: loss {self._curve.recent('loss', 20):.4f}, {main_of(scores)[0]} {score:.4f}"
            f" (best {state.best_score:.4f} at step {state.best_step})"
        )
        return score

    def _show(self) -> None:
        """Pictures of this validation, and once the network."""
        if self._run.writes:
            average = self.learner.average
            side = min(self.choice.tile_px, rounded_up(GRAPH_PX, int(average.stride)))  # type: ignore[arg-type]
            self._curve.show(self.state.step, self._glimpse.look(self.learner))
            planes = (self.choice.tile_planes,) if self.choice.tile_planes > 1 else ()
            self._curve.draw(average, (1, len(self.data.mean), *planes, side, side))

    def final_px(self) -> float:
        """How many held-out pixels the finished model can be scored on without a run over the time."""
        clock = self.clock
        affordable = clock.final_cost_s / clock.validation_cost_s if clock.validation_cost_s else clock.final_ratio
        return self.held_out.num_px * affordable

    def _keep_best(self, score: float) -> None:
        self.state.best_score, self.state.best_step, self.state.stale = score, self.state.step, 0
        note = {"step": self.state.step, "score": score}
        self._run.save("best", self.learner.average.state_dict(), note)

    def _checkpoint(self) -> None:
        """Write all that a later start needs; the checkpoint last, so that the curve never lacks a row of it."""
        self._fetch_losses()
        self._curve.write(self.state.step)
        self.state.elapsed_s = self.clock.elapsed_s
        note = {"state": asdict(self.state), "scaler": self.learner.scaler_state()}
        self._run.save("last", self.learner.tensors(), note)
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        standing = self._run.load("last")
        if standing is None:
            return
        tensors, note = standing
        self.learner.restore(tensors, note["scaler"])
        self.state = State(**note["state"])
        if not self.state.finished:
            before, self.state.precision = self.state.precision, self.learner.precision
            other = f", in {self.learner.precision}: it was in {before}" if before != self.learner.precision else ""
            self.progress.note(f"run {self._run.run_id} goes on at step {self.state.step}{other}")

    def _begin_progress(self) -> None:
        if self.config.max_steps is not None:
            self.progress.start("train", self.config.max_steps, "steps")
            self.progress.advance(self.state.step)
        else:
            self.progress.start("train", self._budget_s, "s")
            self.progress.advance(self._told_s)
