from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import PackingOptions, gauss_newton_traces
from codesign.curvature.tapped_network import BlockTrace, check_samples_apart
from codesign.errors import CodesignError, InputError

DenseBlock = Callable[[nn.Module, Tensor, Tensor, str], Tensor]
EXACT = PackingOptions(drop=0, top_eigenvalue=True)


class Residual(nn.Module):
    """Convolutions of several kinds, a shortcut, max-pooling and BatchNorm in eval mode; in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(4, 4, (3, 1), stride=2, padding=(1, 0))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = F.leaky_relu(self.grouped(x) + x, 0.1)
        x = F.relu(self.strided(F.max_pool2d(x, 2, 1)), inplace=True)
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Positions(nn.Module):
    """Logits at every position, `[N, T, C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.mix = nn.Conv1d(5, 6, 3, padding=1)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mix(F.relu(self.first(x)).mT))
        logits: Tensor = self.last(x.mT)
        return logits


def _residual() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = Residual().double().eval()
    module.get_buffer("norm.running_mean").add_(0.2)
    module.get_buffer("norm.running_var").mul_(1.7)
    labels = torch.randint(0, 3, (6,), generator=generator)
    return module, torch.randn(6, 2, 5, 5, dtype=torch.float64, generator=generator), labels


def _positions() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    labels = torch.randint(0, 4, (5, 6), generator=generator)
    return Positions().double().eval(), torch.randn(5, 6, 3, dtype=torch.float64, generator=generator), labels


def _mlp(gain: float = 1.0) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)).double().eval()
    with torch.no_grad():
        module.get_parameter("4.weight").mul_(gain)
    labels = torch.randint(0, 5, (60,), generator=generator)
    return module, torch.randn(60, 4, dtype=torch.float64, generator=generator) * 2, labels


def _blocks(module: nn.Module, inputs: Tensor, options: PackingOptions, seed: int = 0) -> dict[str, BlockTrace]:
    network = ModuleNetwork(module, inputs.dtype)
    return dict(gauss_newton_traces(network, inputs, list(network.geometries), options, seed))


@pytest.mark.parametrize("make", [_residual, _positions, _mlp])
def test_equals_the_dense_hessian(
    make: Callable[[], tuple[nn.Module, Tensor, Tensor]], dense_block: DenseBlock
) -> None:
    module, inputs, labels = make()
    blocks = _blocks(module, inputs, EXACT)
    assert len(blocks) >= 3
    for name, block in blocks.items():
        dense = dense_block(module, inputs, labels, f"{name}.weight")
        trace = float(dense.trace())
        assert block.trace == pytest.approx(trace, rel=1e-10)
        assert block.top_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-9)
        assert (block.standard_error, block.draws) == (0.0, 0)


def test_labels_do_not_matter_for_the_dense_hessian_either(dense_block: DenseBlock) -> None:
    module, inputs, labels = _residual()
    one, other = (float(dense_block(module, inputs, y, "stem.weight").trace()) for y in (labels, (labels + 1) % 3))
    assert one == pytest.approx(other, rel=1e-10)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_chunks_do_not_matter(at_once: int) -> None:
    module, inputs, _ = _positions()
    for drop in (0.0, 0.4):
        whole = _blocks(module, inputs, PackingOptions(drop=drop, tail_draws=5), seed=3)
        parts = _blocks(module, inputs, PackingOptions(drop=drop, tail_draws=5, pairs_at_once=at_once), seed=3)
        for name, block in whole.items():
            assert block.trace == pytest.approx(parts[name].trace, rel=1e-12)
            assert block.standard_error == pytest.approx(parts[name].standard_error, rel=1e-9)


def test_sampled_tail_is_unbiased() -> None:
    module, inputs, _ = _mlp(gain=6)
    exact = _blocks(module, inputs, PackingOptions(drop=0))
    runs = [_blocks(module, inputs, PackingOptions(drop=0.3, tail_draws=4), seed) for seed in range(200)]
    for name, block in exact.items():
        found = torch.tensor([run[name].trace for run in runs], dtype=torch.float64)
        reported = torch.tensor([run[name].standard_error for run in runs], dtype=torch.float64)
        spread = float(found.std())
        assert spread > 1e-3 * block.trace  # something is sampled
        assert abs(float(found.mean()) - block.trace) < 4 * spread / 200**0.5
        assert float(reported.square().mean().sqrt()) == pytest.approx(spread, rel=0.3)


def test_same_seed_same_result_and_other_seed_another() -> None:
    module, inputs, _ = _mlp()
    options = PackingOptions(drop=0.3, tail_draws=4)
    assert _blocks(module, inputs, options, 1) == _blocks(module, inputs, options, 1)
    assert _blocks(module, inputs, options, 1) != _blocks(module, inputs, options, 2)


def test_top_eigenvalue_of_the_head_is_a_lower_bound() -> None:
    module, inputs, _ = _mlp(gain=6)
    exact = _blocks(module, inputs, EXACT)
    for drop in (0.05, 0.3):
        for name, block in _blocks(
            module, inputs, PackingOptions(drop=drop, tail_draws=4, top_eigenvalue=True)
        ).items():
            top, bound = block.top_eigenvalue, exact[name].top_eigenvalue
            assert top is not None and bound is not None
            assert 0 < top <= bound * (1 + 1e-12)
            assert top > (1 - 2 * drop) * bound


def test_gradients_that_do_not_fit_are_taken_in_groups_or_left_out() -> None:
    module, inputs, _ = _mlp()
    pairs = 60 * 4
    for limit, kept in ((48 * pairs * 8, {"0", "2", "4"}), (32 * pairs * 8, {"0", "4"}), (0, set())):
        options = PackingOptions(drop=0, top_eigenvalue=True, gradient_bytes=limit)
        blocks = _blocks(module, inputs, options)
        assert {name for name, block in blocks.items() if block.top_eigenvalue is not None} == kept
        whole = _blocks(module, inputs, EXACT)
        for name in kept:
            assert blocks[name].top_eigenvalue == pytest.approx(whole[name].top_eigenvalue, rel=1e-12)


def test_float32_is_close_to_float64() -> None:
    module, inputs, _ = _residual()
    exact = _blocks(module, inputs, PackingOptions(drop=0))
    for name, block in _blocks(module, inputs.float(), PackingOptions(drop=0)).items():
        assert block.trace == pytest.approx(exact[name].trace, rel=1e-5)


def test_some_layers_only() -> None:
    module, inputs, _ = _residual()
    network = ModuleNetwork(module, torch.float64)
    all_blocks = gauss_newton_traces(network, inputs, list(network.geometries), EXACT)
    assert gauss_newton_traces(network, inputs, ["grouped"], EXACT) == {"grouped": all_blocks["grouped"]}


def test_a_layer_without_influence_has_trace_zero() -> None:
    module, inputs, _ = _mlp()
    with torch.no_grad():
        module.get_parameter("2.weight").zero_()
        module.get_parameter("2.bias").fill_(-1)
    blocks = _blocks(module, inputs, EXACT)
    assert blocks["0"] == BlockTrace(0.0, 0.0, 0.0)
    assert blocks["2"] == BlockTrace(0.0, 0.0, 0.0)


def test_saturated_softmax_has_trace_zero() -> None:
    module, inputs, _ = _mlp()
    with torch.no_grad():
        module.get_parameter("4.bias").copy_(torch.tensor([3000.0, 0, 0, 0, 0]))
    assert _blocks(module, inputs, EXACT)["0"] == BlockTrace(0.0, 0.0, 0.0)


def test_a_layer_that_runs_twice_is_refused() -> None:
    layer = nn.Linear(4, 4)
    network = ModuleNetwork(nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 3)).eval(), torch.float32)
    inputs = torch.randn(3, 4)
    assert check_samples_apart(network, inputs) == {"3"}
    with pytest.raises(CodesignError, match=r"'0'.*2 times.*Hutchinson"):
        gauss_newton_traces(network, inputs, ["0"])


def test_a_layer_that_is_not_called_is_refused() -> None:
    network = ModuleNetwork(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.float32)
    inputs = torch.randn(3, 4, 8)
    seen = check_samples_apart(network, inputs)
    assert seen == {"linear1", "linear2"}
    with pytest.raises(CodesignError, match="0 times"):
        gauss_newton_traces(network, inputs, ["self_attn.out_proj"])


class _Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        logits: Tensor = self.last(x - x.mean(0))
        return logits


def test_samples_that_see_each_other_are_noticed() -> None:
    network = ModuleNetwork(_Mixing().eval(), torch.float64)
    with pytest.raises(CodesignError, match=r"'last'.*first axis"):
        check_samples_apart(network, torch.randn(4, 3, dtype=torch.float64))


class _SequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(x.transpose(0, 1)).mean(0)
        return logits


def test_samples_on_another_axis_are_noticed() -> None:
    network = ModuleNetwork(_SequenceFirst().eval(), torch.float64)
    with pytest.raises(CodesignError, match="first axis"):
        check_samples_apart(network, torch.randn(4, 5, 3, dtype=torch.float64))


class _Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        logits: Tensor = self.last(x)
        x.add_(1)
        return logits + x


def test_an_input_that_changes_after_the_layer_is_noticed() -> None:
    network = ModuleNetwork(_Overwriting().eval(), torch.float64)
    with pytest.raises(CodesignError, match="in place"):
        gauss_newton_traces(network, torch.randn(4, 3, dtype=torch.float64), ["last"])


def test_nan_in_the_data_names_the_sample() -> None:
    module, inputs, _ = _residual()
    inputs[4, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="sample 4"):
        _blocks(module, inputs, EXACT)


def test_no_samples_is_refused() -> None:
    module, inputs, _ = _residual()
    with pytest.raises(InputError, match="no samples"):
        _blocks(module, inputs[:0], EXACT)


@pytest.mark.parametrize(
    ("drop", "tail_draws", "pairs_at_once"),
    [(1.0, 32, 64), (-0.1, 32, 64), (float("nan"), 32, 64), (0.1, 1, 64), (0.1, 32, 0)],
)
def test_options_out_of_range_are_refused(drop: float, tail_draws: int, pairs_at_once: int) -> None:
    with pytest.raises(InputError, match="allowed"):
        PackingOptions(drop, tail_draws, pairs_at_once)
