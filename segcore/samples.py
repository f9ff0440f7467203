"""Samples: aerial scenes drawn from a seed, with exact truth, so that the main job runs without a download.

    seed -> fields, wood, river, roads, houses -> RGB GeoTIFF + class-id GeoTIFF -> manifest.csv, classes.csv

The scenes are no photographs; they have what makes real ones hard: texture, shadows, haze, sensor noise,
a wedge without data, and classes that share colours (a grey roof and a grey road).
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.draw import polygon

from segcore.classes import IGNORE, ClassInfo

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]

FIELD, WOOD, WATER, ROAD, HOUSE = range(5)

CLASSES = (
    ClassInfo(id=FIELD, name="field", color=(222, 203, 135)),
    ClassInfo(id=WOOD, name="wood", color=(34, 110, 62)),
    ClassInfo(id=WATER, name="water", color=(52, 119, 219)),
    ClassInfo(id=ROAD, name="road", color=(110, 110, 110)),
    ClassInfo(id=HOUSE, name="house", color=(214, 69, 65)),
)

METRES_PER_PX = 0.5
EPSG = 32632
ORIGIN = (600_000.0, 5_700_000.0)
"""Easting and northing of the first scene's corner, in m; the next ones lie east of it."""

CROPS = ((122, 142, 72), (168, 158, 98), (196, 178, 120), (96, 124, 62), (146, 116, 84), (182, 186, 110))
ROOFS = ((158, 74, 58), (176, 92, 70), (118, 116, 118), (186, 182, 176), (96, 66, 58))


@dataclass(frozen=True)
class SceneSpec:
    """One scene: its file name, shape (y, x) in px, seed and split."""

    name: str
    shape: tuple[int, int]
    seed: int
    split: str


SCENES = (
    *(SceneSpec(f"scene_{seed}", (1024, 1024), seed, "train") for seed in (1, 2, 3, 4)),
    SceneSpec("scene_5", (1024, 1024), 5, "val"),
    SceneSpec("scene_6", (1536, 2048), 6, "test"),
)


