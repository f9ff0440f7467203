"""Naming: which property, which class; and that nothing nobody named passes in silence."""

from pathlib import Path
from typing import Any

import pytest
import shapely

from segcore.classes import PALETTE, ClassInfo
from segcore.errors import SourceError
from segcore.targets import ClassTable, agreed_table, load_classes
from tests.targets.shapes_made import annotation, feature, opened, save, whole

BOXES = [shapely.box(10 * i, 10, 10 * i + 8, 20) for i in range(6)]


def table(*names: str, **more: Any) -> ClassTable:
    classes = tuple(ClassInfo(id=i, name=name, color=(9, 9, i)) for i, name in enumerate(names))
    return ClassTable(classes=classes, **more)


def ids(target: Any) -> list[int]:
    """The class in the middle of each box, then outside."""
    found = whole(target)
    return [int(found[15, 10 * i + 4]) for i in range(6)] + [int(found[50, 50])]


def saved(path: Path, values: list[Any], key: str = "class", **more: Any) -> str:
    return save(path / "n.geojson", [feature(box, **{key: v}, **more) for box, v in zip(BOXES, values, strict=False)])


def test_a_table_is_matched_whatever_the_case_and_by_id(tmp_path: Path) -> None:
    path = saved(tmp_path, ["ROAD", "water", "2", 1, 1.0, "Background"])
    assert ids(opened(path, table=table("background", "Water", "road"))) == [2, 1, 2, 1, 1, 0, 0]


def test_numbers_are_values_of_the_table_where_it_has_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("value,name,ignore\n0,nobody looked,1\n4,background,\n9,dog,\n")
    target = opened(saved(tmp_path, [9, "4", 0] * 2), table=load_classes(str(tmp_path / "t.csv")))
    assert ids(target) == [1, 0, 255, 1, 0, 255, 0]


def test_outside_is_ignored_where_no_class_is_called_background(tmp_path: Path) -> None:
    target = opened(saved(tmp_path, ["water", "road"] * 3), table=table("water", "road"))
    assert ids(target) == [0, 1] * 3 + [255]
    assert any("what no shape covers is ignored" in note for note in target.notes)


def test_names_that_the_table_lacks_are_listed_with_counts(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'class'.*wood: 2, hut: 1; add them"):
        opened(saved(tmp_path, ["wood", "hut", "wood", "road"]), table=table("background", "road"))


def test_a_table_can_ignore_names(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,name,ignore\n0,background,\n1,road,\n255,void,yes\n")
    path = saved(tmp_path, ["road", "Void", "255", "Region*", "ignore", "road"])
    assert ids(opened(path, table=load_classes(str(tmp_path / "t.csv")))) == [1, 255, 255, 255, 255, 1, 0]


def test_the_property_is_found_named_or_missing(tmp_path: Path) -> None:
    values = ["b", "a", "b", "a", "b", "a"]
    found = opened(saved(tmp_path, values, key="LandUse", id=7))
    assert ids(found) == [2, 1, 2, 1, 2, 1, 0]
    assert "classes are those of the property 'landuse'" in found.notes
    assert ids(opened(saved(tmp_path, values, key="crop", name="x"), class_property="crop")) == [2, 1, 2, 1, 2, 1, 0]
    partly = opened(saved(tmp_path, ["b", None, "", "a", "b", "a"]))
    assert ids(partly) == [1] * 6 + [0]
    assert any("'class' stands in 4 of 6" in note for note in partly.notes)
    with pytest.raises(SourceError, match="2 of 6 features have no class in 'class', the first is feature 2"):
        opened(saved(tmp_path, ["b", None, "", "a", "b", "a"]), class_property="class")
    with pytest.raises(SourceError, match=r"'kind'; they have class"):
        opened(saved(tmp_path, values), class_property="kind")


def test_shapes_without_a_class_need_a_table_with_one_foreground(tmp_path: Path) -> None:
    path = save(tmp_path / "u.geojson", [feature(box) for box in BOXES])
    assert ids(opened(path, table=table("background", "building"))) == [1] * 6 + [0]
    with pytest.raises(SourceError, match="several"):
        opened(path, table=table("background", "building", "road"))


def test_many_different_values_are_no_classes(tmp_path: Path) -> None:
    many = [feature(shapely.box(i, 1, i + 0.9, 2)) | {"properties": {"name": f"street {i}"}} for i in range(64)]
    with pytest.raises(SourceError, match="'name' holds 64 values"):
        opened(save(tmp_path / "m.geojson", many))
    assert len(opened(save(tmp_path / "m.geojson", many), class_property="name").classes) == 65


def test_unclassified_annotations_beside_classified_ones_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "q.geojson", [annotation(BOXES[0], "Tumor"), annotation(BOXES[1], None)])
    with pytest.raises(SourceError, match="1 of 2 features have no class in 'classification'"):
        opened(path)


def test_a_class_and_its_sub_class_read_as_qupath_shows_them(tmp_path: Path) -> None:
    one = annotation(BOXES[0], "x")
    one["properties"]["classification"] = {"names": ["Tumor", "Positive"], "color": [250, 62, 62]}
    target = opened(save(tmp_path / "s.geojson", [one]))
    assert (target.classes[1].name, target.classes[1].color) == ("Tumor: Positive", (250, 62, 62))


def test_images_agree_on_the_names_of_all() -> None:
    def info(number: int, name: str, color: Any = None) -> ClassInfo:
        return ClassInfo(id=number, name=name, color=color or PALETTE[number])

    agreed = agreed_table(
        [
            [info(0, "background"), info(1, "b"), info(2, "c", (1, 1, 1))],
            [info(0, "background"), info(1, "a"), info(2, "10")],
            [info(0, "background"), info(1, "9"), info(2, "c", (2, 2, 2))],
        ]
    )
    assert [(found.id, found.name) for found in agreed.classes] == [
        (0, "background"), (1, "9"), (2, "10"), (3, "a"), (4, "b"), (5, "c"),
    ]  # fmt: skip
    assert [found.color for found in agreed.classes] == [*PALETTE[:5], (1, 1, 1)]
