"""`segcore models`: which networks there are, and what each is good for."""

import json
import re
from typing import Annotated, Any

import typer

from flows.console import progress_on_stderr, stdout_kept_clean
from flows.options import DEBUG, JSON
from segcore.measure import Peak


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(models)
    return typer.main.get_command(app)


def models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Show these alone, with their arguments; none = list all.")
    ] = None,
    zoo: Annotated[
        bool, typer.Option("--zoo", help="Also the names that the extra `zoo` adds: smp.* and timm.*.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also time each on this machine: seconds for each.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where --measure runs: auto, cpu, cuda or mps.")] = "auto",
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """List the networks that `segcore train --architecture` knows, with what each is good for."""
    with stdout_kept_clean(), progress_on_stderr() as progress, Peak() as peak:
        from segcore.inference.numerics import resolve_device
        from segcore.models import ARCHITECTURES
        from segcore.models.listing import described, measured_speed, zoo_listed

        rows = [described(name) for name in names or ARCHITECTURES]
        if measure:
            where = resolve_device(device)
            here = [row for row in rows if not row["missing"]]
            progress.start("models", len(here), "networks")
            for row in here:
                row |= {"device": str(where), **measured_speed(row["name"], where)._asdict()}
                progress.advance()
        listed = zoo_listed() if zoo else {}
    if json_:
        done = {"stage": "models", "state": "done", "paths": [], "seconds": peak.seconds, "peak_mib": peak.mib}
        typer.echo(json.dumps(done | {"models": rows, **({"zoo": listed} if zoo else {})}))
        return
    for line in (line for row in rows for line in in_full(row)) if names else as_table(rows):
        typer.echo(line)
    for what, found in listed.items():
        typer.echo(f"\n{what}:")
        for line in [found] if isinstance(found, str) else found:
            typer.echo(f"  {line}")


def as_table(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each, and one below it that says when to choose it."""
    width = max(len(row["name"]) for row in rows)
    lines = []
    for row in rows:
        context = "all of the tile" if row["context_px"] is None else f"{row['context_px']} px"
        speed = f"  {row['mpx_per_s']:.2f} Mpx/s  {row['ms_per_frame']:.0f} ms/frame" if "mpx_per_s" in row else ""
        size = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "-"
        lines.append(
            f"{row['name']:{width}}  {row['family']:19}  {''.join(row['axes']):3}  {size:>8}  "
            f"stride {row['stride']:2}  sees {context}{speed}"
        )
        lines.append(f"{'':{width}}  {row['use']}{after(row['paper'])}")
        if row["missing"]:
            lines.append(f"{'':{width}}  {row['missing']}")
    exact = (
        "Where a network sees all of the tile no halo is enough: its masks depend on the tiles' size (docs/halo.md)."
    )
    return [
        *lines,
        "",
        "M: millions of weights, as the arguments stand; `segcore train` chooses channels and norm to suit the images.",
        exact,
        "`segcore models NAME` shows a network's arguments, its paper and more; --zoo lists those of other libraries.",
    ]


def after(paper: str) -> str:
    """The paper in short: its first author and its year."""
    years = re.findall(r"\b(?:19|20)\d\d\b", paper)
    return f" ({paper.split(',')[0]}, {years[-1]})" if years else ""


def in_full(row: dict[str, Any]) -> list[str]:
    """All of one."""
    tiling = "depends on the size of the tile, all of which it sees"
    if row["tiling_is_exact"]:
        tiling = f"exact with a halo of {row['context_px']} px"
    told = {
        "paper": row["paper"],
        "tiling": tiling,
        "weights": f"{row['parameters']:,}, of {row['classes']} classes and {row['bands']} bands"
        if row["parameters"]
        else "none: its arguments take their place",
        "tiles": f"{', '.join(row['axes'])}; y and x are multiples of {row['stride']}",
        "train": f"chooses {' and '.join(row['chosen'])}, where not given" if row["chosen"] else "",
    }
    if "mpx_per_s" in row:
        told["speed"] = f"{row['mpx_per_s']:.2f} Mpx/s, {row['ms_per_frame']:.0f} ms a 1080p frame on {row['device']}"
    lines = [f"{row['name']}: {row['title']}", f"  {row['use']}", *([f"  {row['missing']}"] if row["missing"] else [])]
    lines += [f"  {what:8} {text}" for what, text in told.items() if text]
    for name, argument in row["arguments"].items():
        lines += [f"  --arguments {name}={shown(argument['default'])}", f"           {argument['meaning']}"]
    return lines


def shown(default: Any) -> str:
    """As it would be given."""
    return ",".join(map(str, default)) if isinstance(default, list) else str(default)
