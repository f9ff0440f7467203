from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.errors import ContractError
from segcore.inference.contract import Fit, check_bands, check_contract, check_spacing, nearest_level
from segcore.models.info import InputContract
from segcore.spatial import Spacing
from segcore.store import Workspace
from tests.synthetic import put_image


def spacing(value: float, unit: str = "micrometer") -> Spacing:
    return Spacing(values={"y": value, "x": value}, unit=unit, origin="file")


@pytest.mark.parametrize(
    ("expected", "got"),
    [(spacing(0.5), spacing(0.5)), (spacing(0.5), spacing(0.54)), (spacing(0.5), spacing(0.0005, "millimeter")),
     (spacing(1, "degree"), spacing(1, "degree")), (None, None)],
)  # fmt: skip
def test_spacing_within_tolerance_passes(expected: Spacing | None, got: Spacing | None) -> None:
    assert check_spacing(expected, got, 0.1, "image a") == []


def test_unknown_spacing_is_a_warning() -> None:
    assert check_spacing(None, spacing(0.5), 0.1, "image a") == [
        "image a: pixel size of the model is unknown, the other's is 0.5 x 0.5 micrometer per pixel; taken as the same"
    ]
    assert "of the image is unknown" in check_spacing(spacing(0.5), None, 0.1, "image a")[0]


@pytest.mark.parametrize("got", [spacing(0.56), spacing(0.25), spacing(0.5, "degree"), spacing(0.5, "meter")])
def test_other_spacing_is_refused_with_both_sides(got: Spacing) -> None:
    with pytest.raises(ContractError, match=r"expects 0\.5 x 0\.5 micrometer per pixel.* image has"):
        check_spacing(spacing(0.5), got, 0.1, "image a")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"bands": ("band 0",), "mean": (0,), "std": (1,)}, "expects the bands band 0 in this order, the image has band"),
     ({"dtype": "uint16"}, "expects uint16 pixels, the image has uint8"),
     ({"level": 1}, "the model reads level 1, the image has the levels 0 to 0")],
)  # fmt: skip
def test_mismatch_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", np.zeros((3, 8, 8), dtype=np.uint8))
    contract = InputContract(
        bands=("band 0", "band 1", "band 2"), dtype="uint8", spacing=None, mean=(0, 0, 0), std=(1, 1, 1)
    )
    fit = check_contract(contract, ws.image("a"))
    assert (fit.grid.level, fit.warnings) == (0, ())
    with pytest.raises(ContractError, match=message):
        check_contract(contract.model_copy(update=change), ws.image("a"))


def fit_of(
    tmp_path: Path, own: Spacing | None, expected: Spacing | None, level: int = 0, tolerance: float | None = None
) -> Fit:
    """The fit of an image of three levels, with pixels of `own` size."""
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", np.zeros((1, 1100, 40), dtype=np.uint8), spacing=own)
    assert ws.image("a").num_levels == 3
    contract = InputContract(bands=("band 0",), dtype="uint8", spacing=expected, level=level, mean=(0,), std=(1,))
    return check_contract(contract, ws.image("a"), tolerance)


@pytest.mark.parametrize(
    ("own", "expected", "level"),
    [(0.5, 0.5, 0), (0.25, 0.5, 1), (0.25, 1.0, 2), (0.125, 0.5, 2), (0.26, 0.5, 1), (0.252, 1.0, 2), (0.5, 0.52, 0)],
)
def test_the_level_of_the_models_pixel_size_is_read(tmp_path: Path, own: float, expected: float, level: int) -> None:
    fit = fit_of(tmp_path, spacing(own), spacing(expected), level=2)  # what a model was trained on decides nothing here
    assert fit.grid.level == level
    assert fit.warnings == ()


@pytest.mark.parametrize(("own", "expected"), [(None, 0.5), (0.5, None), (None, None)])
def test_without_a_pixel_size_the_models_own_level_is_read(
    tmp_path: Path, own: float | None, expected: float | None
) -> None:
    sizes = [None if value is None else spacing(value) for value in (own, expected)]
    for level in (0, 1):
        fit = fit_of(tmp_path, *sizes, level=level)
        assert fit.grid.level == level
        assert len(fit.warnings) == (own is not expected)


