"""Roots: what lies below them, however it is spelled; and that every way into a file asks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.config import IngestConfig
from segcore.errors import ConfigError, SourceError
from segcore.ingest import ingest
from segcore.roots import DASK_SCHEDULERS, SOURCE_ROOTS, WORKSPACE_ROOTS, check_settings, check_source, may_read


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`in` may be read, `out` written; beside them lies what neither is."""
    for name in ("in", "out", "secret"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / name / "a.png")
    monkeypatch.setenv(SOURCE_ROOTS, f"{tmp_path}/in; https://tiles.example.org/open ;s3://bucket/in/")
    monkeypatch.setenv(WORKSPACE_ROOTS, f"{tmp_path}/out")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "allowed"),
    [
        ("{}/in/a.png", True),
        ("{}/in", True),
        ("{}/in/*.png", True),
        ("file://{}/in/a.png", True),
        ("{}/out/a.png", True),
        ("{}/in/b.h5::/raw", True),
        ("{}/secret/a.png", False),
        ("{}/in/../secret/a.png", False),
        ("{}/in/*/../../secret/*", False),
        ("{}/input/a.png", False),
        ("/etc/passwd", False),
        ("~/x.png", False),
        ("filecache::/etc/passwd", False),
        ("https://tiles.example.org/open/a.tif", True),
        ("https://tiles.example.org/opened/a.tif", False),
        ("https://tiles.example.org@evil.example/open/a.tif", False),
        ("https://tiles.example.org/open/../closed/a.tif", False),
        ("https://tiles.example.org/open/%2e%2e/closed/a.tif", False),
        ("http://169.254.169.254/latest/meta-data", False),
        ("s3://bucket/in/2026/a.tif", True),
        ("s3://bucket/inner/a.tif", False),
        ("s3://other/in/a.tif", False),
    ],
)
def test_what_may_be_read(roots: Path, place: str, allowed: bool) -> None:
    assert may_read(place.format(roots)) is allowed


def test_a_run_works_with_the_listed_dask_schedulers_alone(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"workspace": f"{roots}/out/w"}
    monkeypatch.setenv(DASK_SCHEDULERS, "tls://gpus:8786; tls://more:8786")
    for allowed in (None, "LOCAL:2", "tls://more:8786"):
        check_settings({**where, "dask": allowed})
    with pytest.raises(ConfigError, match=r"dask tcp://evil:8786: .* sets SEGCORE_DASK_SCHEDULERS"):
        check_settings({**where, "dask": "tcp://evil:8786"})


def test_reports_of_elsewhere_are_not_compared(roots: Path) -> None:
    with pytest.raises(ConfigError, match=r"compare .*secret/w/reports/x: lies outside"):
        check_settings({"workspace": f"{roots}/out/w", "compare": ("mine", f"{roots}/secret/w/reports/x")})


def test_a_link_counts_as_what_it_leads_to(roots: Path) -> None:
    (roots / "in" / "link.png").symlink_to(roots / "secret" / "a.png")
    assert not may_read(str(roots / "in" / "link.png"))


def test_without_roots_nothing_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOURCE_ROOTS, raising=False)
    monkeypatch.delenv(WORKSPACE_ROOTS, raising=False)
    check_source("/etc/passwd")
    check_settings({"sources": ["/etc"], "workspace": "/"})


def test_one_list_alone_lets_nothing_else_through(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE_ROOTS)
    with pytest.raises(ConfigError, match="may write; whoever runs the worker sets SEGCORE_WORKSPACE_ROOTS"):
        check_settings({"workspace": f"{roots}/out"})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sources": ["{}/in", "/etc"]}, "sources /etc"),
        ({"manifest": "{}/secret/m.csv"}, "manifest .*m.csv"),
        ({"classes": "/etc/passwd"}, "classes /etc/passwd"),
        ({"model": "s3://other/model"}, "model s3://other/model"),
        ({"ensemble": ["unet-01234567", "../x"]}, "ensemble"),
        ({"workspace": "{}/in"}, "workspace .*in"),
        ({"output": "/etc/cron.d"}, "output /etc/cron.d"),
    ],
)
def test_settings_outside_the_roots_are_refused(roots: Path, settings: dict[str, object], named: str) -> None:
    filled = {
        key: [each.format(roots) for each in value] if isinstance(value, list) else str(value).format(roots)
        for key, value in settings.items()
    }
    with pytest.raises(ConfigError, match=f"^{named}.*: lies outside what this deployment may"):
        check_settings(filled)


def test_names_in_the_workspace_are_no_places(roots: Path) -> None:
    check_settings({"workspace": f"{roots}/out/w", "model": "unet-01234567", "classes": "cityscapes", "aoi": None})


def test_a_manifest_within_the_roots_reaches_nothing_outside(roots: Path) -> None:
    (roots / "in" / "m.csv").write_text(f"source\na.png\n{roots}/secret/a.png\n")
    config = IngestConfig(workspace=f"{roots}/out/w", manifest=f"{roots}/in/m.csv", processes=1)
    inside, outside = ingest(config).items
    assert inside.state == "done"
    assert (outside.state, outside.error) == (
        "failed",
        f"{roots}/secret/a.png: lies outside what this deployment may read; whoever runs the worker sets "
        "SEGCORE_SOURCE_ROOTS",
    )


@pytest.mark.parametrize("pattern", ["{{parent}}/../secret/{{stem}}*.png", "{roots}/secret/{{stem}}_.png"])
def test_a_pattern_of_targets_tells_nothing_of_what_lies_outside(roots: Path, pattern: str) -> None:
    settings = {"workspace": f"{roots}/out/w", "sources": [f"{roots}/in/a.png"], "targets": pattern.format(roots=roots)}
    check_settings(settings | {"aoi": "{parent}/{stem}.geojson"})  # known when it is filled in
    (item,) = ingest(IngestConfig.model_validate({**settings, "processes": 1})).items
    named = settings["targets"].format(parent=f"{roots}/in", stem="a")  # type: ignore[attr-defined]
    assert str(item.error).startswith(f"{named}: lies outside what this deployment may read")


def test_check_source_names_the_file(roots: Path) -> None:
    with pytest.raises(SourceError, match=r"^/etc/passwd: lies outside"):
        check_source("/etc/passwd")
