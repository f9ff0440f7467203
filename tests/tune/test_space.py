"""Arguments of an architecture are searched as it has them: whole numbers where it takes no others."""

from typing import Any

import pytest

from segcore.config import TuneConfig
from segcore.config.tune import Choices, Range
from segcore.errors import ConfigError
from segcore.models import ModelConfig, has_weights, weightless
from segcore.models.classic.entries import CLASSIC
from segcore.tune.space import checked_space, with_own_search


def config(given: str, **search: str) -> TuneConfig:
    named = {name if name == "architecture" else f"arguments.{name}": text for name, text in search.items()}
    return TuneConfig(workspace="w", architecture=given, search=named)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("sigma", "0..4", Range(0, 4, log=False, whole=False)),
        ("threshold", "0..1", Range(0, 1, log=False, whole=False)),  # or none
        ("min_size", "1..60:log", Range(1, 60, log=True, whole=True)),
        ("min_size", "1e1..6e1", Range(10, 60, log=False, whole=True)),
        ("band", "0..2", Range(0, 2, log=False, whole=True)),
        ("edges", "sobel|canny", Choices(("sobel", "canny"))),
    ],
)
def test_a_range_is_whole_where_the_argument_is(name: str, text: str, place: Range | Choices) -> None:
    assert checked_space(config("edges_watershed", **{name: text})) == {f"arguments.{name}": place}


def test_what_suits_all_architectures_that_are_searched_is_drawn() -> None:
    both = config("unet", architecture="felzenszwalb|slic", sigma="0..3")
    assert checked_space(both)["arguments.sigma"] == Range(0, 3, log=False, whole=False)


@pytest.mark.parametrize(
    ("given", "search", "message"),
    [
        ("otsu", {"sigmas": "0..4"}, r"arguments\.sigmas=0: architecture otsu: it has no .*; did you mean 'sigma'\?"),
        ("otsu", {"sigma": "0..65"}, r"arguments\.sigma=65: architecture otsu: argument sigma: Input should be less"),
        ("otsu", {"min_size": "1.5..3"}, r"arguments\.min_size=1\.5: .* valid integer"),
        ("otsu", {"foreground": "bright|blue"}, r"arguments\.foreground=blue: .* 'bright', 'dark' or 'rarer'"),
        ("unet", {"architecture": "otsu|unet", "sigma": "0..4"}, r"arguments\.sigma=0: architecture unet: it has no "),
    ],
)
def test_what_the_architecture_does_not_take_is_refused(given: str, search: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^search: {message}"):
        checked_space(config(given, **search))


@pytest.mark.parametrize(
    ("settings", "named"), [({"minutes": 1}, "minutes"), ({"search": {"learning_rate": "1e-3..1e-2"}}, "learning_rate")]
)
def test_how_to_learn_is_nothing_to_search_without_weights(settings: dict[str, Any], named: str) -> None:
    study = with_own_search(TuneConfig(workspace="w", architecture="otsu", **settings))
    with pytest.raises(ConfigError, match=rf"^{named}: otsu has no weights, and nothing to learn"):
        checked_space(study)


@pytest.mark.parametrize("name", CLASSIC)
def test_every_classic_method_has_a_space_of_its_own_that_it_takes(name: str) -> None:
    arguments = {"in_channels": 4, "num_classes": 2}
    assert not has_weights(weightless(ModelConfig(architecture=name, arguments=arguments)))
    study = with_own_search(TuneConfig(workspace="w", architecture=name))
    assert tuple(f"{setting}={text}" for setting, text in study.search.items()) == CLASSIC[name].searched
    assert checked_space(study).keys() == study.search.keys() != set()


def test_by_default_no_argument_is_searched_that_has_a_value() -> None:
    arguments = {"sigma": "2", "foreground": "dark"}
    study = with_own_search(TuneConfig(workspace="w", architecture="otsu", arguments=arguments))
    assert study.search == {"arguments.min_size": "0|20|60"}
    named = TuneConfig(workspace="w", architecture="otsu", search={"arguments.sigma": "0..1"})
    assert (with_own_search(named), with_own_search(TuneConfig(workspace="w")).search) == (named, {})
    full = TuneConfig(workspace="w", architecture="otsu", arguments={**arguments, "min_size": "0"})
    with pytest.raises(ConfigError, match=r"^search: every argument that is searched by default has a value"):
        with_own_search(full)
