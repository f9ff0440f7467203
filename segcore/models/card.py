"""Card: the README.md of a model package, for the person who wonders what this model is and whether to trust it."""

import html
from typing import Any

from segcore.models.info import InputContract, PackageInfo

PICTURE = "example.png"
"""Beside the card, where there is one."""
CLASS_SCORES = ("iou", "dice", "precision", "recall")


def model_card(info: PackageInfo, has_picture: bool = False) -> str:
    """The card as markdown; names from outside are escaped."""
    contract = info.contract
    spacing = "unknown" if contract.spacing is None else _spacing(contract.spacing.values, contract.spacing.unit)
    planes = f"{contract.tile_planes} + {contract.halo_planes}, multiples of {contract.stride_planes}"
    objects = "" if info.instances is None else ", and numbers the objects"
    lines = [
        f"# {_cell(info.name)}",
        "",
        f"A segmentation model ({_cell(info.architecture.architecture)}) made with segcore {_cell(info.code_version)}.",
        f"It gives each pixel one of the classes below{objects}. Trust it on images like those that it was trained on,",
        "and score it on some of yours before you rely on it.",
        "",
        "## Classes",
        "",
        *_table(("id", "name", "colour"), [(c.id, c.name, f"#{bytes(c.color).hex()}") for c in info.classes]),
        "",
        "## Input",
        "",
        *_table(
            ("property", "expected"),
            [
                ("bands, in order", ", ".join(contract.bands)),
                ("type", contract.dtype),
                ("pixel size", spacing),
                ("pyramid level", contract.level),
                ("normalisation", "(pixel - mean) / std per band, in the image's own values"),
                ("mean", ", ".join(f"{value:.6g}" for value in contract.mean)),
                ("std", ", ".join(f"{value:.6g}" for value in contract.std)),
                ("axes of a tile", ", ".join(contract.axes)),
                ("tile + halo", f"{contract.tile_px} + {contract.halo_px} px, multiples of {contract.stride}"),
                *([("planes + halo", planes)] if len(contract.axes) > 2 else []),
                *([("context", _context(contract))] if contract.is_measured else []),
            ],
        ),
        "",
    ]
    if has_picture:
        told = "A part of a held-out image, its target, and the model's mask; grey is out of score."
        lines += ["## Example", "", told, "", f"![Held-out image, target and mask]({PICTURE})", ""]
    if info.scores:
        lines += ["## Scores on held-out images", "", *_scores(info.scores), ""]
    for title, what, values in (
        ("Training data", "what", info.data),
        ("Training settings", "setting", info.training),
    ):
        if values:
            lines += [f"## {title}", "", *_table((what, "value"), list(_flat(values))), ""]
    lines += [
        "## Use",
        "",
        "    segcore predict --workspace WORKSPACE --model THIS_FOLDER",
        "",
        "Weights are in `model.safetensors` (no pickle), all else in `model.json`;",
        "`sha256sum -c SHA256SUMS` checks all of them.",
        "",
    ]
    return "\n".join(lines)


def _scores(scores: dict[str, Any]) -> list[str]:
    """One table of all classes together, and one with a row for each."""
    classes = scores.get("classes", {})
    per_class = classes if all(isinstance(row, dict) for row in classes.values()) else {}
    lines = _table(("what", "value"), list(_flat({k: v for k, v in scores.items() if k != "classes" or not per_class})))
    if per_class:
        shown = [name for name in CLASS_SCORES if any(name in row for row in per_class.values())]
        rows = [(name, *(_number(row.get(score)) for score in shown)) for name, row in per_class.items()]
        lines += ["", *_table(("class", *shown), rows)]
    return lines


def _context(contract: InputContract) -> str:
    if contract.global_context:
        return "the whole tile: its masks need --blend gaussian"
    planes = f", {contract.receptive_planes} planes" if len(contract.axes) > 2 else ""
    return f"{contract.receptive_px} px{planes}, which is --halo exact"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    return [f"| {' | '.join(_cell(value) for value in row)} |" for row in (head, ("---",) * len(head), *rows)]


def _cell(value: Any) -> str:
    """Text that cannot leave its table cell, nor be read as HTML or as a link."""
    text = " ".join(str(value).split())
    for mark in "\\`*_[]|":
        text = text.replace(mark, f"\\{mark}")
    return html.escape(text, quote=False)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows "a.b" -> value; ratios to four digits."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _number(value)))
    return rows


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _spacing(values: dict[str, float], unit: str) -> str:
    return ", ".join(f"{axis} {size:.6g} {unit}" for axis, size in values.items())
