"""Headline and table from a document of scores."""

from typing import Any

import pytest

from segcore.report.rows import area_size, area_text, chips, image_rows, pace_facts, worst_first
from segcore.results import ItemResult


def _entry(iou: float | None, split: str | None = None, unpredicted: int = 0) -> dict[str, Any]:
    entry: dict[str, Any] = {"split": split, "has_target": iou is not None, "areas": {"cell": {"px": 1200}}}
    if iou is not None:
        entry["overall"] = {"foreground_iou": iou, "foreground_dice": iou, "pixel_accuracy": iou}
        entry["per_class"] = {"cell": {"iou": iou}}
        entry |= {"confusion": [[50, 0], [0, 25]], "excluded_px": {"unpredicted": unpredicted}}
    return entry


CLASSES = [{"id": 0, "name": "background", "color": (0, 0, 0)}, {"id": 1, "name": "cell", "color": (1, 2, 3)}]
DOCUMENT: dict[str, Any] = {
    "classes": CLASSES,
    "overall": {"foreground_iou": 0.7, "foreground_dice": 0.8, "pixel_accuracy": 0.9},
    "per_split": {
        "val": {"overall": {"foreground_iou": 0.5, "foreground_dice": 0.6, "pixel_accuracy": None}, "interval": None}
    },
    "per_image": {"good": _entry(0.9, "train"), "none": _entry(None), "bad": _entry(0.2, "val", unpredicted=25)},
}
ITEMS = (
    ItemResult(state="done", image="good"),
    ItemResult(state="done", image="bad"),
    ItemResult(state="skipped", image="none"),
    ItemResult(state="failed", image="broken", error="shard is damaged"),
)


@pytest.mark.parametrize(("num_units", "of"), [(6, ""), (5, " (5 groups)")])
def test_chips_carry_intervals_and_objects(num_units: int, of: str) -> None:
    """Intervals of few groups are too narrow, and say of how few they are."""
    part = {
        **DOCUMENT["per_split"]["val"],
        "interval": {
            "overall": {"foreground_iou": [0.4, 0.6]},
            "instances": {"pq": [0.3, 0.5]},
            "unit": "groups",
            "num_units": num_units,
        },
        "instances": {"pq": 0.4},
    }
    shown = chips({**DOCUMENT, "per_split": {"val": part}}, ITEMS, 0)[3:]
    assert [(chip.label, chip.value, chip.detail) for chip in shown] == [
        ("IoU without background, val", "50.0 %", f"40.0 – 60.0{of}"),
        ("Dice without background, val", "60.0 %", ""),
        ("panoptic quality (PQ), val", "40.0 %", f"30.0 – 50.0{of}"),
    ]


def test_worst_first_with_those_without_a_score_last() -> None:
    assert worst_first(DOCUMENT) == ["bad", "good", "none"]


def test_rows_put_failures_on_top_and_say_what_was_left_out() -> None:
    rows = image_rows(DOCUMENT, ITEMS)
    assert [(row.image, row.state, row.note) for row in rows] == [
        ("broken", "failed", "shard is damaged"),
        ("bad", "done", "25.0 % not predicted"),
        ("good", "done", ""),
        ("none", "skipped", "no target"),
    ]
    assert rows[1].class_iou == {"cell": 0.2}
    assert rows[1].areas == {"cell": ("1\u202f200 px", 1200)}


@pytest.mark.parametrize(
    ("reasons", "label"), [(["no target"], "without a target"), (["no target", "x"], "not scored")]
)
def test_chips_say_why_there_is_no_score_where_one_reason_is_all(reasons: list[str], label: str) -> None:
    items = [ItemResult(state="skipped", image=reason, details={"reason": reason}) for reason in reasons]
    assert (chips(DOCUMENT, items, 0)[1].label, chips(DOCUMENT, items, 0)[1].value) == (label, str(len(reasons)))


