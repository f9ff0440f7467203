"""Class tables: the same classes from CSV, YAML and JSON, and one line for what is wrong."""

import json
from pathlib import Path

import pytest

from segcore.classes import PALETTE, default_classes
from segcore.errors import ConfigError
from segcore.targets import load_classes


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


CSV = """id,name,color,ignore
0,water,#E2A929,
1,land,"132, 41, 246",false
3,road,6ec1e4,no
3,road,1BB3F5,
255,unlabelled,9B9B9B,
9,void,,true
"""
ROWS = [
    {"id": 0, "name": "water", "color": [226, 169, 41]},
    {"id": 1, "title": "land", "colour": "#8429F6"},
    {"id": 3, "name": "road", "color": "#6EC1E4"},
    {"id": 3, "name": "road", "color": "#1bb3f5"},
    {"id": 255, "name": "unlabelled", "color": "#9B9B9B"},
    {"id": 9, "name": "void", "ignore": True},
]


@pytest.mark.parametrize("name", ["t.csv", "t.json", "t.yaml", "bare.json"])
def test_the_same_table_in_every_format(tmp_path: Path, name: str) -> None:
    text = {
        "t.csv": CSV,
        "t.json": json.dumps({"classes": ROWS, "tags": []}),
        "t.yaml": "classes:\n" + "".join(f"- {json.dumps(row)}\n" for row in ROWS),
        "bare.json": json.dumps(ROWS),
    }[name]
    table = load_classes(write(tmp_path, name, text))
    assert [(found.id, found.name, found.color) for found in table.classes] == [
        (0, "water", (226, 169, 41)),
        (1, "land", (132, 41, 246)),
        (3, "road", (110, 193, 228)),
    ]
    assert dict(table.colors) == {
        (226, 169, 41): 0,
        (132, 41, 246): 1,
        (110, 193, 228): 3,
        (27, 179, 245): 3,
        (155, 155, 155): 255,
    }
    assert table.ignored_values == (9, 255)
    assert (table.dtype, table.ignore) == ("uint8", 255)


def test_without_ids_rows_are_numbered_and_ignored_ones_left_out(tmp_path: Path) -> None:
    table = load_classes(write(tmp_path, "t.csv", "name,r,g,b,ignore\nnone,0,0,0,1\ncat,1,2,3,\ndog,4,5,6,\n"))
    assert [(found.id, found.name) for found in table.classes] == [(0, "cat"), (1, "dog")]
    assert dict(table.colors) == {(0, 0, 0): 255, (1, 2, 3): 0, (4, 5, 6): 1}


def test_values_are_told_from_ids(tmp_path: Path) -> None:
    table = load_classes(write(tmp_path, "t.csv", "value,name,ignore\n0,nobody looked,1\n4,cat,\n9,dog,\n"))
    assert [(found.id, found.name) for found in table.classes] == [(0, "cat"), (1, "dog")]
    assert (table.id_by_value, table.ignored_values) == ({4: 0, 9: 1}, (0,))
    table = load_classes(write(tmp_path, "t.csv", "id,value,name\n1,4,pet\n1,9,pet\n0,0,rest\n255,3,void\n"))
    assert [(found.id, found.name) for found in table.classes] == [(0, "rest"), (1, "pet")]
    assert (table.id_by_value, table.ignored_values) == ({0: 0, 4: 1, 9: 1}, (3,))
    table = load_classes(write(tmp_path, "t.csv", "value,name\n1,wood\n2,wood\n3,water\n"))
    assert table.id_by_value == {1: 0, 2: 0, 3: 1}
    with pytest.raises(ConfigError, match=r"the value 4 is ignored in one row and a class in another$"):
        load_classes(write(tmp_path, "t.csv", "value,name,ignore\n4,cat,\n4,nobody looked,1\n"))


def test_classes_without_colours_get_default_ones(tmp_path: Path) -> None:
    table = load_classes(write(tmp_path, "t.csv", "name\nbackground\nnucleus\n"))
    assert table.colors == ()
    assert [found.color for found in table.classes] == [PALETTE[0], PALETTE[1]]


def test_ids_over_254_need_uint16(tmp_path: Path) -> None:
    table = load_classes(write(tmp_path, "t.csv", "id,name\n0,a\n300,b\n65535,nothing\n"))
    assert (table.dtype, table.ignore, table.ignored_values) == ("uint16", 65535, (65535,))