def write_samples(folder: Path, scenes: tuple[SceneSpec, ...] = SCENES) -> Path:
    """Write scenes, targets, class table and manifest; the same bytes of pixels on every machine.

    Args:
        folder: is created; files of an earlier call are kept, so that their sources count as unchanged.
        scenes: what to draw.

    Returns:
        The manifest, for `ingest`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, spec in enumerate(scenes):
        source, target = folder / f"{spec.name}.tif", folder / f"{spec.name}_target.tif"
        if not (source.exists() and target.exists()):
            rgb, ids = draw_scene(spec.seed, spec.shape)
            west = ORIGIN[0] + number * 2000.0
            _write_geotiff(target, ids[np.newaxis], west, nodata=None)
            _write_geotiff(source, rgb, west, nodata=0)
        rows.append({"source": source.name, "target": target.name, "split": spec.split, "group": spec.name})
    _write_table(folder / "classes.csv", [_class_row(info) for info in CLASSES])
    _write_table(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


def draw_scene(seed: int, shape: tuple[int, int]) -> tuple[Bytes, Ids]:
    """Draw one scene.

    Args:
        seed: of everything in it.
        shape: (y, x) in px.

    Returns:
        Colours (3, y, x) uint8, 0 where there is no data; and class ids (y, x) uint8, 255 there.
    """
    rng = np.random.default_rng(seed)
    color, ids = _fields(rng, shape)
    _add_wood(rng, color, ids)
    _add_river(rng, color, ids)
    houses = _add_roads(rng, color, ids)
    for outline, roof in houses:
        _add_house(rng, color, ids, outline, roof)
    _photograph(rng, color)
    rgb = np.clip(color, 1, 255).astype(np.uint8)  # 0 is nodata
    empty = _wedge(shape)
    rgb[empty] = 0
    ids[empty] = IGNORE
    return np.ascontiguousarray(np.moveaxis(rgb, -1, 0)), ids


def _fields(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Ids]:
    """Fields as cells around random points, each with a crop's colour and plough lines of its own."""
    num_fields = max(6, shape[0] * shape[1] // 40_000)
    sites = rng.uniform((0, 0), shape, size=(num_fields, 2))
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    field = cKDTree(sites).query(np.stack([y.ravel(), x.ravel()], 1))[1].reshape(shape)
    crops = np.asarray(CROPS, np.float32)[rng.integers(len(CROPS), size=num_fields)]
    color = (crops + rng.normal(0, 8, (num_fields, 3)))[field].astype(np.float32)
    angle, period = rng.uniform(0, np.pi, num_fields), rng.uniform(5, 14, num_fields)
    wave = (2 * np.pi / period * np.stack([np.cos(angle), np.sin(angle)])).astype(np.float32)
    lines = np.sin(y * wave[0][field] + x * wave[1][field])
    color += (rng.uniform(1, 9, num_fields).astype(np.float32)[field] * lines)[..., np.newaxis]
    color += 14 * _clouds(rng, shape, 40)[..., np.newaxis]
    return color, np.full(shape, FIELD, np.uint8)


def _add_wood(rng: np.random.Generator, color: Floats, ids: Ids) -> None:
    """Woods where a smooth noise is high; crowns are bumps lit from the north-west."""
    where = _clouds(rng, ids.shape, 120) > 0.75
    crowns = _clouds(rng, ids.shape, 4)
    light = np.roll(crowns, 2, (0, 1)) - crowns
    wood = np.array([52, 82, 44], np.float32) + (10 * crowns + 14 * light)[..., np.newaxis]
    color[where] = wood[where]
    ids[where] = WOOD


def _add_river(rng: np.random.Generator, color: Floats, ids: Ids) -> None:
    """A river that winds through the scene from left to right, and a pond or two."""
    height, width = ids.shape
    x = np.arange(width)
    middle = height * rng.uniform(0.25, 0.75) + 0.08 * height * np.sin(
        x / width * rng.uniform(4, 9) + rng.uniform(0, 6)
    )
    half = 16 + 8 * np.sin(x / width * rng.uniform(3, 8))
    water = np.abs(np.arange(height)[:, np.newaxis] - middle) < half
    water |= _clouds(rng, ids.shape, 90) > 2.1
    color[water] = np.array([58, 84, 96], np.float32) + 5 * _clouds(rng, ids.shape, 12)[water][:, np.newaxis]
    ids[water] = WATER


def _add_roads(rng: np.random.Generator, color: Floats, ids: Ids) -> list[tuple[Floats, int]]:
    """Roads across the scene, over the water by bridges.

    Returns:
        Houses along them: outline (4, 2) as (y, x) in px, and the number of the roof's colour.
    """
    houses = []
    height, width = ids.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for road in range(2 + height * width // 900_000):
        upright = road % 2 == 0
        along, across, length = (y, x, height) if upright else (x, y, width)
        start, slope = rng.uniform(0.15, 0.85) * (width if upright else height), rng.uniform(-0.35, 0.35)
        bend, phase = rng.uniform(10, 40), rng.uniform(0, 6)
        middle = start + slope * (along - length / 2) + bend * np.sin(along / 160 + phase)
        half = rng.uniform(4.5, 8.0)
        distance = np.abs(across - middle)
        here = distance < half
        color[here] = np.array([126, 124, 122], np.float32) + rng.normal(0, 4, (int(here.sum()), 1))
        color[here & (distance < 0.8) & (along % 24 < 12)] += 60  # the dashed line
        ids[here] = ROAD
        for place in np.arange(30, length - 30, rng.uniform(44, 60)):
            side = rng.choice((-1.0, 1.0)) * (half + rng.uniform(18, 34))
            centre = start + slope * (place - length / 2) + bend * np.sin(place / 160 + phase) + side
            outline = _outline(rng, (place, centre) if upright else (centre, place))
            houses.append((outline, int(rng.integers(len(ROOFS)))))
    return houses


def _outline(rng: np.random.Generator, centre: tuple[float, float]) -> Floats:
    """Corners (4, 2) of a turned rectangle, (y, x) in px."""
    half = rng.uniform((7, 9), (12, 20))
    corners = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * half
    turn = rng.uniform(0, np.pi)
    rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    outline: Floats = (corners @ rotation.T + centre).astype(np.float32)
    return outline


def _add_house(rng: np.random.Generator, color: Floats, ids: Ids, outline: Floats, roof: int) -> None:
    """A roof of two halves, one in the light, and a shadow on the ground; none on water or a road."""
    inside = _filled(outline, ids.shape)
    if len(inside[0]) == 0 or np.isin(ids[inside], (WATER, ROAD, HOUSE)).any():
        return
    shadow = _filled(outline + 6, ids.shape)
    color[shadow] *= 0.55  # a shadow hides no class: what lies there stays field, wood or road
    middle = outline.mean(0)
    normal = outline[0] - outline[3]
    lit = (inside[0] - middle[0]) * normal[0] + (inside[1] - middle[1]) * normal[1] > 0
    shade = np.where(lit, 1.12, 0.84)[:, np.newaxis]
    color[inside] = np.asarray(ROOFS[roof], np.float32) * shade + rng.normal(0, 4, (len(inside[0]), 1))
    ids[inside] = HOUSE


def _filled(outline: Floats, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Row and column indices of the pixels inside a polygon."""
    rows, columns = polygon(outline[:, 0], outline[:, 1], shape)  # type: ignore[no-untyped-call]
    return rows, columns


def _photograph(rng: np.random.Generator, color: Floats) -> None:
    """What a camera adds: light that falls off, haze, blur and noise; in place."""
    light = 1 + 0.08 * _clouds(rng, color.shape[:2], 300)[..., np.newaxis]
    color *= light
    color[:] = gaussian_filter(color, (0.7, 0.7, 0)) * 0.94 + 10
    color += rng.normal(0, 3.5, color.shape).astype(np.float32)


def _wedge(shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The corner that the flight did not cover."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(y + 2 * x < shape[0] // 4)


def _clouds(rng: np.random.Generator, shape: tuple[int, ...], size_px: float) -> Floats:
    """Smooth noise with structures of about `size_px`; mean 0, standard deviation 1: bumps on a coarse grid."""
    bumps = []
    for length in shape[:2]:
        centres = np.arange(-1, length / size_px + 2, dtype=np.float32)
        distance = np.arange(length, dtype=np.float32)[:, np.newaxis] / np.float32(size_px) - centres
        bumps.append(np.exp(-(distance**2) / 0.9))
    coarse = rng.normal(size=(bumps[0].shape[1], bumps[1].shape[1])).astype(np.float32)
    noise: Floats = bumps[0] @ coarse @ bumps[1].T
    noise -= noise.mean()
    noise /= noise.std()
    return noise


def _write_geotiff(path: Path, bands: Bytes, west: float, nodata: int | None) -> None:
    """Write (c, y, x) as a tiled GeoTIFF whose left edge lies at `west`; appears whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    profile = {
        "driver": "GTiff",
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": "uint8",
        "crs": CRS.from_epsg(EPSG),
        "transform": from_origin(west, ORIGIN[1], METRES_PER_PX, METRES_PER_PX),
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "zlevel": 1,
    }
    with rasterio.open(unfinished, "w", **profile) as dataset:
        dataset.write(bands)
    unfinished.replace(path)


def _class_row(info: ClassInfo) -> dict[str, str]:
    """A row of the class table; the colour as #rrggbb."""
    return {"id": str(info.id), "name": info.name, "color": "#" + "".join(f"{part:02x}" for part in info.color)}


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a CSV file with a heading."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
