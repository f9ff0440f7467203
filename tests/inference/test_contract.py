from pathlib import Path

import numpy as np
import pytest

from segcore.errors import ContractError
from segcore.inference.contract import check_bands, check_contract, check_spacing
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
     ({"level": 1}, "the model reads level 1")],
)  # fmt: skip
def test_mismatch_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", np.zeros((3, 8, 8), dtype=np.uint8))
    contract = InputContract(
        bands=("band 0", "band 1", "band 2"), dtype="uint8", spacing=None, mean=(0, 0, 0), std=(1, 1, 1)
    )
    assert check_contract(contract, ws.image("a")) == []
    with pytest.raises(ContractError, match=message):
        check_contract(contract.model_copy(update=change), ws.image("a"))


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
