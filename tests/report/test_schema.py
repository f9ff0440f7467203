"""The schema takes what reports are, and refuses what they are not; tests/publish holds whole ones against it."""

import copy
import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from pydantic import BaseModel

from segcore.report.schema import ReportDocument, report_schema
from segcore.scoring.document import Against, document
from segcore.scoring.pairs import compared, pairs
from segcore.scoring.probs import ProbCounts
from segcore.scoring.summary import ImageScore
from tests.scoring.test_table import CONFIG, made_score

RNG = np.random.default_rng(0)


def _whole(number: int) -> ImageScore:
    """With all that can be measured."""
    probs = ProbCounts(RNG.integers(0, 9, (3, 2, 256)), RNG.integers(0, 9, (2, 256)))
    return replace(made_score(number), probs=probs)


IMAGES = [_whole(0), _whole(2)]
SCORES = document("m", [*IMAGES, made_score(4, has_target=False)], CONFIG, Against("o", [_whole(0), _whole(2)]))
MOVED = compared(pairs(IMAGES, IMAGES), "x", CONFIG)
REPORT: dict[str, Any] = {
    "format": 2,
    "run": "r",
    "created": "2026-11-30T07:00:00+00:00",
    "title": "t",
    "mask": "m",
    "failures": [],
    "items": [{"state": "done", "image": "i00000"}],
    "scores": json.loads(json.dumps(SCORES)),
    "since": {"run": "q", "created": "c", **MOVED, "num_left_out": 0, "per_split": {"val": MOVED}},
    "stages": [],
    "pace": {"num_images": 1, "skipped_share": 0.1, "mpx_per_s": 1.0, "seconds": 1.0, "ended": "2026-11-30"},
    "provenance": {"Report": {"model": "m"}},
}


def test_schema_is_one_and_takes_a_report() -> None:
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(REPORT, schema)
    of_class = schema["$defs"]["ClassEntry"]
    assert {"iou", "dice", "precision", "recall"} <= set(of_class["required"])
    assert {"confusion", "interval"} <= set(schema["$defs"]["ScoresDocument"]["properties"])


def _unnamed(value: Any) -> set[str]:
    """Keys that records hold beside those that the schema names."""
    if isinstance(value, BaseModel):
        own = {f"{type(value).__name__}.{key}" for key in value.model_extra or {}}
        return own.union(*(_unnamed(getattr(value, name)) for name in type(value).model_fields))
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return set().union(*map(_unnamed, inner))


def test_schema_names_all_that_a_report_holds() -> None:
    assert _unnamed(ReportDocument.model_validate(REPORT)) == set()
    assert _unnamed(ReportDocument.model_validate({**REPORT, "more": 1})) == {"ReportDocument.more"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("scores", "per_class", "c", "iou"), 1.5),
        (("scores", "per_class", "c", "iou"), "0.5"),
        (("scores", "confusion"), [[1, -1], [0, 2]]),
        (("scores", "interval", "overall", "miou"), [0.1]),
        (("scores", "worst_tiles"), [{"start": [0, 0], "shape": [1, 1], "wrong_share": 0.5, "counted_px": 1}]),
        (("since", "num_left_out"), -1),
        (("since", "num_units"), "two"),
        (("scores", "per_image", "i00000", "has_target"), None),
        (("items",), [{"state": "lost"}]),
        (("format",), 3),
        (("provenance", "Report"), ["m"]),
    ],
)
def test_what_is_wrong_is_refused(path: tuple[str, ...], value: Any) -> None:
    wrong = copy.deepcopy(REPORT)
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, report_schema())
