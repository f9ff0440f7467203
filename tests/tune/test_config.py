"""What is searched, as it is written: read exactly, and refused with the reason."""

from typing import Any

import pytest

from segcore.config import TrainConfig, TuneConfig, build_config
from segcore.config.tune import DEFAULT_SEARCH, SEARCHABLE, Choices, Range
from segcore.errors import ConfigError


def config(**settings: Any) -> TuneConfig:
    return build_config(TuneConfig, {"workspace": "w", **settings})


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("learning_rate", "1e-4..1e-2:log", Range(1e-4, 1e-2, log=True, whole=False)),
        ("foreground_share", "0..0.3", Range(0.0, 0.3, log=False, whole=False)),
        ("tile_px", "64 | 128", Choices(("64", "128"))),
        ("batch", "2..8:log", Range(2, 8, log=True, whole=True)),
        ("channels", "4,8|8,16", Choices(("4,8", "8,16"))),
        ("schedule", "poly|cosine", Choices(("poly", "cosine"))),
        ("augment", "true|false", Choices(("true", "false"))),
        ("loss.dice", "0..2", Range(0.0, 2.0, log=False, whole=False)),
        ("augments.flip", "0..0.5", Range(0.0, 0.5, log=False, whole=False)),
        ("class_weights.a.b", "1..2", Range(1.0, 2.0, log=False, whole=False)),
    ],
)
def test_what_is_searched_is_read(name: str, text: str, place: Any) -> None:
    assert config(search={name: text}).space == {name: place}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("learning_rat", "1..2", r"'learning_rat' is nothing that can be searched: did you mean 'learning_rate'\?"),
        ("seed", "1..2", r"'seed' is nothing that can be searched: what can be: architecture, arguments, "),
        ("learning_rate", "a..2", r"learning_rate=a\.\.2: expected two floats, LOW\.\.HIGH or LOW\.\.HIGH:log"),
        ("batch", "1.5..3", r"batch=1\.5\.\.3: expected two ints"),
        ("learning_rate", "0..2:log", r"with LOW above 0 below HIGH"),
        ("learning_rate", "2..1", r"with LOW below HIGH"),
        ("learning_rate", "1..2:lin", r"expected LOW\.\.HIGH or LOW\.\.HIGH:log"),
        ("weight_decay", "-1..1", r"weight_decay=-1\.0: Input should be greater than or equal to 0"),
        ("channels", "4..8", r"channels=4\.\.8: expected choices, A\|B\|C, since it is no number"),
        ("channels", "4,8|x", r"channels=x: Input should be a valid integer"),
        ("tile_px", "64", r"tile_px=64: expected LOW\.\.HIGH, LOW\.\.HIGH:log or A\|B\|C"),
        ("tile_px", "16|64", r"tile_px=16: Input should be greater than or equal to 32"),
        ("loss", "0..2", r"expected loss\.NAME, got 'loss'"),
        ("loss.foo", "0..2", r"loss\.foo=0\.0: Input should be 'ce', 'bce'"),
        ("augments.flip", "0..2", r"augments\.flip=2\.0: Input should be less than or equal to 1"),
        ("ema.x", "0..1", r"expected ema, got 'ema\.x'"),
        ("freeze", "0..0.5", r"freeze=0\.5: freeze: an encoder that begins with random weights"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_reason(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^the options: search: [^\n]*{message}[^\n]*$"):
        config(search={name: text})


def test_by_default_what_has_no_value_is_searched() -> None:
    assert config().searched == DEFAULT_SEARCH
    given = config(channels=(4, 8), loss={"ce": 1}, architecture="unet")
    assert list(given.searched) == ["learning_rate", "weight_decay", "foreground_share", "tile_px"]
    assert config(optimizer="sgd").searched["learning_rate"] == "5e-3..0.2:log"
    assert "channels" not in config(architecture="conv1").searched
    assert {name.partition(".")[0] for name in DEFAULT_SEARCH} <= set(SEARCHABLE) <= set(TrainConfig.model_fields)
    fixed = {"learning_rate": 1, "weight_decay": 0, "foreground_share": 0, "loss": {"ce": 1}, "tile_px": 64}
    with pytest.raises(ConfigError, match="search: every setting that is searched by default has a value"):
        config(channels=(4, 8), **fixed)


def test_values_are_laid_over_what_is_given() -> None:
    study = config(name="n", trials=3, study="s", augments={"blur": 0.5}, batch=4)
    values = {"learning_rate": 0.01, "loss.dice": 0.5, "channels": "4,8", "augments.noise": 0.1, "tile_px": "64"}
    settings = study.train_settings(values, {"loss": {"ce": 1.0, "dice": 1.0}})
    assert settings == {
        "workspace": "w",
        "name": "n",
        "augments": {"blur": 0.5, "noise": 0.1},
        "batch": 4,
        "learning_rate": 0.01,
        "loss": {"ce": 1.0, "dice": 0.5},
        "channels": ["4", "8"],
        "tile_px": "64",
    }
    assert build_config(TrainConfig, settings).channels == (4, 8)
    given = config(loss={"ce": 2}, search={"loss.dice": "0..1"}).train_settings(
        {"loss.dice": 0.5}, {"loss": {"bce": 1}}
    )
    assert given["loss"] == {"ce": 2, "dice": 0.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"run": "r"}, "run: a study names its runs itself; give study: r"), ({"folds": 3}, "folds: trials are compared")],
)
def test_what_a_study_has_no_use_for_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**settings)
