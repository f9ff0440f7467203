"""Totals of objects, as the page shows them."""

from segcore.classes import default_classes
from segcore.publish.measured import object_table, objects_document

KNOWN = {"objects": 3, "area_px": 30, "area_um2": 7.5, "confidence": 0.5}
UNKNOWN = {"objects": 1, "area_px": 10}
CLASSES = default_classes(2)


def test_the_unit_is_one_that_all_images_have() -> None:
    table = object_table({"a": {"foreground": KNOWN}}, 4, CLASSES)
    assert table is not None
    row = table.rows[0]
    assert (row.num_objects, row.size, row.mean_size, row.confidence) == (3, "7.50 µm²", "2.50 µm²", 0.5)
    assert (table.num_images, table.num_masks) == (1, 4)
    both = object_table({"a": {"foreground": KNOWN}, "b": {"foreground": UNKNOWN}}, 4, CLASSES)
    assert both is not None
    assert (both.rows[0].num_objects, both.rows[0].size, both.rows[0].mean_size) == (4, "40 px", "10 px")
    assert both.rows[0].confidence == 0.5


def test_planes_and_volumes_together_are_counted_in_pixels() -> None:
    volume = {"objects": 1, "volume_px": 70, "volume_mm3": 2.0}
    table = object_table({"a": {"foreground": KNOWN}, "b": {"foreground": volume}}, 2, CLASSES)
    assert table is not None
    assert table.rows[0].size == "100 px"


def test_a_class_without_objects_has_none_and_takes_no_unit_away() -> None:
    none: dict[str, float] = {"objects": 0, "area_px": 0}
    for images, expected in (([KNOWN, none], (3, "7.50 µm²", "2.50 µm²")), ([none], (0, "0 px", None))):
        table = object_table({str(n): {"foreground": row} for n, row in enumerate(images)}, 2, CLASSES)
        assert table is not None
        assert [(row.num_objects, row.size, row.mean_size) for row in table.rows] == [expected]


def test_a_column_has_one_unit() -> None:
    large = {"objects": 2, "area_px": 9, "area_m2": 4e5, "area_ha": 40.0}
    small = {"objects": 1, "area_px": 9, "area_m2": 500.0, "area_ha": 0.05}
    table = object_table({"a": {"background": large, "foreground": small}}, 1, CLASSES)
    assert table is not None
    assert [row.size for row in table.rows] == ["40 ha", "0.0500 ha"]
    assert [row.mean_size for row in table.rows] == ["20 ha", "0.0500 ha"]


def test_masks_without_objects_have_a_table_without_rows_and_unmeasured_ones_none() -> None:
    table = object_table({"a": {}}, 1, CLASSES)
    assert table is not None
    assert table.rows == ()
    assert object_table({}, 1, CLASSES) is None
    assert objects_document({}) is None
