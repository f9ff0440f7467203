"""Export: chooses the masks and the place, and lets the writer of the format do the rest.

A file is written beside its place and moved there (or, to a remote folder, uploaded) when it is whole, so that
nobody meets half of one. Its name is the image's id, never something from the source. Which mask it holds is stamped
into it, so that a rerun keeps what is right and never takes an old mask for a new one.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.dicom_seg import dicom_seg_stamp, write_dicom_seg
from segcore.export.geojson import geojson_stamp, write_geojson
from segcore.export.geopackage import geopackage_stamp, write_geopackage
from segcore.export.geoparquet import geoparquet_stamp, write_geoparquet
from segcore.export.geotiff import geotiff_stamp, write_cog, write_geotiff
from segcore.export.nifti import nifti_stamp, write_nifti
from segcore.export.ome_tiff import ome_tiff_stamp, write_ome_tiff
from segcore.export.ome_zarr import MARK, ome_zarr_stamp, write_ome_zarr
from segcore.export.output import Output
from segcore.export.png import png_stamp, write_png
from segcore.export.stac import Catalogue, item_name
from segcore.export.stamp import stamp
from segcore.isolation import Beat, Crew, Task
from segcore.measure import Peak
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.selection import Masked, failure, mask_name, select
from segcore.store import Image, Label, Workspace

Writer = Callable[[Image, Label, Path, ExportConfig], dict[str, Any]]
"""Writes a mask to a path of its own choosing; returns numbers worth showing."""

StampReader = Callable[[IO[bytes]], str | None]
"""Finds the stamp in a file that is there already; None where there is none, whatever the file is."""

FORMATS: dict[str, tuple[str, Writer, StampReader]] = {
    "geotiff": (".tif", write_geotiff, geotiff_stamp),
    "cog": (".tif", write_cog, geotiff_stamp),
    "png": (".png", write_png, png_stamp),
    "ome-tiff": (".ome.tif", write_ome_tiff, ome_tiff_stamp),
    "ome-zarr": (".ome.zarr", write_ome_zarr, ome_zarr_stamp),
    "nifti": (".nii.gz", write_nifti, nifti_stamp),
    "dicom-seg": (".dcm", write_dicom_seg, dicom_seg_stamp),
    "geojson": (".geojson", write_geojson, geojson_stamp),
    "geopackage": (".gpkg", write_geopackage, geopackage_stamp),
    "geoparquet": (".parquet", write_geoparquet, geoparquet_stamp),
}

STACKS = {"ome-tiff": "zt", "ome-zarr": "zt", "nifti": "z", "dicom-seg": "z"}
"""Formats that hold more than one plane, and along which axes; the others hold (y, x)."""

MARKS: dict[str, str] = {"ome-zarr": MARK}
"""Formats that are folders, and the file in them that is written last and holds the stamp."""


def export(config: ExportConfig, progress: Progress = SILENT, crew: Crew | None = None) -> StageResult:
    """Write every mask of one name to a file of its own in `config.output`.

    A file that holds this very mask already is kept (state skipped); one that holds anything else is kept too,
    but as a failure, unless `config.overwrite` is set. A failing image is named in `items` and does not stop the
    others.

    Args:
        config: which masks, as what, where to.
        progress: hears of images.
        crew: processes that write the files, for a caller that has some; by default this one does.

    Raises:
        ConfigError: if `config.model` is neither a mask's name nor a model package.
        StoreError: if there is no workspace, no image has the mask, or the output cannot be reached.
    """
    with Peak() as peak:
        workspace = Workspace.open(config.workspace)
        name = mask_name(workspace, config.model)
        chosen = select(workspace, name, config.images)
        progress.start("export", len(chosen), "images")
        items: dict[str, ItemResult] = {}
        for image_id, item in _exported(workspace, chosen, config, crew):
            if item.state == "failed":
                progress.note(item.error or "")
            items[image_id] = item
            progress.advance()
    ordered = tuple(items[masked.image_id] for masked in chosen)
    return StageResult(
        stage="export",
        items=ordered,
        paths=tuple(item.path for item in ordered if item.path is not None),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"mask": name, "format": config.format},
    )


def _exported(
    workspace: Workspace, chosen: Sequence[Masked], config: ExportConfig, crew: Crew | None
) -> Iterator[tuple[str, ItemResult]]:
    """What became of each image, by its id, as they finish."""
    output, catalogue = Output(config.output), Catalogue(workspace, config)
    if crew is None:
        for masked in chosen:
            yield masked.image_id, _with_catalogue(masked, output, catalogue, config)
        return
    for outcome in crew.run(Task(export_image, (config, masked.image_id), masked.image_id) for masked in chosen):
        image_id = outcome.task.label
        failed = ItemResult(state="failed", image=image_id, error=str(outcome.error))
        yield image_id, failed if outcome.error is not None else outcome.result


def export_image(beat: Beat, config: ExportConfig, image_id: str) -> ItemResult:
    """Export one image, in a process that helps."""
    workspace = Workspace.open(config.workspace)
    (masked,) = select(workspace, mask_name(workspace, config.model), (image_id,))
    return _with_catalogue(masked, Output(config.output), Catalogue(workspace, config), config)


def _with_catalogue(masked: Masked, output: Output, catalogue: Catalogue, config: ExportConfig) -> ItemResult:
    item = _export_item(masked, output, config)
    return _catalogued(item, masked, output, catalogue) if config.stac and item.state != "failed" else item


def _export_item(masked: Masked, output: Output, config: ExportConfig) -> ItemResult:
    suffix, write, read_stamp = FORMATS[config.format]
    name = file_name(masked.image_id, suffix)
    path = output.describe(name)
    try:
        image, mask = masked.opened()
        _check_shape(image, mask, config.format)
        mark = MARKS.get(config.format)
        if not config.overwrite and output.exists(name) and not (mark and output.is_unfinished(name)):
            held = _held(output, name if mark is None else f"{name}/{mark}", read_stamp)
            if held == stamp(mask, config):
                reason = f"{path} holds this mask already"
                return ItemResult(state="skipped", image=image.image_id, path=path, details={"reason": reason})
            if held is None or not config.renew:
                raise StoreError(f"{path} holds another mask, or this one in another form; --overwrite replaces it")
        output.remove(item_name(name))  # that of what stood here before
        with output.place(name, mark) as temporary:
            details = write(image, mask, temporary, config)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        return ItemResult(state="failed", image=masked.image_id, error=f"{path}: cannot be written ({reason})")
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        return ItemResult(state="failed", image=masked.image_id, error=failure(masked.image_id, error))
    return ItemResult(state="done", image=image.image_id, source=image.source, path=path, details=details)


def _catalogued(item: ItemResult, masked: Masked, output: Output, catalogue: Catalogue) -> ItemResult:
    """Write the STAC item of a file that is there, unless it was kept and has one."""
    assert item.path is not None, f"image {masked.image_id}: {item.state} without a path"
    name = item.path.rpartition("/")[2]
    path = output.describe(item_name(name))
    try:
        if item.state == "done" or not output.exists(item_name(name)):
            is_folder = catalogue.file_format in MARKS
            with contextlib.nullcontext() if is_folder else output.open(name) as stream:
                documents = catalogue.items(*masked.opened(), name, stream, output.uri)
            for file, document in documents.items():
                with output.place(file) as temporary:
                    temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        return ItemResult(state="failed", image=masked.image_id, error=f"{path}: {failure(masked.image_id, error)}")
    return item.model_copy(update={"details": {**item.details, "stac": path}})


def file_name(image_id: str, suffix: str) -> str:
    """A plain file name: whatever an id holds, it cannot lead out of the folder or hide the file."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", image_id).lstrip(".-") + suffix


def _held(output: Output, name: str, read_stamp: StampReader) -> str | None:
    """The stamp of what is there; None of what is not ours, empty of a folder whose export was killed."""
    if not output.exists(name):
        return ""
    with output.open(name) as stream:
        return read_stamp(stream)


def _check_shape(image: Image, mask: Label, file_format: str) -> None:
    """Refuse a mask that the format cannot hold, or that is not its image's."""
    more = mask.axes[:-2]
    if not set(more) <= set(STACKS.get(file_format, "")):
        fitting = [name for name, axes in STACKS.items() if set(more) <= set(axes)]
        raise StoreError(
            f"image {image.image_id}: {file_format} holds no masks with the axes ({', '.join(mask.axes)}); "
            f"export it as {' or '.join([', '.join(fitting[:-1]), fitting[-1]] if len(fitting) > 1 else fitting)}"
        )
    level = mask.base_level
    expected = tuple(n for axis, n in zip(image.axes, image.shape(level), strict=True) if axis != "c")
    if mask.shape() != expected:
        raise StoreError(
            f"image {image.image_id}: mask {mask.name} has sides {mask.shape()}, expected the image's {expected} "
            f"at level {level}"
        )
