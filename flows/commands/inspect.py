"""`segcore inspect FILE...`: what segcore sees in a file, before anything is copied, and what an ingest would take."""

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from flows.console import STATES, count, duration, named_error, size, stdout_kept_clean
from flows.options import DEBUG, JSON
from flows.tables import shown
from segcore.measure import Peak
from segcore.results import ItemResult, exit_code

SPACING = Annotated[
    str | None, typer.Option("--spacing", help="As in ingest: the spacing wanted, or of files that tell none.")
]
AXES = Annotated[
    str | None, typer.Option("--array-axes", help="As in ingest: axes of NPY and HDF5 arrays, e.g. zyx or yxc.")
]
WARP = Annotated[bool, typer.Option("--warp", help="As in ingest: warp files that have ground-control points.")]

ORIGINS = {"file": "from the file", "user": "given by you"}
"""Where a spacing came from; others say it themselves: "resampled from ..."."""

UNITS = {"micrometer": "µm", "millimeter": "mm", "centimeter": "cm", "meter": "m", "kilometer": "km", "degree": "deg"}
MAX_MEMBERS_SHOWN = 50


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(inspect_files)
    return typer.main.get_command(app)


def inspect_files(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files or URLs.", show_default=False)],
    spacing: SPACING = None,
    array_axes: AXES = None,
    warp: WARP = False,
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Show how segcore reads files: size, levels, type, channels, spacing, georeference; and what an ingest would take.

    Files are opened in a child process with limits, as ingest opens them: a broken one costs a line, no crash.
    """
    from segcore.config import IngestConfig, build_config

    asked = {"spacing": spacing, "array_axes": array_axes, "warp": warp}
    build_config(IngestConfig, {"workspace": ".", "sources": files, **asked}, "the options")  # checks what was asked
    with stdout_kept_clean(), Peak() as peak:
        items = described(files, asked)
    code = exit_code(items)
    if json_:
        listed = [item.model_dump(mode="json", exclude_none=True) for item in items]
        found = {"stage": "inspect", "state": STATES[code], "paths": [], "seconds": peak.seconds, "peak_mib": peak.mib}
        typer.echo(json.dumps(found | {"sources": listed}))
    else:
        for item in items:
            typer.echo(named_error(item) if item.error else item.source)
            told = [] if item.error else list(lines(item.details))
            width = max((len(label) for label, _ in told), default=0)
            for label, text in told:
                typer.echo(f"  {label:{width}}  {text}")
    raise typer.Exit(code)


def described(files: list[str], asked: dict[str, Any]) -> list[ItemResult]:
    """What each file is, or why it is refused; in the order given."""
    from segcore.isolation import ChildPool, Task

    tasks = [Task(describe, (file, asked), label=file) for file in files]
    with ChildPool(processes=1) as pool:
        outcomes = {id(outcome.task): outcome for outcome in pool.run(tasks)}
    items = []
    for task in tasks:
        outcome = outcomes[id(task)]
        if outcome.error is None:
            items.append(ItemResult(state="done", source=task.label, details=outcome.result))
        else:
            items.append(ItemResult(state="failed", source=task.label, error=str(outcome.error)))
    return items


def describe(beat: Callable[..., None], file: str, asked: dict[str, Any]) -> dict[str, Any]:
    """In the child: open one file; its `SourceInfo` as JSON and the estimate, or the members that it holds."""
    from segcore.config import IngestConfig
    from segcore.ingest.layout import estimate
    from segcore.ingest.sample import compressed_share
    from segcore.ingest.tasks import Probe
    from segcore.measure import num_cores
    from segcore.sources import Opening, members, open_source, uri_of
    from segcore.spatial import WantedSpacing

    spacing = WantedSpacing.parse(asked["spacing"]) if asked["spacing"] else None
    opening = Opening(spacing=spacing, warp=asked["warp"], axes=asked["array_axes"])
    found = members(file, opening)
    if len(found) > 1:
        return {"members": [uri_of(part) for part in found]}
    with open_source(file, opening) as source:
        beat()
        probe = Probe(info=source.info, has_valid=source.info.has_valid)
        ingest = estimate(probe, IngestConfig(workspace=".", sources=(file,)), num_cores(), compressed_share(source))
        return {**source.info.model_dump(mode="json", exclude_none=True), "ingest": ingest}


def lines(details: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was found, for a person: a label and a text each."""
    if "members" in details:
        found = details["members"]
        yield "holds", f"{len(found)} images; ingest or inspect each by its name:"
        yield from (("", name) for name in found[:MAX_MEMBERS_SHOWN])
        if len(found) > MAX_MEMBERS_SHOWN:
            yield "", f"... and {len(found) - MAX_MEMBERS_SHOWN} more (all with --json)"
        return
    sides = dict(zip(details["axes"], details["shape"], strict=True))
    further = "".join(f", {sides[axis]} {word}" for axis, word in (("z", "planes"), ("t", "times")) if axis in sides)
    yield "size", f"{sides['x']} x {sides['y']} px (width x height){further}; {size(details['num_bytes'])} on disk"
    yield "levels", ", ".join(f"{x} x {y}" for y, x in details["levels"]) or "this one alone; ingest makes the others"
    yield "pixels", f"{details['dtype']}, {count(sides['c'], 'channel')}: {', '.join(details['channels'])}"
    yield "spacing", spacing_text(details.get("spacing"))
    yield from geometry_lines(details)
    nodata = f"{details['nodata']:.10g}" if "nodata" in details else "none told"
    yield "nodata", nodata + ("; the file says which pixels are usable" if details["has_valid"] else "")
    yield "reader", f"{details['reader']} ({details['reader_version']}), axes {' '.join(details['axes'])}"
    told = {key: value for key, value in details["details"].items() if value not in (None, [], "")}
    yield from ((key.replace("_", " "), short(value)) for key, value in told.items() if key != "levels")
    yield "ingest", ingest_text(details["ingest"])


def geometry_lines(details: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the image lies on earth, or in the patient."""
    georef = details.get("georef")
    if georef:
        a, b, c, d, e, f = georef["transform"]
        yield "CRS", crs_text(georef)
        yield "transform", f"x = {a:.10g} col + {b:.10g} row + {c:.10g}, y = {d:.10g} col + {e:.10g} row + {f:.10g}"
    affine = details.get("affine")
    if affine:
        yield "orientation", f"{affine['orientation']} (x, y, z of the array)"
        for index, row in enumerate(affine["matrix"][:3]):
            yield "affine" if index == 0 else "", "  ".join(f"{value:10.4f}" for value in row)


def crs_text(georef: dict[str, Any]) -> str:
    """The name of a CRS, which is the first thing in its WKT, and its EPSG code."""
    wkt = georef.get("crs_wkt") or ""
    name = wkt.split('"')[1] if wkt.count('"') > 1 else "unknown"
    return f"{name} (EPSG:{georef['epsg']})" if georef.get("epsg") else name


def spacing_text(spacing: dict[str, Any] | None) -> str:
    """`0.499 x 0.499 µm (y x x; from the file)`."""
    if spacing is None:
        return "unknown; say it with --spacing, if you know it"
    values = spacing["values"]
    numbers = " x ".join(f"{value:.6g}" for value in values.values())
    origin = ORIGINS.get(spacing["origin"], spacing["origin"])
    return f"{numbers} {UNITS.get(spacing['unit'], spacing['unit'])} ({', '.join(values)}; {origin})"


def ingest_text(estimate: dict[str, Any]) -> str:
    """What an ingest would take."""
    return (
        f"{count(estimate['shards'], 'shard')}, {size(estimate['bytes_uncompressed'])} before compression, about "
        f"{size(estimate['bytes_compressed'])} on disk, {size(estimate['memory_bytes'])} of memory for pixels, about "
        f"{duration(estimate['seconds'])}"
    )


def short(value: Any) -> str:
    """A detail on one line; long ones are whole in the JSON."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else shown(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
