"""Arguments of an architecture are searched as it has them: whole numbers where it takes no others."""

import pytest

from segcore.config import TuneConfig
from segcore.config.tune import Choices, Range
from segcore.tune.space import space_of


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
    assert space_of(config("edges_watershed", **{name: text})) == {f"arguments.{name}": place}


def test_what_suits_all_architectures_that_are_searched_is_drawn() -> None:
    both = config("unet", architecture="felzenszwalb|slic", sigma="0..3")
    assert space_of(both)["arguments.sigma"] == Range(0, 3, log=False, whole=False)
