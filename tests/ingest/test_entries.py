"""What the user asks for -> entries; or one clear line."""

import os
from pathlib import Path

import fsspec
import pytest

from segcore.config import IngestConfig
from segcore.errors import ConfigError, SourceError
from segcore.ingest.entries import image_id_of, list_entries, shown_name
from segcore.ingest.look import requests
from segcore.sources.stamps import stamp


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def config(folder: Path, **values: object) -> IngestConfig:
    return IngestConfig.model_validate({"workspace": "w", **values})


def test_image_ids_are_slugs_that_tell_equal_names_apart(tmp_path: Path) -> None:
    first, second = image_id_of("/a/Slide 1 (HE).svs"), image_id_of("/b/Slide 1 (HE).svs")
    assert first.startswith("Slide-1-HE-")
    assert first != second
    assert image_id_of("../../etc/passwd").startswith("passwd-")
    assert image_id_of("/a/..").startswith("image-")
    assert image_id_of("/patients/Jane.tif", "hash").isalnum()
    assert "Jane" not in image_id_of("/patients/Jane.tif", "hash")


def test_a_relative_path_is_the_same_source_as_its_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path, "a.tif")
    monkeypatch.chdir(tmp_path)
    assert len(list_entries(config(tmp_path, sources=("a.tif", str(tmp_path / "a.tif"))))) == 1


def test_a_name_that_is_not_utf8_fails_alone_and_can_be_printed(tmp_path: Path) -> None:
    files(tmp_path, "good.tif")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/b\xffd.tif")
    try:
        Path(odd).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for sources in ((str(tmp_path),), (odd, str(tmp_path / "good.tif"))):
        bad, good = list_entries(config(tmp_path, sources=sources))
        assert bad.source == f"{tmp_path}/b\\udcffd.tif"
        assert good.source == str(tmp_path / "good.tif")
        with pytest.raises(SourceError, match="in UTF-8"):
            requests(bad, {})


def test_folders_and_globs_are_expanded_in_order(tmp_path: Path) -> None:
    files(tmp_path, "b/2.tif", "b/1.PNG", "b/notes.txt", "c/3.jpg")
    names = [
        Path(e.source).name
        for e in list_entries(config(tmp_path, sources=(str(tmp_path / "b"), str(tmp_path / "c/*.jpg"))))
    ]
    assert names == ["1.PNG", "2.tif", "3.jpg"]


def test_a_pattern_fills_in_stem_and_parent(tmp_path: Path) -> None:
    files(tmp_path, "i/x.y.png", "m/x.y_mask.png", "i/masks/x.y/1.png", "i/masks/x.y/2.png")
    source = (str(tmp_path / "i/x.y.png"),)
    one = list_entries(config(tmp_path, sources=source, targets=str(tmp_path / "m/{stem}_mask.png")))
    assert one[0].targets == (str(tmp_path / "m/x.y_mask.png"),)
    many = list_entries(config(tmp_path, sources=source, targets="{parent}/masks/{stem}/*.png"))
    assert [Path(t).name for t in many[0].targets] == ["1.png", "2.png"]
    with pytest.raises(ConfigError, match=r"only \{stem\} and \{parent\}"):
        list_entries(config(tmp_path, sources=source, targets="{name}.png"))


def test_a_packed_volume_is_taken_from_a_folder_and_has_a_short_stem(tmp_path: Path) -> None:
    files(tmp_path, "i/ct.1.nii.gz", "i/notes.gz", "m/ct.1_seg.nii.gz")
    (entry,) = list_entries(
        config(tmp_path, sources=(str(tmp_path / "i"),), targets=f"{tmp_path}/m/{{stem}}_seg.nii.gz")
    )
    assert Path(entry.source).name == "ct.1.nii.gz"
    assert entry.targets == (str(tmp_path / "m/ct.1_seg.nii.gz"),)


def test_a_manifest_gives_targets_split_group_and_metadata(tmp_path: Path) -> None:
    files(tmp_path, "a.tif", "b.tif", "a_mask.png", "fov.gif")
    manifest = tmp_path / "images.csv"
    manifest.write_text(
        "source,target,valid,split,group,stain\na.tif,a_mask.png,fov.gif,train,p1,HE\nb.tif,,,,p2,\n", encoding="utf-8"
    )
    first, second = list_entries(config(tmp_path, manifest=str(manifest)))
    assert first.targets == (f"{tmp_path}/a_mask.png",)
    assert (first.valid, first.split, first.group, first.metadata) == (
        f"{tmp_path}/fov.gif",
        "train",
        "p1",
        (("stain", "HE"),),
    )
    assert (second.targets, second.valid, second.split, second.group, second.metadata) == ((), None, None, "p2", ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sorce,target\na,b\n", "did you mean 'source'"),
        ("source,split\na.tif,training\n", "line 2: split must be train, val or test, got 'training'"),
        ("source\n", "no rows"),
        ("source,target\na.tif\n", "as many fields as the header"),
        ("source,target\n,b\n", "the source is empty"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        list_entries(config(tmp_path, manifest=str(tmp_path / "m.csv")))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("{tmp}/*.tif", "nothing matches this pattern"),
        ("{tmp}", "no image in this folder"),
        ("{tmp}/gone.tif", "cannot be opened"),
        ("foo://x.tif", "'foo://' is not read"),
        ("{tmp}/nul\0.tif", "cannot be opened"),
    ],
)
def test_what_is_not_there_fails_alone_and_by_name(tmp_path: Path, uri: str, message: str) -> None:
    files(tmp_path / "with", "a.tif")
    given = uri.format(tmp=tmp_path / "without")
    (tmp_path / "without").mkdir()
    entries = list_entries(config(tmp_path, sources=(given, str(tmp_path / "with"))))
    assert [entry.source for entry in entries] == [given, str(tmp_path / "with" / "a.tif")]
    with pytest.raises(SourceError, match=message):
        requests(entries[0], {})


