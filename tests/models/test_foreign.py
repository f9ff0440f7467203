"""Weights from elsewhere: what fits is taken, what does not is named, and no pickle is read unless it is allowed."""

import contextlib
import functools
import hashlib
import http.server
import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch
from torch import nn

from segcore.classes import default_classes
from segcore.config import TrainConfig
from segcore.errors import ConfigError, SegcoreError
from segcore.models import ModelConfig, build_model
from segcore.models.fitting import fitted
from segcore.models.foreign import begin_with, digest_of_init, load_foreign
from segcore.models.package import InputContract, PackageInfo, write_package
from segcore.sources.files import SourceFile
from segcore.store import Workspace


def unet(num_classes: int = 2, in_channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    arguments = {"in_channels": in_channels, "num_classes": num_classes, "channels": [4, 8]}
    return build_model(ModelConfig(architecture="unet", arguments=arguments))


def same(one: nn.Module, other: dict[str, torch.Tensor]) -> list[str]:
    """Names under which both have the same values."""
    own = one.state_dict()
    return [name for name in own if name in other and torch.equal(own[name], other[name])]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"), create=True)


class Trap:
    """A pickle that touches a file when it is read by pickle itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_fitted_takes_all_of_the_same_model() -> None:
    model, other = unet(), unet(seed=1).state_dict()
    report = fitted(model, other)
    assert same(model, other) == list(report.taken) == list(model.state_dict())
    assert (report.adapted, report.anew, report.num_unused) == ((), {}, 0)


def test_fitted_begins_anew_where_the_classes_differ_and_names_it() -> None:
    model, other = unet(num_classes=5), unet(num_classes=2, seed=1).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = fitted(model, {**other, "extra.weight": torch.zeros(2, 2)})
    assert report.anew == {
        "head.weight": "expected shape (5, 4, 1, 1), got (2, 4, 1, 1)",
        "head.bias": "expected shape (5,), got (2,)",
    }
    assert {"head.weight", "head.bias"} <= set(same(model, before))
    assert set(report.taken) == set(before) - {"head.weight", "head.bias"}
    assert report.num_unused == 3
    assert "anew: head.weight (expected shape (5, 4, 1, 1), got (2, 4, 1, 1)), head.bias" in str(report)


@pytest.mark.parametrize("prefix", ["module.", "model.net.", "_orig_mod.module."])
def test_fitted_takes_a_common_prefix_off(prefix: str) -> None:
    model, other = unet(), unet(seed=1).state_dict()
    report = fitted(model, {f"{prefix}{name}": value for name, value in other.items()} | {"step": torch.tensor(3)})
    assert same(model, other) == list(report.taken) == list(other)
    assert report.num_unused == 1


@pytest.mark.parametrize("num_bands", [1, 2, 7])
def test_fitted_adapts_the_first_convolution_so_that_equal_bands_give_the_same_answer(num_bands: int) -> None:
    model, other = unet(in_channels=num_bands).eval(), unet(in_channels=3, seed=1).eval()
    report = fitted(model, other.state_dict())
    assert report.adapted == ("down.0.0.weight",)
    assert report.anew == {}
    grey = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(
        model(grey.expand(-1, num_bands, -1, -1)), other(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5
    )
    first = model.state_dict()["down.0.0.weight"]
    expected = other.state_dict()["down.0.0.weight"].mean(1) * 3 / num_bands
    for band in range(num_bands):
        torch.testing.assert_close(first[:, band], expected)


def test_fitted_refuses_where_nothing_fits_with_an_example_of_both_sides() -> None:
    model = unet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = {"layer1.weight": torch.zeros(64, 3, 7, 7), "down.0.1.bias": torch.zeros(4)}
    with pytest.raises(ConfigError, match=r"'down.0.0.weight' of \(4, 3, 3, 3\).*'layer1.weight' of \(64, 3, 7, 7\)"):
        fitted(model, other, "init resnet.pt")
    assert same(model, before) == list(before)


def test_fitted_refuses_nan_in_what_fits_and_only_there() -> None:
    other = unet(seed=1).state_dict()
    fitted(unet(), {**other, "attention.mask": torch.full((2, 2), -torch.inf)})
    other["up.0.bias"][0] = torch.inf
    with pytest.raises(ConfigError, match=r"init x: up\.0\.bias holds NaN or Inf"):
        fitted(unet(), other, "init x")


def test_fitted_converts_half_precision_and_refuses_integers_for_floats() -> None:
    model, other = unet(), unet(seed=1).state_dict()
    half = {name: value.half() if value.is_floating_point() else value for name, value in other.items()}
    report = fitted(model, {**half, "head.bias": torch.ones(2, dtype=torch.int64)})
    assert list(report.anew) == ["head.bias"]
    assert model.state_dict()["head.weight"].dtype == torch.float32
    torch.testing.assert_close(model.state_dict()["head.weight"], half["head.weight"].float())


def test_begin_with_a_package_by_id_and_by_path(ws: Workspace) -> None:
    other = unet(seed=1)
    config = ModelConfig(architecture="unet", arguments={"in_channels": 3, "num_classes": 2, "channels": [4, 8]})
    contract = InputContract(
        bands=("r", "g", "b"), dtype="uint8", spacing=None, mean=(0.0,) * 3, std=(1.0,) * 3, stride=2
    )
    info = PackageInfo(name="cells", architecture=config, contract=contract, classes=default_classes(2))
    package = write_package(ws.objects, "models", info, other.state_dict())
    for init in (package.model_id, package.folder):
        model = unet()
        line = begin_with(model, ws, TrainConfig(workspace=ws.uri, init=init))
        assert same(model, other.state_dict()) == list(other.state_dict())
        assert line == f"begins with {init}: 40 of 40 weights taken"
        assert digest_of_init(ws, init) == package.digest
    assert begin_with(unet(), ws, TrainConfig(workspace=ws.uri)) is None
    assert digest_of_init(ws, None) is None


def test_load_foreign_reads_safetensors_and_nothing_else_under_that_name(ws: Workspace, tmp_path: Path) -> None:
    other = unet(seed=1).state_dict()
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(other, path)
    assert same(unet(seed=1), load_foreign(ws, str(path))) == list(other)
    assert digest_of_init(ws, str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()
    torch.save(other, path)
    for unsafe in (False, True):
        with pytest.raises(ConfigError, match="cannot be read as safetensors"):
            load_foreign(ws, str(path), unsafe)
    with pytest.raises(SegcoreError, match="cannot be opened"):
        load_foreign(ws, str(tmp_path / "no.safetensors"))


def test_load_foreign_reads_through_fsspec(ws: Workspace) -> None:
    import fsspec

    data = safetensors.torch.save(unet(seed=1).state_dict())
    with fsspec.open("memory://foreign/w.safetensors", "wb") as opened:
        opened.write(data)
    assert same(unet(seed=1), load_foreign(ws, "memory://foreign/w.safetensors")) == list(unet().state_dict())


class Unranged(http.server.SimpleHTTPRequestHandler):
    """Python's own server: it answers every request with the whole file."""

    told: ClassVar[dict[str, str]] = {}
    """Headers of its own."""

    def end_headers(self) -> None:
        for name, value in self.told.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        return


class SaysSo(Unranged):
    told: ClassVar[dict[str, str]] = {"Accept-Ranges": "none"}


class BreaksOff(Unranged):
    """Gives half of what it told."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        outputfile.write(data[: len(data) // 2])
        self.close_connection = True


@contextlib.contextmanager
def served(folder: Path, handler: type[Unranged]) -> Iterator[str]:
    made = functools.partial(handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who wants the first bytes hangs up
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/w.safetensors"
        server.shutdown()


@pytest.mark.parametrize("handler", [Unranged, SaysSo])
def test_load_foreign_reads_from_a_server_without_ranges(
    ws: Workspace, tmp_path: Path, handler: type[Unranged]
) -> None:
    pytest.importorskip("aiohttp")
    tensors = {"a": torch.randn(1000, 1000)}
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
    with served(tmp_path, handler) as url:
        assert torch.equal(load_foreign(ws, url)["a"], tensors["a"])
        assert digest_of_init(ws, url) == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()


def test_a_server_that_breaks_off_is_named_in_one_line(ws: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    safetensors.torch.save_file({"a": torch.randn(1000, 1000)}, tmp_path / "w.safetensors")
    with served(tmp_path, BreaksOff) as url:
        with pytest.raises(SegcoreError, match=rf"^{re.escape(url)}: cannot be read \(") as caught:
            load_foreign(ws, url)
        assert "\n" not in str(caught.value)


def test_a_file_that_changed_since_its_size_was_told_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"12345")
    file = SourceFile(str(path))
    assert file.whole() == b"12345"
    for content, got in ((b"1234567", "more"), (b"123", "3")):
        path.write_bytes(content)
        with pytest.raises(SegcoreError, match=f"expected 5 bytes, got {got}; download it again"):
            file.whole()


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_pickle_is_refused_without_the_flag_and_never_unpickled(ws: Workspace, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(unet(seed=1).state_dict(), path)
    with pytest.raises(ConfigError, match=r"set unsafe_weights, which lets torch's restricted loader read it"):
        load_foreign(ws, str(path))
    path.write_bytes(pickle.dumps({"state_dict": Trap(tmp_path / "ran")}))
    with pytest.raises(ConfigError, match="torch's restricted loader refuses it") as caught:
        load_foreign(ws, str(path), unsafe=True)
    assert "\n" not in str(caught.value)
    assert "weights_only=False" not in str(caught.value)
    torch.save({"state_dict": Trap(tmp_path / "ran")}, path)
    with pytest.raises(ConfigError, match="torch's restricted loader refuses it"):
        load_foreign(ws, str(path), unsafe=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("nested", [(), ("state_dict",), ("model",), ("model", "state_dict")])
def test_a_checkpoint_is_read_with_the_flag_however_it_is_nested(
    ws: Workspace, tmp_path: Path, nested: tuple[str, ...]
) -> None:
    other = unet(seed=1).state_dict()
    content: Any = other
    for key in reversed(nested):
        content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    torch.save(content, tmp_path / "w.pth")
    config = TrainConfig(workspace=ws.uri, init=str(tmp_path / "w.pth"), unsafe_weights=True)
    model = unet()
    line = begin_with(model, ws, config)
    assert same(model, other) == list(other)
    assert line is not None
    assert "40 of 40 weights taken" in line


def test_a_file_without_tensors_is_refused_with_what_it_holds(ws: Workspace, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"expected tensors by name.*got epoch, lr"):
        load_foreign(ws, str(tmp_path / "w.pt"), unsafe=True)
    (tmp_path / "w.pt").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="refuses it"):
        load_foreign(ws, str(tmp_path / "w.pt"), unsafe=True)
