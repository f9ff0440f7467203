"""By what two sides were compared: rules, rulers of the boundaries, and what made each mask."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segcore
from segcore.config import ReportConfig
from segcore.publish import report
from segcore.spatial import Spacing
from segcore.store import Workspace
from tests.synthetic import put_image, put_label

SIDES = (48, 64)
NUM_IMAGES = 2


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two images with pixels of 0.5 µm; the mask `cells` was made by a model, `drawn` by nobody knows what."""
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    ws.objects.put(
        "models/cells/model.json", b'{"name": "cells", "seed": 4, "classes": [], "training": {"run": "<r>"}}'
    )
    for image_id in "ab"[:NUM_IMAGES]:
        spacing = Spacing(values={"y": 0.5, "x": 0.5}, unit="micrometer", origin="file")
        put_image(ws, image_id, np.full((1, *SIDES), 9, np.uint8), spacing=spacing)
        ids = np.zeros(SIDES, np.uint8)
        ids[10:30, 10:40] = 1
        put_label(ws, image_id, "target", ids)
        put_label(ws, image_id, "drawn", np.roll(ids, 3, axis=1))
        made = {"model": {"id": "cells", "digest": "0"}, "code_version": "0.0.9"}
        put_label(ws, image_id, "cells", np.roll(ids, 1, axis=1), attributes=made)
    return ws


def _report(ws: Workspace, mask: str, run: str, **more: Any) -> None:
    report(ReportConfig(workspace=ws.uri, model=mask, run=run, **more))


def _compare(ws: Workspace, one: str, two: str, **more: Any) -> tuple[dict[str, Any], str]:
    result = report(ReportConfig(workspace=ws.uri, compare=(one, two), run="both", **more))
    page, data = (Path(path).read_text(encoding="utf-8") for path in result.paths)
    return dict(json.loads(data)), page


def test_page_and_json_say_by_what_they_compare(workspace: Workspace) -> None:
    found, page = _compare(workspace, "cells", "drawn", both_empty="one", resamples=10)
    assert found["settings"] == {"both_empty": "one", "resamples": 10, "seed": 0}
    measured = {"asked": "2px", "halo_px": 64, "unit": "um", "tolerance": 1.0, "cap": 32.0}
    assert [side["boundary"] for side in found["sides"]] == [measured, measured]
    assert [side["model"] for side in found["sides"]] == ["cells", None]
    told = found["provenance"]
    assert list(told) == ["Settings", "Mask of cells", "Mask of drawn", "Versions"]
    assert told["Settings"]["both_empty"] == "one: a class that neither has counts as perfect"
    assert told["Settings"]["code_version"] == told["Versions"]["segcore"] == segcore.__version__
    assert told["Mask of drawn"] == {
        "mask": "drawn", "boundary tolerance": "2px (1 µm)", "boundary distances up to": "64px (32 µm)"
    }  # fmt: skip
    of_model = {key: told["Mask of cells"][key] for key in ("model.id", "code_version", "package.training.run")}
    assert of_model == {"model.id": "cells", "code_version": "0.0.9", "package.training.run": "<r>"}
    section = page[page.index('<h2 id="provenance">') :]
    for text in ("Mask of cells", "2px (1 µm)", "64px (32 µm)", "counts as perfect", "&lt;r&gt;"):
        assert text in section
    assert '<a href="#provenance">' in page


def test_rulers_are_those_of_each_side_not_those_of_this_call(workspace: Workspace) -> None:
    _report(workspace, "drawn", "r1", tolerance="2px")
    found, page = _compare(workspace, "cells", "r1", tolerance="6px")
    note = "boundaries were measured differently: within 6px and 2px; they are not compared"
    assert found["notes"] == [note]
    assert f'<p class="note">{note}</p>' in page
    assert [side["boundary"]["tolerance"] for side in found["sides"]] == [3.0, 1.0]
    assert found["compared"]["per_class"]["foreground"]["nsd"]["value"] is None
    assert _compare(workspace, "cells", "r1")[0]["notes"] == []


@pytest.mark.parametrize(
    ("more", "told"),
    [({"boundary": "off"}, "within 2px and not at all"), ({"boundary_halo_px": 32}, "up to 64 and 32 pixels")],
)
def test_what_else_is_measured_differently(workspace: Workspace, more: dict[str, Any], told: str) -> None:
    _report(workspace, "drawn", "r1", **more)
    found, _ = _compare(workspace, "cells", "r1")
    assert found["notes"] == [f"boundaries were measured differently: {told}; they are not compared"]
    if "boundary" in more:
        assert found["sides"][1]["boundary"] is None
        assert found["provenance"]["Mask of report r1"]["boundary tolerance"] == "boundaries were not measured"
    off, _ = _compare(workspace, "cells", "drawn", boundary="off")
    assert off["notes"] == []


def test_only_some_images_are_measured_differently(workspace: Workspace) -> None:
    _report(workspace, "drawn", "r1")
    put_image(
        workspace,
        "b",
        np.full((1, *SIDES), 9, np.uint8),
        spacing=Spacing(values={"y": 0.25, "x": 0.25}, unit="micrometer", origin="file"),
    )
    found, _ = _compare(workspace, "cells", "r1")
    told = "pixels have another size; they are not compared in 1 of 2 images"
    assert found["notes"] == [f"boundaries were measured differently: {told}"]
    assert found["sides"][0]["boundary"] == {
        "asked": "2px", "halo_px": 64, "unit": "um", "tolerance": None, "cap": None
    }  # fmt: skip


def test_a_mask_that_was_made_again_does_not_speak_for_the_one_before(workspace: Workspace) -> None:
    _report(workspace, "cells", "r1")
    for image_id in "ab"[:NUM_IMAGES]:
        made = {"model": {"id": "other", "digest": "1"}}
        put_label(workspace, image_id, "cells", np.zeros(SIDES, np.uint8), version=1, attributes=made)
    found, _ = _compare(workspace, "cells", "r1")
    assert [side["model"] for side in found["sides"]] == ["other", None]
    told = found["provenance"]["Mask of report r1"]
    assert told["model"] == "not known: the masks that were scored stand no more"
    assert told["package.seed"] == "4"
