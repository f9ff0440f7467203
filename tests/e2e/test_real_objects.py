"""Real nuclei (DSB2018): a threshold's mask is refined, its objects scored, exported and measured."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label as label_whole
from skimage.measure import regionprops
from skimage.morphology import disk, opening

from segcore.config import ExportConfig, IngestConfig, MeasureConfig, RefineConfig, ReportConfig, ScoreConfig
from segcore.export import export
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.measurements import measure
from segcore.publish import report
from segcore.refine import refine
from segcore.scoring.score import score
from segcore.store import Workspace, verify
from tests.synthetic import put_label


@pytest.mark.slow
def test_nuclei_by_a_threshold_are_refined_scored_and_measured(data_dir: Path, tmp_path: Path) -> None:
    folders = sorted((data_dir / "dsb2018/stage1_train").iterdir())
    sources = [str(next((folder / "images").iterdir())) for folder in folders[:6]]
    uri = str(tmp_path / "w")
    result = ingest(IngestConfig(workspace=uri, sources=tuple(sources), targets="{parent}/../masks/*.png"))
    assert [item.error for item in result.items] == [None] * 6
    ws, masks = Workspace.open(uri), {}
    for image_id in ws.image_ids():
        image, target = ws.image(image_id), ws.label(image_id, "target")
        grey = image.read(Window.whole(image.shape()))[:3].mean(axis=0)
        is_dark = np.median(grey) < 128  # fluorescence
        found = grey > threshold_otsu(grey) if is_dark else grey < threshold_otsu(grey)
        masks[image_id] = found
        ids = [info.id for info in sorted(target.classes, key=lambda info: info.name != "background")]
        put_label(ws, image_id, "otsu", np.where(found, ids[1], ids[0]).astype(np.uint8), classes=target.classes)
    done = refine(RefineConfig(workspace=uri, model="otsu", open="1", fill_holes="200", min_size="30", objects=True))
    assert [item.error for item in done.items] == [None] * 6
    for image_id, found in masks.items():
        label = ws.label(image_id, "otsu_refined_instances")
        expected = ndimage.binary_fill_holes(opening(found, disk(1)))
        filled = label_whole(expected & ~opening(found, disk(1)), connectivity=1)
        large = np.flatnonzero(np.bincount(filled.ravel()) > 200)
        expected &= ~(np.isin(filled, large) & (filled > 0))
        parts = label_whole(expected, connectivity=1)
        expected &= (np.bincount(parts.ravel()) >= 30)[parts]
        np.testing.assert_array_equal(label.read(Window.whole(label.shape())), label_whole(expected, connectivity=1))
    assert verify(ws) == []
    refine(RefineConfig(workspace=uri, model="otsu", objects=True))
    before, after = (score(ScoreConfig(workspace=uri, model=name)).scores for name in ("otsu", "otsu_refined"))
    assert before is not None
    assert after is not None
    assert after["instances"]["precision"] > before["instances"]["precision"] + 0.02  # specks are no nuclei
    assert after["instances"]["f1"] > before["instances"]["f1"]
    assert report(ReportConfig(workspace=uri, model="otsu_refined", run="r")).exit_code == 0
    out = export(
        ExportConfig(workspace=uri, model="otsu_refined_instances", output=str(tmp_path / "out"), format="geojson")
    )
    assert out.exit_code == 0
    measured = measure(MeasureConfig(workspace=uri, model="otsu_refined", run="r"))
    table = pq.read_table(measured.paths[0]).to_pylist()
    for item in out.items:
        label = ws.label(str(item.image), "otsu_refined_instances")
        image = ws.image(str(item.image))
        pixels = np.moveaxis(image.read(Window.whole(image.shape())), 0, -1)
        regions = regionprops(label.read(Window.whole(label.shape())), pixels)
        rows = sorted((row for row in table if row["image"] == item.image), key=lambda row: row["object"])
        assert [row["area_px"] for row in rows] == [region.area for region in regions]
        np.testing.assert_allclose([row["perimeter_px"] for row in rows], [region.perimeter for region in regions])
        name = f"mean_{image.channels[0]}"
        np.testing.assert_allclose([row[name] for row in rows], [region.intensity_mean[0] for region in regions])
        assert len(json.loads(Path(str(item.path)).read_text())["features"]) == len(rows) > 0
