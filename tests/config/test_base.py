"""Configs from YAML: its words for yes and no where a setting has the words on and off."""

from pathlib import Path

import pytest

from segcore.config import IngestConfig, PredictConfig, ScoreConfig, build_config
from segcore.config.base import StageConfig, load_yaml
from segcore.errors import ConfigError


def _built(stage: type[StageConfig], path: Path, text: str) -> StageConfig:
    path.write_text(f"workspace: w\n{text}\n", encoding="utf-8")
    return build_config(stage, load_yaml(str(path)), str(path))


def test_on_and_off_of_yaml_are_the_words(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    assert _built(ScoreConfig, path, "model: m\nboundary: off").boundary == "off"  # type: ignore[attr-defined]
    assert _built(ScoreConfig, path, "model: m\nboundary: on").boundary == "on"  # type: ignore[attr-defined]
    found = _built(PredictConfig, path, "model: m\ncompile: off\noverwrite: on")
    assert (found.compile, found.overwrite) == ("off", True)  # type: ignore[attr-defined]


def test_a_word_that_the_setting_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"foreground: Input should be 'auto', 'otsu', 'nodata' or 'off'"):
        _built(IngestConfig, tmp_path / "c.yaml", "sources: [a.tif]\nforeground: on")
