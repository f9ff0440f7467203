"""Settings: what a config asks of every source of a call: how files are opened, and what makes a request another."""

import hashlib
from typing import Any

from segcore.config import IngestConfig
from segcore.ingest.tasks import Settings
from segcore.sources import Limits, Opening
from segcore.spatial import WantedSpacing
from segcore.targets import TargetOpening, load_classes


def settings_of(config: IngestConfig) -> Settings:
    """How the files of a call are opened.

    Raises:
        ConfigError: if the class table or a limit is wrong: one error, and not one per source.
    """
    limits = Limits.parse(config.limits)
    spacing = WantedSpacing.parse(config.spacing) if config.spacing else None
    return Settings(
        opening=Opening(limits=limits, spacing=spacing, warp=config.warp, axes=config.array_axes),
        target=TargetOpening(
            table=load_classes(config.classes, config.tolerance) if config.classes else None,
            threshold=config.threshold,
            tolerance=config.tolerance,
            buffer=config.buffer,
            class_property=config.class_property,
            opening=Opening(limits=limits, indexed=True),
        ),
    )


def options_of(config: IngestConfig, settings: Settings) -> dict[str, Any]:
    """What the config asks for of every image: as part of its request, it decides whether there is anything to do."""
    table, target = settings.target.table, settings.target
    asked = {
        # What it says, not when it was saved: a table written anew makes no target again.
        "classes": hashlib.sha256(table.model_dump_json().encode()).hexdigest() if table else None,
        "target_options": target.model_dump(mode="json", exclude_defaults=True, exclude={"table", "opening"}),
        "opening": settings.opening.model_dump(mode="json", exclude_defaults=True, exclude={"limits"}),
        "kept": "link" if config.link else "copy" if config.copy_source else None,
        "foreground": config.foreground,
    }
    return {key: value for key, value in asked.items() if value}
