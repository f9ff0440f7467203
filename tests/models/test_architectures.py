"""Architectures: arguments are checked before anything is built; every entry tells what it is."""

import pytest

from segcore.errors import ConfigError
from segcore.models import ARCHITECTURES, ModelConfig, build_model, checked_arguments, takes


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^architecture: no network is called 'u-net'; did you mean unet\?$"):
        build_model(ModelConfig(architecture="u-net"))
    with pytest.raises(ConfigError, match=r"no network is called 'zzzz'; there are unet, "):
        takes("zzzz", "channels")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"sigma": "3"}, r"it has no argument 'sigma'; its own are channels, dropout"),
        ({"dropout": "much"}, r"argument dropout: Input should be a valid number"),
        ({"dropout": "1.5"}, r"argument dropout: Input should be less than 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=f"^architecture unet: {why}"):
        checked_arguments("unet", {"in_channels": 3, "num_classes": 2, **arguments})


def test_arguments_from_the_command_line_become_what_they_mean_with_all_defaults() -> None:
    found = checked_arguments("conv1", {"in_channels": 3, "num_classes": 2, "kernel_px": "5"})
    assert found == {"in_channels": 3, "num_classes": 2, "kernel_px": 5, "kernel_planes": None}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_says_what_it_is(name: str) -> None:
    entry = ARCHITECTURES[name]
    assert entry.title
    assert entry.family
    assert entry.use
    assert all(field.description for field in entry.arguments.model_fields.values())
