"""The schema takes what reports are, and refuses what they are not; tests/publish holds whole ones against it."""

import copy
import json
from typing import Any

import jsonschema
import pytest

from segcore.report.schema import report_schema
from segcore.scoring.document import document
from tests.scoring.test_table import CONFIG, made_score

SCORES = document("m", [made_score(0), made_score(2), made_score(4, has_target=False)], CONFIG)
REPORT: dict[str, Any] = {
    "format": 2,
    "run": "r",
    "created": "2026-11-30T07:00:00+00:00",
    "title": "t",
    "mask": "m",
    "failures": [],
    "items": [{"state": "done", "image": "i00000"}],
    "scores": json.loads(json.dumps(SCORES)),
    "since": None,
    "stages": [],
    "pace": None,
    "provenance": {"Report": {"model": "m"}},
}


def test_schema_is_one_and_takes_a_report() -> None:
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(REPORT, schema)
    of_class = schema["$defs"]["ClassEntry"]
    assert {"iou", "dice", "precision", "recall"} <= set(of_class["required"])
    assert {"confusion", "interval"} <= set(schema["$defs"]["ScoresDocument"]["properties"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("scores", "per_class", "c", "iou"), 1.5),
        (("scores", "per_class", "c", "iou"), "0.5"),
        (("scores", "confusion"), [[1, -1], [0, 2]]),
        (("scores", "interval", "overall", "miou"), [0.1]),
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