def test_chips_are_of_all_classes_where_none_is_the_background() -> None:
    part = {"overall": {"foreground_iou": 0.5, "miou": 0.5, "mean_dice": 0.6, "pixel_accuracy": 0.7}, "interval": None}
    shown = chips({**DOCUMENT, "classes": CLASSES[1:], "per_split": {"val": part}}, ITEMS, 0)[3:]
    assert [(chip.label, chip.value) for chip in shown] == [
        ("mean IoU, val", "50.0 %"),
        ("mean Dice, val", "60.0 %"),
        ("pixel accuracy, val", "70.0 %"),
    ]


def test_chips_prefer_images_that_were_not_trained_on() -> None:
    shown = [(chip.label, chip.value, chip.tone) for chip in chips(DOCUMENT, ITEMS, 3)]
    assert shown == [
        ("images scored", "2", "plain"),
        ("not scored", "1", "plain"),
        ("failed", "3", "bad"),
        ("IoU without background, val", "50.0 %", "plain"),
        ("Dice without background, val", "60.0 %", "plain"),
    ]


@pytest.mark.parametrize(
    ("area", "text"),
    [
        ({"px": 12}, "12 px"),
        ({"px": 1, "um2": 50.25, "mm2": 5.025e-5}, "50.2 µm²"),
        ({"px": 1, "um2": 2.5e6, "mm2": 2.5}, "2.50 mm²"),
        ({"px": 1, "m2": 900.0, "ha": 0.09}, "900 m²"),
        ({"px": 1, "m2": 125000.0, "ha": 12.5}, "12.5 ha"),
        ({"px": 1, "mm3": 4500.0, "ml": 4.5}, "4.50 ml"),
    ],
)
def test_area_is_in_a_unit_that_reads_well(area: dict[str, float], text: str) -> None:
    assert area_text(area) == text


def test_a_column_of_areas_has_the_unit_that_its_largest_reads_well_in() -> None:
    areas = [{"px": 1, "m2": 125000.0, "ha": 12.5}, {"px": 1, "m2": 900.0, "ha": 0.09}, {"px": 12}]
    images = {str(n): {**_entry(0.5), "areas": {"cell": area}} for n, area in enumerate(areas)}
    rows = image_rows({**DOCUMENT, "per_image": images}, ())
    assert [row.areas["cell"][0] for row in rows] == ["12.5 ha", "0.0900 ha", "12 px"]


def test_areas_are_sorted_by_their_own_unit() -> None:
    assert [area_size(area) for area in ({"px": 9, "m2": 2.5, "ha": 2.5e-4}, {"px": 12})] == [2.5, 12]


@pytest.mark.parametrize(("num_units", "tone"), [(5, "plain"), (6, "bad")])
def test_chips_say_what_changed_of_the_same_split(num_units: int, tone: str) -> None:
    moved = {"difference": -0.013, "interval": [-0.02, -0.005]}
    part = {"overall": {"foreground_iou": moved, "foreground_dice": {"difference": 0.0, "interval": None}}}
    since = {
        "per_split": {"val": {**part, "num_units": num_units}},
        "overall": {"foreground_iou": {"difference": 1.0, "interval": [1, 1]}},
    }
    shown = chips(DOCUMENT, ITEMS, 0, since)[3:]
    assert [(chip.change, chip.change_tone) for chip in shown] == [("-1.3", tone), ("±0.0", "plain")]
    assert [chip.change for chip in chips(DOCUMENT, ITEMS, 0, {"per_split": {}, "overall": {}})] == [""] * 5


def test_rows_carry_the_change_and_what_was_skipped() -> None:
    rows = image_rows(DOCUMENT, ITEMS, {"bad": -0.25}, {"good": 0.5})
    assert [(row.image, row.change, row.skipped) for row in rows] == [
        ("broken", None, None),
        ("bad", -0.25, None),
        ("good", None, 0.5),
        ("none", None, None),
    ]


def test_pace_in_words() -> None:
    pace = {"mpx_per_s": 2.5, "seconds": 1234.5, "skipped_share": 0.375, "ended": "2026-11-30", "num_images": 3}
    facts = {fact.key: fact.value for fact in pace_facts(pace, 4)}
    assert facts["throughput"] == "2.50 Mpx/s, over 1\u202f234 s of prediction"
    assert facts["tiles skipped"].startswith("37.5 %")
    assert facts["known of"] == "3 of 4 masks"
    assert pace_facts({}, 4) == ()
