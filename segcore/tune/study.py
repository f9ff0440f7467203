"""Study: an Optuna study in the workspace, whose trials any number of processes take from, each at most once.

    runs/<study>/
        config.json         what is searched and trained on: a study is never mixed with another
        journal/            Optuna's record (tune/journal.py)
        trials/<n>/         who is at trial n at this moment: a lease
    runs/<study>-<n>/       the training run of trial n

    waiting --claim--> running --tell--> complete, pruned or failed
                         |  ^
                    kill |  | claim, once its lease is nobody's
                         +--+

Values are drawn by TPE (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011). A trial ends early by
the median rule (Golovin et al., "Google Vizier", 2017): when its best score so far is below the median of what the
complete trials had after the same share of the run. Hyperband needs more trials than a study of training runs has.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from segcore.config.tune import Choices, Range, Space
from segcore.errors import LeaseHeldError
from segcore.store import Lease, Workspace
from segcore.tune.journal import ObjectJournal

NUM_RANDOM = 5
"""Trials before the sampler begins to learn; 10 would be half of a usual study."""
NUM_UNPRUNED = 4
"""Complete trials before one is ended early."""
TENTHS = 10
"""Scores are compared after each tenth of the run."""
SPARED_TENTHS = 3
"""No trial ends before: the learning rate has just risen, and the averaged weights lag behind."""

Values = dict[str, float | int | str]


class Study:
    """The trials of one study: claim one, watch it, tell how it ended."""

    def __init__(self, workspace: Workspace, name: str, space: Space, seed: int) -> None:
        self.name, self._space, self._seed = name, space, seed
        self._objects, self._prefix = workspace.objects, f"runs/{name}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = JournalStorage(ObjectJournal(self._objects, f"{self._prefix}/journal"))
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=NUM_UNPRUNED, n_warmup_steps=SPARED_TENTHS),
        )

    def trials(self, total: int) -> list[FrozenTrial]:
        """The first `total` trials; more that another process made stay as they are, and wait for a larger total."""
        while len(self._study.get_trials(deepcopy=False)) < total:
            self._study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING))
        return self._study.get_trials(deepcopy=False)[:total]

    @contextmanager
    def claimed(self, total: int) -> Iterator[FrozenTrial | None]:
        """A trial that nobody else can take during a block, one that was interrupted first; None if there is none."""
        claim = self._claim(total)
        if claim is None:
            yield None
            return
        trial, lease = claim
        with lease:
            yield trial

    def _claim(self, total: int) -> tuple[FrozenTrial, Lease] | None:
        for wait in (False, True):  # on those who are elsewhere, and may be gone, only when nothing else is left
            trials = self.trials(total)
            for state in (TrialState.RUNNING, TrialState.WAITING):
                for trial in trials:
                    if trial.state == state and (lease := self._lease(trial, wait)) is not None:
                        return trial, lease
        return None

    def _lease(self, trial: FrozenTrial, wait: bool) -> Lease | None:
        """The lease of a trial that is now running and ours; None if others are at it, or have finished it."""
        try:
            lease = Lease(self._objects, f"{self._prefix}/trials/{trial.number}", wait=wait)
        except LeaseHeldError:
            return None
        state = self._storage.get_trial(trial._trial_id).state
        if state == TrialState.WAITING and self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
            state = TrialState.RUNNING
        if state == TrialState.RUNNING:
            return lease
        lease.release()
        return None

    def begin(self, claimed: FrozenTrial, start: Mapping[str, Any]) -> tuple[Trial, Values]:
        """A claimed trial, and what it tries; the same again for one that was interrupted.

        Args:
            claimed: by this process.
            start: what the first trial tries, where that is within the space.
        """
        # Of one seed all processes would draw alike; so each trial has its own, whoever runs it.
        entropy = np.random.SeedSequence((self._seed, claimed.number)).generate_state(1)
        self._study.sampler = optuna.samplers.TPESampler(seed=int(entropy[0]), n_startup_trials=NUM_RANDOM)
        if claimed.number == 0:
            self._set(claimed, start)
        trial = Trial(self._study, claimed._trial_id)
        return trial, {name: _drawn(trial, name, place) for name, place in self._space.items()}

    def _set(self, claimed: FrozenTrial, start: Mapping[str, Any]) -> None:
        for name, place in self._space.items():
            if name not in claimed.params and start.get(name) in place:
                distribution = _distribution(place)
                inside = distribution.to_internal_repr(start[name])
                self._storage.set_trial_param(claimed._trial_id, name, inside, distribution)

    def watch(self, trial: Trial, fraction: float, score: float) -> bool:
        """Report a validation; True if the trial should end now.

        A score stands for all tenths since the one before, so that trials that are validated at other moments can be
        compared.
        """
        reported = max(self._storage.get_trial(trial._trial_id).intermediate_values, default=0)
        reached = math.floor(TENTHS * fraction + 1e-9)
        for tenth in range(reported + 1, reached + 1):
            trial.report(score, tenth)
        return reported < reached < TENTHS and trial.should_prune()

    def tell(self, trial: Trial, state: TrialState, score: float | None, attributes: Mapping[str, Any]) -> None:
        """How the trial ended; a pruned one has its last score."""
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._study.tell(trial, score, state)


def _distribution(place: Range | Choices) -> BaseDistribution:
    if isinstance(place, Choices):
        return CategoricalDistribution(place.texts)
    if place.whole:
        return IntDistribution(int(place.low), int(place.high), log=place.log)
    return FloatDistribution(place.low, place.high, log=place.log)


def _drawn(trial: Trial, name: str, place: Range | Choices) -> float | int | str:
    if isinstance(place, Choices):
        return str(trial.suggest_categorical(name, place.texts))
    if place.whole:
        return trial.suggest_int(name, int(place.low), int(place.high), log=place.log)
    return trial.suggest_float(name, place.low, place.high, log=place.log)
