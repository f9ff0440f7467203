"""Options: a stage's config model -> options of its command, and back. So the two cannot drift apart."""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from segcore.config import StageConfig, build_config, load_yaml, unknown_key
from segcore.errors import ConfigError

StageT = TypeVar("StageT", bound=StageConfig)

POSITIONAL = frozenset({"sources"})
"""Fields that are given without an option's name: `segcore ingest a.tif b.tif`."""


FLOWS_ONLY = frozenset({"failures", "stages"})
"""Fields that a flow fills from earlier stages; no option."""


@dataclass(frozen=True)
class Switches:
    """What every command has beside its config: how to speak, not what to do."""

    json: bool = False
    """One JSON object on stdout, everything else on stderr."""
    prefect: bool = False
    """Run as a Prefect flow, visible in its pages."""
    debug: bool = False
    """Tracebacks, and what libraries say."""


JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
DEBUG = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the warnings of libraries.")]
PREFECT = Annotated[bool, typer.Option("--prefect", help="Run as a Prefect flow, so that it shows in Prefect's pages.")]
CONFIG = Annotated[
    str | None, typer.Option("--config", metavar="FILE.yaml", help="Settings of this stage; options win over it.")
]


def stage_command(
    config: type[StageT],
    run: Callable[[StageT, Switches], None],
    *,
    text: str,
    prefect: bool = True,
    shows: Mapping[str, Any] | None = None,
) -> Callable[..., None]:
    """A function for typer whose parameters are the config's fields; it checks them and calls `run`.

    Args:
        config: the stage's config model.
        run: gets the merged config and the switches.
        text: what `--help` says first.
        prefect: whether the command has `--prefect`.
        shows: options that print something and leave, by name: their annotations.
    """
    shows = shows or {}

    def command(**given: Any) -> None:
        for name in shows:
            del given[name]
        switches = Switches(given.pop("json"), given.pop("prefect", False), given.pop("debug"))
        run(merged_config(config, given.pop("config"), given), switches)

    fields = {name: field for name, field in config.model_fields.items() if name not in FLOWS_ONLY}
    annotations = {name: parameter_type(name, field) for name, field in fields.items()}
    annotations |= {**shows, "config": CONFIG}
    annotations |= ({"prefect": PREFECT} if prefect else {}) | {"json": JSON, "debug": DEBUG}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if name in ("prefect", "json", "debug", *shows) else None,
            annotation=annotation,
        )
        for name, annotation in annotations.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = annotations
    command.__doc__ = text
    return command


def merged_config(config: type[StageT], file: str | None, given: Mapping[str, Any]) -> StageT:
    """Settings of a file, with those given on the command line laid over them.

    Raises:
        ConfigError: what is wrong, and whether in the file or in the options.
    """
    values = load_yaml(file) if file else {}
    for key in values:
        if key not in config.model_fields:
            raise ConfigError(f"{file}: {unknown_key(str(key), list(config.model_fields))}")
    options = {name: value for name, value in given.items() if value not in (None, [], ())}
    for name, value in options.items():
        if isinstance(value, str) and get_origin(config.model_fields[name].annotation) is tuple:
            options[name] = value.split(",")  # --channels 16,32,64
        if get_origin(config.model_fields[name].annotation) is dict:
            options[name] = dict(named_value(name, item) for item in value)
    for name, field in config.model_fields.items():
        if field.is_required() and name not in values and name not in options:
            raise ConfigError(f"--{name} is missing: {' '.join((field.description or name).split())}")
    if file and not options:
        return build_config(config, values, file)
    return build_config(config, values | options, f"the options and {file}" if file else "the options")


def named_value(option: str, item: str) -> tuple[str, str]:
    """`NAME=VALUE` taken apart; names may hold any character.

    Raises:
        ConfigError: if it has no `=`.
    """
    name, equals, value = item.rpartition("=")
    if not equals:
        raise ConfigError(f"--{option.replace('_', '-')} {item}: expected NAME=VALUE")
    return name, value


def parameter_type(name: str, field: FieldInfo) -> Any:
    """The annotation from which typer makes one option (or argument).

    Every option defaults to None, "not given", so that a file's value is not overruled by a default.
    """
    plain = without_none(field.annotation)
    text = " ".join((field.description or "").split())
    if field.is_required():
        text = f"{text} [required]"
    if default := shown_default(field):
        text = f"{text} [default: {default}]".lstrip()
    if name in POSITIONAL:
        return Annotated[list[str] | None, typer.Argument(metavar=name.upper(), help=text, show_default=False)]
    flag = f"--{name.replace('_', '-')}"
    if plain is bool:
        return Annotated[
            bool | None, typer.Option(f"{flag}/--no-{name.replace('_', '-')}", help=text, show_default=False)
        ]
    if get_origin(plain) is dict:
        help_text = f"{text} Repeat for more."
        return Annotated[
            list[str] | None, typer.Option(flag, metavar="<name=value>", help=help_text, show_default=False)
        ]
    if get_origin(plain) is tuple:
        if get_args(plain) == (str, str):
            return Annotated[tuple[str, str] | None, typer.Option(flag, metavar="A B", help=text, show_default=False)]
        if get_args(plain)[0] is int:
            return Annotated[str | None, typer.Option(flag, metavar="<int,...>", help=text, show_default=False)]
        words = get_args(get_args(plain)[0])
        metavar = f"<{'|'.join(words)}>" if words else "<str>" if get_args(plain)[0] is str else "<number>"
        help_text = f"{text} Repeat for more."
        return Annotated[list[str] | None, typer.Option(flag, metavar=metavar, help=help_text, show_default=False)]
    if words := words_or_number(plain):
        return Annotated[
            str | None, typer.Option(flag, metavar=f"<{'|'.join(words)}|int>", help=text, show_default=False)
        ]
    return Annotated[plain | None, typer.Option(flag, help=text, show_default=False)]


def shown_default(field: FieldInfo) -> str:
    """The default as help shows it; empty where there is none to show."""
    default = field.default
    if default in (PydanticUndefined, None, (), {}, ""):
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(str(part) for part in default) if isinstance(default, tuple) else str(default)


def words_or_number(annotation: Any) -> tuple[str, ...]:
    """The words of `Literal[...] | int`, which the config itself tells from a number; () for any other type."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    literals = [kind for kind in kinds if get_origin(kind) is Literal]
    return get_args(literals[0]) if len(kinds) == 2 and len(literals) == 1 and int in kinds else ()


def without_none(annotation: Any) -> Any:
    """`X` of `X | None`; anything else as it is."""
    if words_or_number(annotation):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        assert len(kinds) == 1, f"an option needs one type, got {annotation}"
        return kinds[0]
    assert get_origin(annotation) in (None, tuple, dict, Literal), f"no option for {annotation}"
    return annotation
