"""Metadata of GDAL datasets: band names, nodata, georeference, spacing, and what `inspect` shows besides."""

import math
from typing import Any

from segcore.errors import SourceError
from segcore.spatial import Georef, Spacing

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
MAX_NAME_LENGTH = 200


def band_names(dataset: Any, bands: list[int]) -> tuple[str, ...]:
    """Band descriptions; else colours, where the file tells them; else numbers. Never the same name twice."""
    colors = {"red": "red", "green": "green", "blue": "blue"}
    if len(bands) == 1:
        colors["gray"] = "grey"
    told = [dataset.descriptions[i - 1] or colors.get(dataset.colorinterp[i - 1].name, f"band {i}") for i in bands]
    names = [name[:MAX_NAME_LENGTH] for name in told]
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in zip(bands, names, strict=True))


def nodata(uri: str, dataset: Any) -> float | None:
    """The one fill value of all bands.

    Raises:
        SourceError: if bands have different ones: an image has one.
    """
    told = {None if value is None else float(value) for value in dataset.nodatavals}
    if len({str(value) for value in told}) > 1:
        values = ", ".join(sorted(str(value) for value in told))
        raise SourceError(f"{uri}: expected one nodata value for all bands, got {values}; save them with one value")
    return next(iter(told), None)


def is_placed_by_points(uri: str, dataset: Any, warp: bool) -> bool:
    """True if the image has to be warped, and may be: it has ground-control points and no transform.

    Raises:
        SourceError: if it must not be warped, or cannot be.
    """
    if tuple(dataset.transform[:6]) != IDENTITY:
        return False
    points, crs = dataset.gcps
    if points and not warp:
        raise SourceError(
            f"{uri}: {len(points)} ground-control points place it, and no transform; "
            "give --warp to warp it to their CRS, or warp it first (gdalwarp)"
        )
    if points and not crs:
        raise SourceError(
            f"{uri}: its {len(points)} ground-control points have no CRS; set one (gdal_translate -a_srs)"
        )
    if not points and dataset.rpcs is not None:
        raise SourceError(
            f"{uri}: rational polynomials (RPCs) place it, and no transform, so that it needs a height model, "
            "which --warp has not; orthorectify it first (gdalwarp -rpc -to RPC_DEM=heights.tif)"
        )
    return bool(points)


def georef(dataset: Any) -> Georef | None:
    """CRS and transform; None if it has neither."""
    transform = tuple(float(v) for v in dataset.transform[:6])
    if dataset.crs is None and transform == IDENTITY:
        return None
    a, b, c, d, e, f = transform
    crs = dataset.crs
    return Georef(
        crs_wkt=crs.to_wkt(version="WKT2_2019") if crs else None,
        epsg=crs.to_epsg() if crs else None,
        transform=(a, b, c, d, e, f),
    )


def spacing(dataset: Any) -> Spacing | None:
    """Pixel size in metres (projected) or degrees (geographic); None without a CRS that tells."""
    crs = dataset.crs
    a, b, _, d, e, _ = dataset.transform[:6]
    if not crs or tuple(dataset.transform[:6]) == IDENTITY:
        return None
    x, y = math.hypot(a, d), math.hypot(b, e)
    if crs.is_geographic:
        return Spacing(values={"y": y, "x": x}, unit="degree", origin="file")
    if crs.is_projected:
        metres = crs.linear_units_factor[1]
        return Spacing(values={"y": y * metres, "x": x * metres}, unit="meter", origin="file")
    return None


def palette(dataset: Any) -> list[list[int]] | None:
    """RGB per value of a raster of one band with a colour table."""
    if dataset.count != 1 or dataset.colorinterp[0].name != "palette":
        return None
    table = dataset.colormap(1)
    return [list(table.get(value, (0, 0, 0))[:3]) for value in range(max(table) + 1)]


def details(dataset: Any, bands: list[int]) -> dict[str, Any]:
    """What `inspect` shows besides. The meaning of a pixel is `scales * pixel + offsets`, per band, where told."""
    profile = dataset.profile
    told: dict[str, Any] = {
        "compression": "jpeg 2000" if dataset.driver == "JP2OpenJPEG" else str(profile.get("compress", "none")),
        "tile": list(dataset.block_shapes[0]),
        "tiled": bool(profile.get("tiled")),
        "crs": dataset.crs.to_string()[:200] if dataset.crs else None,
    }
    scales = [float(dataset.scales[i - 1]) for i in bands]
    offsets = [float(dataset.offsets[i - 1]) for i in bands]
    if any(pair != (1.0, 0.0) for pair in zip(scales, offsets, strict=True)):
        if not all(math.isfinite(value) for value in (*scales, *offsets)):
            raise SourceError(f"{dataset.name}: its scales {scales} and offsets {offsets} are no numbers")
        told |= {"scales": scales, "offsets": offsets}
    colors = palette(dataset)
    return told if colors is None else told | {"palette": colors}
