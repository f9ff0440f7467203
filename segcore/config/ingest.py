"""Ingest: what the stage is asked for."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from segcore.config.base import SpreadConfig, checked_spacing
from segcore.until import checked_until


def escaped(name: Any) -> Any:
    """A file name that can be printed and stored: bytes in it that are not UTF-8 become `\\udc..`."""
    return name.encode(errors="backslashreplace").decode() if isinstance(name, str) else name


def parse_shares(text: str) -> tuple[float, float, float]:
    """Shares of train, val and test from `80/10/10` or `0.8/0.2`; they are normalised, a missing one is 0.

    Raises:
        ValueError: if these are no such numbers.
    """
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= 3 or min(numbers) < 0 or not 0 < sum(numbers) < float("inf"):
        raise ValueError(f"expected shares of train/val/test such as 80/10/10, got '{text}'")
    train, val, test = (*numbers, 0.0)[:3]
    total = train + val + test
    return train / total, val / total, test / total


class IngestConfig(SpreadConfig):
    """Sources -> images in the workspace, with their targets."""

    sources: tuple[Annotated[str, BeforeValidator(escaped)], ...] = ()
    """Files, globs, folders or URLs to ingest."""
    manifest: str | None = None
    """CSV with the columns source, target, target_values, aoi, valid, split, group, and any metadata; paths relative to
    the file."""
    targets: str | None = None
    """Pattern of each source's target; `{stem}` is the source's name without suffix, `{parent}` its folder. One
    file per class: `axon={parent}/{stem}_axon.png;myelin={parent}/{stem}_myelin.png`."""
    aoi: str | None = None
    """Pattern of each source's area of interest, like `targets`: polygons, or a mask; outside it targets are ignore."""
    classes: str | None = None
    """Class table (CSV, YAML or JSON): id, name, color; RGB-coded targets are read by its colours. Or a built-in one:
    cityscapes, cityscapes-train, pascal-voc, camvid."""
    ids: Literal["name", "hash"] = "name"
    """`hash` keeps the sources' names out of image ids, and so out of what names images by them. The workspace's own
    metadata and `--json` still hold each source's path; a source that fails or is gone is named."""
    stack: bool = False
    """The files of one folder, or of one pattern, are the bands of one image (Sentinel-2: one file per band)."""
    mosaic: bool = False
    """The files of one folder, or of one pattern, are neighbouring pieces of one georeferenced image."""
    frames: bool = False
    """The files of one folder, or of one pattern, are the frames of one sequence, in the order of their names."""
    spacing: str | None = None
    """Resample to this size of a pixel: 0.5 in the source's own unit, or 0.5um, 10m; where a source does not tell
    its own, take this for it."""
    warp: bool = False
    """Warp files that have ground-control points instead of a transform; else they are refused."""
    array_axes: str | None = Field(default=None, pattern=r"^[tczyx]{2,5}$")
    """Axes of NPY and HDF5 arrays, e.g. zyx or yxc; guessed where not given."""
    target_values: Literal["classes", "objects"] | None = None
    """What the pixel values of masks are: class ids, or object numbers (0 is background). Where not given: class ids,
    unless they look like object numbers; these are refused."""
    threshold: float | None = None
    """Grey targets: values above it are class 1, others class 0."""
    tolerance: int = Field(default=0, ge=0, le=64)
    """RGB-coded targets: how far a colour may be from its class's, in each channel (JPEG noise)."""
    buffer: float = Field(default=0.0, ge=0)
    """Lines and points of vector targets are widened by this on every side, in the unit of the image's spacing."""
    class_property: str | None = None
    """Property of vector targets that names the class; found by itself where not given."""
    link: bool = False
    """Leave the pixels where they are: the image holds metadata only, and reads go to the source."""
    copy_source: bool = False
    """Copy the source byte for byte into the workspace, and link the image to the copy."""
    foreground: Literal["auto", "otsu", "nodata", "off"] = "auto"
    """Where it is worth looking, kept as a label: `otsu` (coloured tissue), `nodata` (all that is usable)."""
    split: str | None = None
    """Shares of train/val/test, e.g. 80/10/10, for sources to which the manifest gives none; a group stays together."""
    split_seed: int = 0
    """Another one, another split (of groups that have none yet)."""
    group: str | None = None
    """Regular expression; its first parentheses match a source's group in its path (a patient, a scene)."""
    quiet_minutes: float = Field(default=0.0, ge=0)
    """A file that changed within so many minutes is still being written: it waits for the next run. One whose time
    lies further than that in the future does not wait."""
    limits: tuple[str, ...] = ()
    """What a file may ask for, NAME=NUMBER: max_px, max_channels, max_pages, max_tile_bytes, max_whole_px..."""
    overwrite: bool = False
    """Rewrite images that exist under another plan, and make lost shards again."""
    shard_px: int = Field(default=2048, ge=256, multiple_of=256)
    """Side of a shard, the unit of writing, in px."""
    ngff: Literal["0.5", "0.4"] = "0.5"
    """OME-NGFF version of new images and of all masks beneath them: 0.5 (sharded), or 0.4 for QuPath."""
    processes: int = Field(default=0, ge=0)
    """Decoding processes; 0 = one per core."""
    open_deadline_s: float = Field(default=60.0, gt=0)
    """A source that takes longer to open is refused."""
    read_deadline_s: float = Field(default=120.0, gt=0)
    """A source of which one shard takes longer to decode is refused."""
    memory_mib: int = Field(default=1024, ge=256)
    """Memory that decoding one source may take, over the decoder's own."""
    until: str | None = None
    """Take no new work after this time of day (`06:00`, `06:00 Europe/Berlin`) or moment; what is left is for the next
    call."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""

    @model_validator(mode="after")
    def _have_sources(self) -> Self:
        if not self.sources and self.manifest is None:
            raise ValueError("nothing to ingest: give sources, or a manifest")
        if self.manifest is not None and (self.sources or self.targets or self.aoi):
            raise ValueError("a manifest names sources and targets itself: give either it, or sources and targets")
        if self.aoi is not None and self.manifest is None and self.targets is None:
            raise ValueError("aoi says where targets count: give targets too")
        if sum((self.stack, self.mosaic, self.frames)) > 1:
            raise ValueError("give one of stack, mosaic and frames: files are joined in one way")
        if self.target_values == "objects" and self.threshold is not None:
            raise ValueError("threshold makes grey levels one class; object numbers need none: give one of the two")
        if self.link and self.copy_source:
            raise ValueError("give link, or copy_source, which links to a copy")
        return self

    @field_validator("split")
    @classmethod
    def _is_a_split(cls, text: str | None) -> str | None:
        if text is not None:
            parse_shares(text)
        return text

    @field_validator("group")
    @classmethod
    def _has_one_group(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and re.compile(pattern).groups < 1:
                raise ValueError("expected a regular expression with one group in parentheses: 'patient(\\d+)'")
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from error
        return pattern

    _is_a_spacing = field_validator("spacing")(checked_spacing)
    _is_a_moment = field_validator("until")(checked_until)
