"""Tables: the lines that a terminal shows of a document of scores."""

from typing import Any

from flows.tables import score_lines, shown


def _document() -> dict[str, Any]:
    overall = {"miou": 0.75, "mean_dice": 0.8, "pixel_accuracy": 0.9, "foreground_iou": 0.7}
    drawn = {"miou": [0.7, 0.8], "mean_dice": None, "foreground_iou": [0.65, 0.75]}
    compared = {"value": 0.75, "other": 0.7, "difference": -0.05, "interval": [-0.1, 0.0002]}
    return {
        "num_scored": 3,
        "overall": overall,
        "per_class": {
            "cell": {"iou": 0.7, "boundary": {"hd95": 1.4142135, "nsd": 0.95, "num_images": 3}},
            "never": {"iou": None, "boundary": {"hd95": None, "nsd": None, "num_images": 0}},
        },
        "boundary": {"unit": "um", "tolerance": 1.0, "cap": 32.0},
        "instances": {"pq": 0.6, "ap50": 0.5, "target_objects": 12, "mask_objects": 11, "num_images": 3},
        "interval": {"num_units": 3, "unit": "images", "resamples": 1000, "overall": drawn},
        "against": {
            "mask": "old",
            "num_images": 3,
            "overall": dict.fromkeys(("miou", "mean_dice", "foreground_iou", "pixel_accuracy"), compared),
            "instances": {"pq": {**compared, "interval": None}, "aji": compared},
        },
    }


def test_lines_tell_boundaries_objects_intervals_and_the_other_mask() -> None:
    lines = list(score_lines(_document()))
    assert lines[:2] == [
        "images    miou  mean_dice  pixel_accuracy  of",
        "all     0.7500     0.8000          0.9000   3",
    ]
    assert lines[2:5] == [
        "class     iou   hd95     nsd",
        "cell   0.7000  1.414  0.9500",
        "never       -      -       -",
    ]
    assert lines[5:7] == [
        "objects      pq    ap50  target_objects  mask_objects",
        "all      0.6000  0.5000              12            11",
    ]
    assert lines[7] == "boundaries: hd95 and assd in µm, capped at 32 µm; right within 1 µm"
    assert lines[8] == (
        "95 % intervals (3 images drawn 1000 times): miou 0.7000 to 0.8000, iou without background 0.6500 to 0.7500"
    )
    assert lines[9].startswith("against old, on 3 images")
    assert lines[11] == "miou            0.7500  0.7000     -0.0500  -0.1000 to 0.0002"
    assert lines[15].split() == ["pq", "0.7500", "0.7000", "-0.0500", "-"]
    assert len(lines) == 16


def test_a_split_called_all_stands_beside_all_images() -> None:
    part = {"num_scored": 1, "overall": {"miou": 0.5}}
    lines = list(score_lines({"num_scored": 3, "overall": {"miou": 0.75}, "per_split": {"all": part}}))
    assert [line.split() for line in lines[1:]] == [["all", "0.7500", "3"], ["all", "(split)", "0.5000", "1"]]


def test_where_all_images_failed_no_heading_stands_alone() -> None:
    drawn = dict.fromkeys(("miou", "mean_dice", "foreground_iou"))
    interval = {"num_units": 3, "unit": "images", "resamples": 1000, "overall": drawn}
    document = {"num_scored": 0, "overall": {"miou": None}, "per_class": {}, "interval": interval}
    assert list(score_lines(document)) == ["images  miou  of", "all        -   0"]


def test_names_of_classes_move_no_cursor() -> None:
    lines = list(score_lines({"num_scored": 1, "overall": {}, "per_class": {"a\x1b[2J\nb": {"iou": 1.0}}}))
    assert lines[3] == "a\ufffd[2J\ufffdb  1.0000"


def test_lines_of_images_in_several_units_say_so() -> None:
    known = {"unit": "um", "tolerance": 1.0, "cap": 32.0}
    assert any("capped at 32 µm" in line for line in score_lines({**_document(), "boundary": known}))
    for other in ("unit", "tolerance", "cap"):
        document = {**_document(), "boundary": {**known, other: None}}
        assert any("several pixel sizes" in line for line in score_lines(document))


def test_small_and_negative_numbers_are_short() -> None:
    assert [shown(v) for v in (0.00012345, -0.00012345, -0.5, 0.0, 12.5)] == [
        "0.00012",
        "-0.00012",
        "-0.5000",
        "0.0000",
        "12.5",
    ]