def test_a_pixel_size_that_no_level_has_is_refused_with_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as refused:
        fit_of(tmp_path, spacing(0.25), spacing(0.7))
    assert (
        "image a: the model expects 0.7 x 0.7 micrometer per pixel within 10%, "
        "the image has 0.25 x 0.25 micrometer per pixel, and its levels 0.25 x 0.25, 0.5 x 0.5, 1 x 1"
    ) in str(refused.value)
    with pytest.raises(ContractError, match=r"within 10%"):
        fit_of(tmp_path, spacing(0.25), spacing(4))
    with pytest.raises(ContractError, match=r"expects 1 x 1 degree per pixel, the image has 0\.25"):
        fit_of(tmp_path, spacing(0.25), spacing(1, "degree"))


@pytest.mark.parametrize(
    ("own", "expected", "level", "tolerance", "step"),
    [((0.51, 0.5), 0.5, 0, None, (1, 1)), ((0.51, 0.5), 1.0, 1, None, (1, 1)),
     ((0.53, 0.5), 1.0, 1, None, (1 / 1.06, 1)),
     ((0.27, 0.23), 0.5, 1, None, (0.5 / 0.54, 0.5 / 0.46)), ((1, 1), 0.5, 0, 1.0, (0.5, 0.5)),
     ((0.5, 0.5), 0.7, 0, 0.3, (1.4, 1.4)), ((0.5, 0.5), 6.0, 2, 0.7, (3, 3))],
)  # fmt: skip
def test_a_size_that_is_near_is_resampled(
    tmp_path: Path, own: tuple[float, float], expected: float, level: int, tolerance: float | None, step: Any
) -> None:
    size = Spacing(values=dict(zip("yx", own, strict=True)), unit="micrometer", origin="file")
    grid = fit_of(tmp_path, size, spacing(expected), tolerance=tolerance).grid
    assert grid.level == level
    assert grid.step == pytest.approx(step)
    assert grid.is_resampled == (step != (1, 1))
    assert grid.mask_shape == grid.image.shape(level)[1:]


def test_a_smaller_tolerance_refuses_what_the_contract_would_take(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"within 3%.* give spacing_tolerance: 0\.04 to have it resampled"):
        fit_of(tmp_path, spacing(0.52), spacing(0.5), tolerance=0.03)


def test_the_nearest_level_is_found_by_ratio() -> None:
    """0.71 and 1.41 times level 0's size lie on either side of the middle between two levels."""
    for own, level in ((1.0, 0), (1.40, 0), (1.42, 1), (2.82, 1), (2.84, 2), (40, 3), (0.1, 0)):
        assert nearest_level(spacing(own), spacing(1), 4, "image a") == level
    oblong = Spacing(values={"y": 1, "x": 2}, unit="micrometer", origin="file")
    assert nearest_level(spacing(4), oblong, 4, "image a") == 1  # x is right there, as y is on the next: the finer


def test_band_names_that_only_count_are_a_warning_others_must_agree() -> None:
    named, counted = ("red", "green", "blue"), ("band 1", "band 2", "band 3")
    assert check_bands(named, named, "image a") == []
    (warning,) = check_bands(named, counted, "image a")
    assert "red, green, blue" in warning
    assert "band 1, band 2, band 3" in warning
    with pytest.raises(ContractError, match="in this order"):
        check_bands(named, ("blue", "green", "red"), "image a")
    with pytest.raises(ContractError, match="in this order"):
        check_bands(named, counted[:2], "image a")


def test_bands_are_compared_by_name_where_they_have_one() -> None:
    assert check_bands(("red", "nir"), ("red", "nir"), "image a") == []
    warning = check_bands(("red", "nir"), ("band 1", "band 2"), "image a")
    assert len(warning) == 1
    assert warning[0].startswith("image a: the model expects the bands red, nir in this order, the image has band 1")
    for got in (("nir", "red"), ("red",), ("band 1", "band 2", "band 3")):
        with pytest.raises(ContractError, match="expects the bands red, nir in this order, the image has"):
            check_bands(("red", "nir"), got, "image a")
