"""AOI: what ingest made of an area of interest; nothing outside it is learnt from, and no tile is placed there."""

from pathlib import Path

import numpy as np
import shapely
from PIL import Image as Picture

from segcore.config import IngestConfig
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.sampling import IGNORED, ClassIndex, LabelledImage, RandomSampler
from segcore.sampling.index import usable_cells
from segcore.store import Workspace
from tests.targets.shapes_made import covered, feature, save

SHAPE = (300, 420)


def test_tiles_are_placed_inside_an_area_of_interest_and_nothing_else_is_learnt_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2, SHAPE, dtype=np.uint8)
    (tmp_path / "masks").mkdir()
    Picture.fromarray(rng.integers(0, 255, (*SHAPE, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Picture.fromarray(ids).save(tmp_path / "masks" / "a.png")
    area = shapely.box(200, 100, 330, 220)
    aoi = save(tmp_path / "aoi.geojson", [feature(area)])
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    ingest(
        IngestConfig(
            workspace=workspace.uri, sources=(str(tmp_path / "a.png"),), targets="{parent}/masks/{stem}.png", aoi=aoi,
            processes=1,
        )
    )  # fmt: skip
    (image_id,) = workspace.image_ids()
    image = LabelledImage(workspace.image(image_id), workspace.label(image_id, "target"))
    inside = covered(area, SHAPE)
    np.testing.assert_array_equal(image.read(0, Window.whole(SHAPE))[1], np.where(inside, ids.astype(int), IGNORED))
    index = ClassIndex([image], 2)
    assert index.pixels.sum() == inside.sum()
    for draw in RandomSampler([image], index, 32, 0.5, 0).draws(0, 300):
        assert inside[draw.window.intersected(Window.whole(SHAPE)).slices].any()
    for _, row, column in usable_cells(image, 32):
        assert inside[row * 32 : (row + 1) * 32, column * 32 : (column + 1) * 32].any()