@pytest.mark.parametrize("pattern", ["m/{stem}_mask.*", "{parent}/masks/{stem}*.png"])
def test_a_name_with_the_signs_of_a_glob_has_the_target_of_that_very_name(tmp_path: Path, pattern: str) -> None:
    files(
        tmp_path,
        "d[1]/img[1].tif",
        "m/img1_mask.png",
        "m/img[1]_mask.png",
        "d[1]/masks/img[1]_x.png",
        "d1/masks/img1.png",
    )
    given = pattern if pattern.startswith("{") else f"{tmp_path}/{pattern}"
    (entry,) = list_entries(config(tmp_path, sources=(str(tmp_path / "d[1]" / "img[1].tif"),), targets=given))
    (target,) = entry.targets
    assert "img[1]" in target
    assert Path(target).exists()


def test_a_name_that_is_too_long_fails_alone(tmp_path: Path) -> None:
    files(tmp_path, "good.tif")
    long = f"{tmp_path}/{'x' * 300}.tif"
    listed = list_entries(config(tmp_path, sources=(long, str(tmp_path / "good.tif"))))
    assert [entry.source for entry in listed] == [long, str(tmp_path / "good.tif")]
    with pytest.raises(SourceError, match="File name too long"):
        requests(listed[0], {})


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "in/a.tif", "in/closed/b.tif")
    scandir, closed = os.scandir, str(tmp_path / "in" / "closed")

    def refusing(path: str) -> object:
        if os.fspath(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    first, second = list_entries(config(tmp_path, sources=(str(tmp_path / "in"),)))
    assert (first.source, second.source) == (str(tmp_path / "in" / "a.tif"), closed)
    with pytest.raises(SourceError, match=r"closed: cannot be opened \(Permission denied\)"):
        requests(second, {})


@pytest.mark.parametrize("key", ["ETag", "Last-Modified", "last_modified"])
def test_the_stamp_of_a_url_changes_with_the_object(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/stamped.tif", b"x")
    said = {"size": 1, key: "first"}
    monkeypatch.setattr(type(system), "info", lambda self, path: dict(said))
    before = stamp("memory://stamped.tif")
    said[key] = "second"
    assert stamp("memory://stamped.tif") != before


def test_a_name_without_glob_signs_in_its_pattern_is_never_a_glob(tmp_path: Path) -> None:
    files(tmp_path, "img[1].tif", "img1_mask.png")
    source, pattern = str(tmp_path / "img[1].tif"), f"{tmp_path}/{{stem}}_mask.png"
    (entry,) = list_entries(config(tmp_path, sources=(source,), targets=pattern))
    assert entry.targets == (f"{tmp_path}/img[1]_mask.png",)


@pytest.mark.parametrize("odd", ["~x.tif", "**.tif"])
def test_an_odd_name_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str) -> None:
    files(tmp_path, "good.tif")
    monkeypatch.chdir(tmp_path)
    listed = list_entries(config(tmp_path, sources=(odd, "good.tif")))
    assert [entry.source for entry in listed] == [odd, "good.tif"]
    with pytest.raises(SourceError, match=r"No such file|nothing matches this pattern"):
        requests(listed[0], {})


def test_a_pattern_that_gives_all_sources_the_same_files_is_refused(tmp_path: Path) -> None:
    files(tmp_path, "i/1.tif", "i/2.tif", "m/1.gif", "m/2.gif")
    with pytest.raises(ConfigError, match=r"gives all 2 sources the same 2 files; put \{stem\}"):
        list_entries(config(tmp_path, sources=(str(tmp_path / "i"),), targets=f"{tmp_path}/m/*"))
    (single,) = list_entries(config(tmp_path, sources=(str(tmp_path / "i/1.tif"),), targets=f"{tmp_path}/m/*"))
    assert len(single.targets) == 2


def test_a_target_pattern_without_a_match_says_so(tmp_path: Path) -> None:
    files(tmp_path, "i/1.tif")
    (entry,) = list_entries(config(tmp_path, sources=(str(tmp_path / "i"),), targets="{parent}/{stem}_mask.*"))
    with pytest.raises(SourceError, match=r"no target of .* matches this"):
        requests(entry, {})


@pytest.mark.parametrize(
    ("uri", "ids", "name"),
    [
        ("/data/Ünï.png", "name", "Ünï.png"),
        ("/data/Ünï.png", "hash", ""),
        ("https://host/a.tif?X-Amz-Signature=b/c", "name", "a.tif"),
        ("s3://bucket/scans/a.svs", "name", "a.svs"),
    ],
)
def test_the_name_that_is_shown_holds_no_signature_and_hides_with_the_id(uri: str, ids: str, name: str) -> None:
    assert shown_name(image_id_of(uri, ids), uri) == name
