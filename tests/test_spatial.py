"""Lengths that users write."""

import pytest

from segcore.config import ScoreConfig
from segcore.config.base import build_config
from segcore.errors import ConfigError
from segcore.spatial import parse_length


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("2px", (2.0, "px")),
        (" 1.5 px ", (1.5, "px")),
        ("0.5um", (0.5, "micrometer")),
        ("0.5µm", (0.5, "micrometer")),
        ("3m", (3.0, "meter")),
        ("2e-1mm", (0.2, "millimeter")),
    ],
)
def test_parse_length_reads_what_people_write(text: str, length: tuple[float, str]) -> None:
    assert parse_length(text) == length


@pytest.mark.parametrize("text", ["2", "0px", "px", "1deg", "-1um", "2umpx", "two px"])
def test_parse_length_refuses_what_is_no_length(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a length such as 2px, 0.5um or 3m, got"):
        parse_length(text)
    with pytest.raises(ConfigError, match="tolerance: expected a length"):
        build_config(ScoreConfig, {"workspace": "w", "model": "m", "tolerance": text})
