"""Reference: what the docs say of commands and formats, made from these themselves by `make reference`.

docs/commands.md is made whole; the table of formats stands between marks in README.md and docs/formats.md. Tests hold
pages and code together.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from flows.cli import COMMANDS, app
from segcore.sources import readers

ROOT = Path(__file__).parents[1]
COMMANDS_PAGE = ROOT / "docs" / "commands.md"
FORMATS_PAGES = (ROOT / "README.md", ROOT / "docs" / "formats.md")

BEGIN, END = "<!-- formats -->", "<!-- /formats -->"
"""Around the table of formats; what stands between them is made anew."""

HEADING = """# Commands

Made by `make reference` from the commands themselves. What all have in common:

- Options are the settings of the stage; the same names stand in a YAML file (`--config`) and in Prefect's form.
  An option wins over the file. `segcore config show STAGE` prints the merged result.
- `--json` prints one object on stdout: `stage`, `state` (`done`, `partly`, `failed`), `paths`, `scores` where there
  are any, `seconds`, `peak_mib`, and what became of each source (`sources`) or image (`images`). All else is on stderr.
  That of `view` comes when it can be asked: its state is `serving`, and it has a `url`.
- Exit codes: 0 all done, 1 failed, 2 wrong usage, 3 partly done; 130 after Ctrl-C.
- An error is one line: what failed and where, what was expected, what to do. `--debug` adds the traceback.
"""


def walk() -> Iterator[tuple[str, Any, typer.Context]]:
    """Every command, groups included: its words, the command, a context to ask it for help."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="segcore")
    for name in COMMANDS:
        _, command, _ = root.resolve_command(context, [name])  # type: ignore[attr-defined]
        yield from walk_below(command, typer.Context(command, parent=context, info_name=name))


def walk_below(command: Any, context: typer.Context) -> Iterator[tuple[str, Any, typer.Context]]:
    """A command and, if it is a group, all below it."""
    yield context.command_path, command, context
    for name, below in getattr(command, "commands", {}).items():
        yield from walk_below(below, typer.Context(below, parent=context, info_name=name))


def described_elsewhere(path: str) -> bool:
    """`config show STAGE` has the options of the stage itself."""
    return path.startswith("segcore config show ")


def reference() -> str:
    """The page: one section per command with the text of `--help`, 80 columns wide."""
    sections = [HEADING]
    for path, command, context in walk():
        if described_elsewhere(path):
            continue
        context.terminal_width = context.max_content_width = 80
        sections.append(f"## {path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(sections)


def formats_table() -> str:
    """One row per format of every reader, in the order in which the readers are asked."""
    rows = ["| format | file names | extra | notes |", "| --- | --- | --- | --- |"]
    for reader in readers():
        for found in reader.formats:
            names = " ".join(f"`{suffix}`" for suffix in found.suffixes) or "any"
            extra = f"`{reader.extra}`" if reader.extra else ""
            notes = "; ".join(note for note in (found.note, "" if found.tested else "not tested here") if note)
            rows.append(f"| {found.name} | {names} | {extra} | {notes.replace('|', '/')} |")
    return "\n".join(rows)


def with_formats(page: str) -> str:
    """A page with the table between its marks.

    Raises:
        ValueError: if it has no such marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected a page with {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{formats_table()}\n\n{END}{after}"


def write_all() -> None:
    """Bring all pages up to date."""
    COMMANDS_PAGE.write_text(reference(), encoding="utf-8")
    for page in FORMATS_PAGES:
        page.write_text(with_formats(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_all()
