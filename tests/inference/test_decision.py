"""Decision: thresholds, confidence and layers against the plain way, pixel by pixel."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from segcore.classes import default_classes
from segcore.errors import ConfigError
from segcore.inference.decision import MASK, Decision, ids_of, on_host

LOGITS = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (2, 4, 30, 20)).astype(np.float32))
PROBS = softmax(LOGITS.numpy().astype(np.float64), axis=1)


def test_without_wishes_the_best_class_wins() -> None:
    decision = Decision(4, 255)
    assert decision.is_plain
    assert decision.frozen() == {}
    np.testing.assert_array_equal(on_host(decision(LOGITS))[MASK], PROBS.argmax(axis=1))


def test_a_listed_class_is_taken_from_its_threshold_on_and_nowhere_else() -> None:
    listed = {1: 0.2, 3: 0.6}
    mask = on_host(Decision(4, 255, thresholds=tuple(listed.items()))(LOGITS))[MASK]
    for place in np.ndindex(2, 30, 20):
        probs = PROBS[(place[0], slice(None), *place[1:])]
        reached = [k for k, least in listed.items() if probs[k] >= least]
        candidates = reached or [k for k in range(4) if k not in listed]
        assert mask[place] == max(candidates, key=lambda k: probs[k])
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert ((mask == 1) & (PROBS.argmax(axis=1) != 1)).any(), "the test needs pixels that only a threshold gives"


def test_a_class_of_too_little_confidence_is_ignored() -> None:
    mask = on_host(Decision(4, 255, min_confidence=((2, 0.5),))(LOGITS))[MASK]
    best, confidence = PROBS.argmax(axis=1), PROBS.max(axis=1)
    np.testing.assert_array_equal(mask, np.where((best == 2) & (confidence < 0.5), 255, best))
    assert (mask == 255).any()


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_layers_say_what_they_promise(dtype: str) -> None:
    decision = Decision(4, 255, ("probs", "entropy", "margin"), (3, 1), dtype)
    found = on_host(decision(LOGITS))
    ordered = np.sort(PROBS, axis=1)
    expected = {
        "probs": PROBS[:, [3, 1]],
        "entropy": entropy(PROBS, axis=1)[:, None] / np.log(4),
        "margin": ordered[:, -1:] - ordered[:, -2:-1],
    }
    assert found.keys() == {MASK, *expected}
    for name, values in expected.items():
        assert found[name].dtype == dtype
        scale, step = (255, 0.501 / 255) if dtype == "uint8" else (1, 1e-3)
        np.testing.assert_allclose(found[name] / scale, values, atol=step)


def test_variance_stands_behind_the_logits() -> None:
    variance = torch.rand(2, 1, 30, 20) / 4
    found = on_host(Decision(4, 255, ("variance",), layer_dtype="float16")(torch.cat([LOGITS, variance], dim=1)))
    np.testing.assert_allclose(found["variance"], 4 * variance, atol=1e-3)
    np.testing.assert_array_equal(found[MASK], PROBS.argmax(axis=1))


@pytest.mark.parametrize(("name", "value", "words"), [("tree", 0.5, "got 'tree'"), ("class 1", 0.0, "over 0")])
def test_unknown_classes_and_no_probabilities_are_refused(name: str, value: float, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ids_of({name: value}, default_classes(3), "thresholds")