def test_only_a_background_is_black_by_default(tmp_path: Path) -> None:
    table = load_classes(write(tmp_path, "t.csv", "name\nforest\nBackground\nwater\n"))
    assert [found.color == PALETTE[0] for found in table.classes] == [False, True, False]
    assert len({found.color for found in default_classes(8)}) == 8


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "", "no rows"),
        ("t.csv", "id,color\n0,#000000\n", "row 1: no name"),
        ("t.csv", "id,name\n0,a\n,b\n", "row 2: no id"),
        ("t.csv", "id,name\n0,a\n0,b\n", "row 2: id 0 is 'a' already, got 'b'"),
        ("t.csv", "id,name\nx,a\n", "row 1: id must be a whole number"),
        ("t.csv", "id,name\n70000,a\n", "row 1: id must be a whole number"),
        ("t.csv", "value,name\nx,a\n", "row 1: value must be a whole number"),
        ("t.csv", "value,name\n4,a\n,b\n", "row 2: no value"),
        ("t.csv", "value,name\n4,a\n4,b\n", "row 2: the value 4 stands for two classes"),
        ("t.csv", "name,color\na,#12345\n", "row 1: color must be #RRGGBB"),
        ("t.csv", 'name,color\na,"1, 2, 300"\n', "row 1: color must be"),
        ("t.csv", "name,color\na,#010203\nb,#010203\n", "#010203 stands for two classes"),
        ("t.csv", "name,color\na,#010203\nb,\n", "class 'b' has no color"),
        ("t.csv", "name,ignore\na,maybe\n", "row 1: ignore must be true or false"),
        ("t.csv", "name,ignore\na,1\n", "every row is ignored"),
        ("t.json", "{", "cannot be read as JSON"),
        ("t.json", '{"labels": []}', "expected a list of classes"),
        ("t.yaml", "a: [", "cannot be read as YAML"),
        ("t.txt", "a", "expected a class table named .csv"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")) as caught:
        load_classes(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "num_classes", "some"),
    [
        ("cityscapes", 19, {0: ("road", (128, 64, 128)), 18: ("bicycle", (119, 11, 32))}),
        ("cityscapes-train", 19, {0: ("road", (128, 64, 128)), 18: ("bicycle", (119, 11, 32))}),
        (
            "pascal-voc",
            21,
            {0: ("background", (0, 0, 0)), 20: ("tvmonitor", (0, 64, 128))},
        ),
        ("camvid", 11, {0: ("sky", (128, 128, 128)), 10: ("bicyclist", (0, 128, 192))}),
    ],
)
def test_built_in_tables(name: str, num_classes: int, some: dict[int, tuple[str, tuple[int, int, int]]]) -> None:
    table = load_classes(name)
    assert len(table.classes) == num_classes
    found = {info.id: (info.name, info.color) for info in table.classes}
    assert {number: found[number] for number in some} == some
    assert sorted(found) == list(range(num_classes)), "train takes no ids with gaps"


def test_label_ids_of_cityscapes_become_its_train_ids() -> None:
    ids, train = load_classes("cityscapes"), load_classes("cityscapes-train")
    assert ids.classes == train.classes
    known = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    assert ids.id_by_value == {value: number for number, value in enumerate(known)}
    assert set(ids.ignored_values) == set(range(34)) - set(known)


def test_an_unknown_name_is_told_the_built_in_ones() -> None:
    with pytest.raises(ConfigError, match=r"cityscape: expected .* or one of camvid, cityscapes, "):
        load_classes("cityscape")


def test_a_tolerance_by_which_a_colour_could_be_of_two_classes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "name,color\na,#000000\nb,#00000A\nc,#0A0A0A\n")
    assert len(load_classes(path, tolerance=4).classes) == 3
    with pytest.raises(ConfigError, match=r"#000000 and #00000A differ by 10, .* --tolerance 5; give at most 4"):
        load_classes(path, tolerance=5)


def test_a_missing_table_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/t\.csv: the class table cannot be opened"):
        load_classes("/nowhere/t.csv")


def test_a_table_of_a_labelling_tool(data_dir: Path) -> None:
    table = load_classes(str(data_dir / "dubai_aerial" / "classes.json"))
    assert [found.name for found in table.classes] == [
        "Water", "Land (unpaved area)", "Road", "Building", "Vegetation", "Unlabeled",
    ]  # fmt: skip
    assert table.classes[0].color == (0xE2, 0xA9, 0x29)
