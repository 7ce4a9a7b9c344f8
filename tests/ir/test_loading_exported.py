"""Programs exported by torch: what is loaded, and what is refused."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from codesign.errors import InputError
from codesign.ir.loading import load_exported, load_program
from codesign.ir.lowering import relative_difference
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program
from codesign.testing.networks import PlainNet, randomize

Lowered = Callable[[str], Program]


def _images(shape: tuple[int, ...], count: int = 3) -> Tensor:
    return torch.randn((count, *shape[1:]), generator=torch.Generator().manual_seed(1))


def _export(path: Path, module: nn.Module, batch: int, dynamic: bool) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    exported = torch.export.export(module.eval(), (torch.randn(batch, 1, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(exported, path)
    return path


@pytest.mark.parametrize("dynamic", [True, False])
def test_exported_programs(lowered: Lowered, tmp_path: Path, dynamic: bool) -> None:
    _export(tmp_path / "net.pt2", randomize(PlainNet()), 2 if dynamic else 1, dynamic)
    program, ours = load_program("net.pt2", None, None, tmp_path), lowered("plain")
    assert [node.name for node in program.weighted_nodes] == ["conv1", "conv2", "hidden", "head"]
    x = _images(program.input_shape)
    assert relative_difference(TorchGraph(program.graph).run(x), TorchGraph(ours.graph).run(x)) < 1e-6
    if dynamic:
        assert program.parameter_of == ours.parameter_of
        assert program.module is not None
        assert program.module(x).shape == (3, 10)
    else:
        assert program.module is None


def test_an_exported_fixed_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"net\.pt2: input 'x' has a fixed batch of 4"):
        load_exported(_export(tmp_path / "net.pt2", PlainNet(), 4, dynamic=False))


def test_damaged_exported_programs_are_refused(tmp_path: Path) -> None:
    path = _export(tmp_path / "net.pt2", PlainNet(), 1, dynamic=False)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"net\.pt2: is not a whole file of torch\.export\.save"):
        load_exported(path)
    with pytest.raises(InputError, match=r"none\.pt2: no such file"):
        load_exported(tmp_path / "none.pt2")
    torch.save(PlainNet().state_dict(), path)
    with pytest.raises(InputError, match=r"net\.pt2: is not a whole file of torch\.export\.save"):
        load_exported(path)


def _rewrite(path: Path, part: str, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if re.search(part, name))
    entries[name] = change(entries[name])
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "weights_config",
            lambda data: data.replace(b'"use_pickle": false', b'"use_pickle": true', 1),
            "holds pickled Python objects",
        ),
        (
            r"models/model\.json",
            lambda data: re.sub(rb"Symbol\('(\w+)'", rb"exec('\1'", data, count=1),
            "where a size should stand",
        ),
    ],
)
def test_code_in_exported_programs_is_refused(
    tmp_path: Path, part: str, change: Callable[[bytes], bytes], message: str
) -> None:
    path = _export(tmp_path / "net.pt2", PlainNet(), 2, dynamic=True)
    _rewrite(path, part, change)
    with pytest.raises(InputError, match=message):
        load_exported(path)
