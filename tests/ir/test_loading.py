"""Factories of modules and files of weights: what is loaded, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from codesign.architecture.resnet_cifar import resnet20
from codesign.errors import InputError
from codesign.ir.loading import load_module, load_program
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.weights_file import read_weights
from codesign.testing.networks import PlainNet, SmallMobileNet, randomize

SHARED = Path(__file__).parents[2] / ".." / "shared"


CHECKPOINT = SHARED / "models" / "cifar10" / "resnet20-12fca82f.th"


PLAIN = "codesign.testing.networks:PlainNet"


NETWORK_FILE = """
from torch import nn
from beside import WIDTH

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, WIDTH))

def needs(width):
    return nn.Linear(4, width)

def breaks():
    raise OSError("no such device")

def text():
    return "a network"
"""


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    path = tmp_path / "nets" / "mine.py"
    path.parent.mkdir()
    path.write_text(NETWORK_FILE)
    (path.parent / "beside.py").write_text("WIDTH = 3\n")
    return path


def test_a_factory_in_a_package(tmp_path: Path) -> None:
    module = load_module(PLAIN, None, tmp_path)
    assert isinstance(module, PlainNet)
    assert not module.training


def test_a_factory_in_a_file_beside_others(network_file: Path) -> None:
    module = load_module("nets/mine.py:make", None, network_file.parents[1])
    assert module(torch.zeros(2, 4)).shape == (2, 3)
    assert isinstance(load_module(f"{network_file}:make", None, Path("/nowhere")), nn.Module)


def test_a_package_beside_the_run_file(tmp_path: Path) -> None:
    package = tmp_path / "own_networks_for_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "small.py").write_text("from torch import nn\nnet = lambda: nn.Linear(2, 2)\n")
    assert isinstance(load_module("own_networks_for_a_test.small:net", None, tmp_path), nn.Linear)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nets/mine.py:mak", "has no 'mak'; did you mean 'make'"),
        ("nets/mine.py:needs", r"cannot be called without arguments \(missing a required argument: 'width'\)"),
        ("nets/mine.py:breaks", r"call failed \(OSError: no such device\)"),
        ("nets/mine.py:text", r"gives str; it must return a torch\.nn\.Module"),
        ("nets/other.py:make", r"other\.py: no such file; check the path"),
        ("no_such_package_at_all:make", "import failed .*No module named 'no_such_package_at_all'"),
        ("nets/mine.py", "is no network; name a factory"),
        ("network.tflite", r"is no network; name a factory as .* or a file that ends in \.onnx or \.pt2"),
    ],
)
def test_bad_factories_are_refused(network_file: Path, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_program(spec, None, (1, 4), network_file.parents[1])


def test_a_file_that_fails_to_import(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(InputError, match=r"broken\.py: import failed \(ModuleNotFoundError: No module named"):
        load_module("broken.py:make", None, tmp_path)


def _save(path: Path, state: dict[str, Tensor]) -> None:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", [None, "state_dict"])
@pytest.mark.parametrize("suffix", [".pth", ".th", ".pt", ".safetensors"])
def test_weights_are_loaded(tmp_path: Path, suffix: str, nested: str | None, prefix: str) -> None:
    source = randomize(SmallMobileNet(), seed=3)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if nested is None or suffix == ".safetensors":
        _save(path, state)
    else:
        torch.save({nested: state, "epoch": 7}, path)
    module = load_module("codesign.testing.networks:SmallMobileNet", path, tmp_path)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in module.state_dict().items())


def test_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    state = {n: v for n, v in SmallMobileNet().state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    load_module("codesign.testing.networks:SmallMobileNet", tmp_path / "old.pth", tmp_path)


def _plain_state() -> dict[str, Tensor]:
    return dict(PlainNet().state_dict())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = _plain_state()
    state["extra.weight"] = state.pop("conv1.weight")
    _save(tmp_path / "w.pth", state)
    with pytest.raises(InputError, match=r"w\.pth: .* PlainNet \(missing: conv1\.weight; unexpected: extra\.weight\)"):
        load_module(PLAIN, tmp_path / "w.pth", tmp_path)


def test_many_mismatches_name_a_few(tmp_path: Path) -> None:
    _save(tmp_path / "w.pth", {f"layer{i}.weight": torch.zeros(1) for i in range(9)})
    with pytest.raises(InputError, match=r"missing: conv1\.weight, conv1\.bias, conv2\.weight and 5 more; unexp") as e:
        load_module(PLAIN, tmp_path / "w.pth", tmp_path)
    assert len(str(e.value)) < 400


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    _save(tmp_path / "w.pth", _plain_state() | {"head.weight": torch.zeros(5, 12)})
    with pytest.raises(InputError, match=r"shapes differ: head\.weight is \[5, 12\] instead of \[10, 12\]"):
        load_module(PLAIN, tmp_path / "w.pth", tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_with_nan_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    _save(path, _plain_state() | {"head.bias": torch.full((10,), torch.nan)})
    with pytest.raises(InputError, match=r"w\.\w+: NaN or infinity in 'head\.bias'"):
        load_module(PLAIN, path, tmp_path)


class _Dangerous:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("touch pickled",)


def test_python_objects_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Dangerous()}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad\.pth: is not a file of tensors"):
        read_weights(tmp_path / "bad.pth")
    assert not (tmp_path / "pickled").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_weights_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    _save(path, _plain_state())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=rf"w{suffix}: is not a .*save it again"):
        read_weights(path)


def test_other_weight_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(InputError, match=r"w\.h5: weights must be one of \.pt, \.pth, \.safetensors, \.th"):
        read_weights(tmp_path / "w.h5")
    with pytest.raises(InputError, match=r"none\.pth: no such file"):
        read_weights(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list\.pth: holds no state dict"):
        read_weights(tmp_path / "list.pth")


@pytest.mark.skipif(not CHECKPOINT.exists(), reason=f"{CHECKPOINT.name} is not there")
def test_the_published_resnet20() -> None:
    program = load_program(
        "codesign.architecture.resnet_cifar:resnet20", str(CHECKPOINT.resolve()), (1, 3, 32, 32), Path()
    )
    assert len(program.weighted_nodes) == 20
    data = np.load(SHARED / "data" / "cifar10" / "lossless_test.npz")
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = TorchGraph(program.graph).run((images - mean[:, None, None]) / std[:, None, None])
    accuracy = float((logits.argmax(1).numpy() == data["labels"]).mean())
    assert abs(accuracy - 0.916) < 0.003


def test_a_module_needs_an_input_shape(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"PlainNet: a module does not tell its input_shape; give it"):
        load_program(PLAIN, None, None, tmp_path)


def test_weights_beside_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights: net\.onnx holds its own, got w\.pth beside it"):
        load_program("net.onnx", "w.pth", None, tmp_path)


def test_resnet20_is_found_by_name() -> None:
    assert isinstance(load_module("codesign.architecture.resnet_cifar:resnet20", None, Path()), type(resnet20()))
