"""What segcore exports as polygons is the same target again, wherever the image lies."""

from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine

from segcore.classes import ClassInfo
from segcore.config import ExportConfig
from segcore.export import export
from segcore.geometry import Window
from segcore.spatial import Georef
from segcore.store import Workspace
from segcore.targets import TargetOpening
from segcore.targets.target import open_target
from tests.synthetic import put_image, put_label
from tests.targets.shapes_made import image_of

SHAPE = (300, 210)
CLASSES = tuple(
    ClassInfo(id=i, name=name, color=(i, 9, 9)) for i, name in enumerate(("background", "Gebäude <b>", "water"))
)
PLACES = {
    "pixels": None,
    "utm": (26914, Affine(5, 0, 600000, 0, -5, 5300000)),
    "rotated": (32633, Affine(0.28, 0.1, 5e5, 0.1, -0.28, 5e6)),
    "degrees": (4326, Affine(0.0003, 0, -120.5, 0, -0.0003, 40.25)),
    "coarse": (3035, Affine(2000, 0, 4000000, 0, -2000, 3500000)),
    "date line": (32601, Affine(100, 0, 150000, 0, -100, 6000000)),
}


@pytest.mark.parametrize(
    ("place", "coordinates", "file_format"),
    [
        ("pixels", "auto", "geojson"),
        ("rotated", "auto", "geopackage"),
        *((place, kind, "geojson") for place in PLACES if place != "pixels" for kind in ("auto", "crs")),
    ],
)
def test_exported_polygons_read_back(tmp_path: Path, place: str, coordinates: str, file_format: str) -> None:
    found = PLACES[place]
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ids = ((np.sin(rows / 17) + np.cos(columns / 11) > 0.4) * 1).astype(np.uint8)
    ids[(rows - 150) ** 2 + (columns - 100) ** 2 < 60**2] = 2
    ids[(rows - 150) ** 2 + (columns - 100) ** 2 < 20**2] = 0
    georef = None
    if found is not None:
        georef = Georef(crs_wkt=CRS.from_epsg(found[0]).to_wkt(), epsg=found[0], transform=tuple(found[1])[:6])
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(workspace, "scene", np.ones((1, *SHAPE), np.uint8), georef=georef)
    put_label(workspace, "scene", "m", ids, CLASSES)
    config = ExportConfig.model_validate(
        {"workspace": workspace.uri, "model": "m", "output": str(tmp_path), "format": file_format}
        | {"coordinates": coordinates}
    )
    (path,) = export(config).paths
    target = open_target([path], image_of(SHAPE, georef=georef), TargetOpening())
    assert [(info.name, info.color) for info in target.classes] == [
        ("background", (0, 0, 0)), ("Gebäude <b>", (1, 9, 9)), ("water", (2, 9, 9)),
    ]  # fmt: skip
    np.testing.assert_array_equal(target.read(Window.whole(SHAPE)), ids)
