from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.curvature import output_curvature, output_factor, packed_gauss_newton
from codesign.curvature.loss import CrossEntropy, Loss, SampleLoss, SquaredError
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import (
    GaussNewtonResult,
    PackingOptions,
    gauss_newton_blocks,
    gauss_newton_spectrum,
)
from codesign.curvature.tapped_network import BlockCurvature, Tap, check_samples_apart
from codesign.errors import CodesignError, InputError
from codesign.progress import Silent

Made = tuple[nn.Module, Tensor, Tensor]
EXACT = PackingOptions(drop=0, eigenvalues=3)


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


def _residual() -> Made:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = Residual().double().eval()
    module.get_buffer("norm.running_mean").add_(0.2)
    module.get_buffer("norm.running_var").mul_(1.7)
    labels = torch.randint(0, 3, (6,), generator=generator)
    return module, torch.randn(6, 2, 5, 5, dtype=torch.float64, generator=generator), labels


def _positions() -> Made:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    labels = torch.randint(0, 4, (5, 6), generator=generator)
    return Positions().double().eval(), torch.randn(5, 6, 3, dtype=torch.float64, generator=generator), labels


def _mlp(gain: float = 1.0) -> Made:
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)).double().eval()
    with torch.no_grad():
        module.get_parameter("4.weight").mul_(gain)
    labels = torch.randint(0, 5, (60,), generator=generator)
    return module, torch.randn(60, 4, dtype=torch.float64, generator=generator) * 2, labels


def _non_convex(output: Tensor, target: Tensor) -> Tensor:
    return torch.cos(2 * output + target).sum() + output.flatten()[0] * output.flatten()[-1]


def _logistic(output: Tensor, target: Tensor) -> Tensor:
    return F.softplus(-output * target).mean()


LOSSES: dict[str, Loss] = {
    "cross-entropy": CrossEntropy(),
    "squared-error": SquaredError(),
    "convex function": SampleLoss(_logistic),
    "non-convex function": SampleLoss(_non_convex),
}


def _targets(loss: Loss, module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    if isinstance(loss, CrossEntropy):
        return labels
    generator = torch.Generator().manual_seed(7)
    return torch.randn(module(inputs).shape, dtype=torch.float64, generator=generator)


def _run(
    module: nn.Module,
    inputs: Tensor,
    options: PackingOptions,
    seed: int = 0,
    loss: Loss | None = None,
    targets: Tensor | None = None,
    activations: Sequence[str] = (),
) -> GaussNewtonResult:
    network = ModuleNetwork(module, inputs.dtype)
    layers = list(network.geometries)
    return gauss_newton_blocks(network, inputs, layers, loss, targets, options, seed, activations=activations)


def _blocks(module: nn.Module, inputs: Tensor, options: PackingOptions, seed: int = 0) -> Mapping[str, BlockCurvature]:
    return _run(module, inputs, options, seed).blocks


def _dense(module: nn.Module, inputs: Tensor, targets: Tensor, parameter: str, loss: Loss) -> Tensor:
    """The Hessian `[n, n]` of the mean loss in one parameter, by autograd alone."""
    value = dict(module.named_parameters())[parameter].detach()

    def mean_loss(weight: Tensor) -> Tensor:
        outputs = torch.func.functional_call(module, {parameter: weight}, (inputs,))
        return loss.total(outputs, targets) / loss.as_rows(outputs).shape[:2].numel()

    hessian: Tensor = torch.autograd.functional.hessian(mean_loss, value)  # type: ignore[no-untyped-call] # torch has no types
    return hessian.reshape(value.numel(), value.numel())


@pytest.mark.parametrize("make", [_residual, _positions, _mlp])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_equals_the_dense_hessian(make: Callable[[], Made], loss: Loss) -> None:
    module, inputs, labels = make()
    inputs, labels = inputs[:12], labels[:12]
    targets = _targets(loss, module, inputs, labels)
    network = ModuleNetwork(module, inputs.dtype)
    blocks = _run(module, inputs, EXACT, loss=loss, targets=targets).blocks
    assert len(blocks) >= 3
    for name, block in blocks.items():
        dense = _dense(module, inputs, targets, f"{name}.weight", loss)
        wanted = torch.linalg.eigvalsh(dense).flip(0)
        assert block.trace == pytest.approx(float(dense.trace()), rel=1e-9)
        assert block.eigenvalues == pytest.approx(wanted[:3].tolist(), rel=1e-9, abs=1e-12)
        assert (block.standard_error, block.draws) == (0.0, 0)
        found = gauss_newton_spectrum(network, inputs, name, loss, targets)
        wanted = wanted[wanted.abs() > 1e-12 * wanted.abs().max()]
        assert len(found) >= len(wanted)  # float64 rounding hides less here than in the dense matrix
        found = found[found.abs() > 1e-12 * found.abs().max()]
        assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-12)


def test_the_non_convex_loss_is_indefinite() -> None:
    module, inputs, labels = _mlp()
    loss = LOSSES["non-convex function"]
    targets = _targets(loss, module, inputs, labels)
    found = gauss_newton_spectrum(ModuleNetwork(module, torch.float64), inputs, "2", loss, targets)
    assert found[0] > 0 > found[-1]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_traces_in_what_enters_layers(loss: Loss) -> None:
    module, inputs, labels = _mlp()
    inputs, labels = inputs[:7], labels[:7]
    targets = _targets(loss, module, inputs, labels)
    assert isinstance(module, nn.Sequential)
    found = _run(module, inputs, EXACT, loss=loss, targets=targets, activations=["0", "2", "4"]).activations
    for name, block in found.items():
        entering, rest = module[: int(name)](inputs).detach(), module[int(name) :]
        total = 0.0
        for a, y in zip(entering, targets, strict=True):

            def of_sample(a: Tensor, y: Tensor = y, rest: nn.Module = rest) -> Tensor:
                return loss.total(rest(a.unsqueeze(0)), y.unsqueeze(0))

            hessian: Tensor = torch.autograd.functional.hessian(of_sample, a)  # type: ignore[no-untyped-call] # torch has no types
            total += float(hessian.trace())
        assert block.trace == pytest.approx(total / len(inputs), rel=1e-9)


def test_activations_of_a_padded_convolution_and_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular"), nn.Flatten()
    )
    module, inputs = module.double().eval(), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    network = ModuleNetwork(module, torch.float64)
    found = gauss_newton_blocks(network, inputs, [], SquaredError(), options=EXACT, activations=["2"])
    jacobian = torch.autograd.functional.jacobian(module[2:], module[:2](inputs[:1]).detach())  # type: ignore[no-untyped-call] # torch has no types
    assert found.blocks == {}
    assert found.activations["2"].trace == pytest.approx(float(jacobian.square().sum()) * 2 / 32, rel=1e-12)


class _Rearranging(ModuleNetwork):
    def __call__(self, inputs: Tensor, tap: Tap | None = None) -> Tensor:
        if tap is None:
            return super().__call__(inputs)
        return super().__call__(inputs, lambda name, entering, leaving: tap(name, entering.clone(), leaving))


def test_a_tap_that_sees_a_rearrangement_is_noticed() -> None:
    module, inputs, _ = _mlp()
    network = _Rearranging(module, torch.float64)
    with pytest.raises(CodesignError, match=r"'2'.*rearrangement"):
        gauss_newton_blocks(network, inputs, ["2"], activations=["2"])


def test_what_enters_from_token_numbers_has_no_trace() -> None:
    network = ModuleNetwork(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)).eval(), torch.float64)
    tokens = torch.tensor([[0, 1], [2, 4]])
    assert gauss_newton_blocks(network, tokens, ["1"], options=EXACT).blocks["1"].trace > 0
    with pytest.raises(InputError, match=r"'1'.*no differentiable function"):
        gauss_newton_blocks(network, tokens, ["1"], options=EXACT, activations=["1"])


@pytest.mark.parametrize("at_once", [1, 7, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_do_not_matter(at_once: int, dtype: torch.dtype) -> None:
    module, inputs, _ = _positions()
    for drop in (0.0, 0.4):
        options = {"drop": drop, "tail_draws": 5, "eigenvalues": 2}
        whole = _run(module, inputs.to(dtype), PackingOptions(**options), 3, activations=["mix"])  # type: ignore[arg-type] # mixed values
        parts = _run(module, inputs.to(dtype), PackingOptions(**options, pairs_at_once=at_once), 3, activations=["mix"])  # type: ignore[arg-type] # mixed values
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        pairs = [(block, parts.blocks[name]) for name, block in whole.blocks.items()]
        for one, other in [*pairs, (whole.activations["mix"], parts.activations["mix"])]:
            assert one.trace == pytest.approx(other.trace, rel=tolerance)
            assert one.standard_error == pytest.approx(other.standard_error, rel=1e3 * tolerance)
            assert one.eigenvalues == pytest.approx(other.eigenvalues, rel=tolerance)


def test_memory_does_not_matter() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).double().eval()
    inputs = torch.randn(10, 64, dtype=torch.float64)
    small, large = (_run(module, inputs, PackingOptions(0, eigenvalues=3, memory_bytes=m)) for m in (2**20, 2**30))
    # The first layer's gradients came in two passes of 10 forwards and 20 backwards.
    assert small.passes_over_data == pytest.approx(large.passes_over_data + 3)
    for name, block in small.blocks.items():
        assert block.trace == pytest.approx(large.blocks[name].trace, rel=1e-12)
        assert block.eigenvalues == pytest.approx(large.blocks[name].eigenvalues, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("make", [_positions, _mlp])
def test_sampled_tail_is_unbiased(make: Callable[[], Made], loss: Loss) -> None:
    module, inputs, labels = make()
    targets = _targets(loss, module, inputs, labels)
    exact = _run(module, inputs, PackingOptions(drop=0), loss=loss, targets=targets).blocks
    options = PackingOptions(drop=0.6, tail_draws=8, max_pairs=3)
    runs = [_run(module, inputs, options, seed, loss, targets).blocks for seed in range(30)]
    for name, block in exact.items():
        found = torch.tensor([run[name].trace for run in runs], dtype=torch.float64)
        reported = torch.tensor([run[name].standard_error for run in runs], dtype=torch.float64)
        spread = float(found.std())
        assert {run[name].draws for run in runs} == {8}
        assert abs(float(found.mean()) - block.trace) < 4 * spread / 30**0.5
        assert float(reported.square().mean().sqrt()) == pytest.approx(spread, rel=0.6)


def test_one_draw_for_many_rows_is_better_than_a_pair() -> None:
    module, inputs, _ = _positions()
    exact = _blocks(module, inputs, PackingOptions(drop=0))
    drawn = _blocks(module, inputs, PackingOptions(drop=0.99, max_pairs=0, tail_draws=400))
    for name, block in drawn.items():
        assert block.standard_error * 400**0.5 < 1.0 * exact[name].trace


def test_draws_go_on_until_the_error_is_small_enough() -> None:
    module, inputs, _ = _mlp(gain=6)
    exact = _blocks(module, inputs, PackingOptions(drop=0))
    few = _blocks(module, inputs, PackingOptions(drop=0.5, tail_draws=4))
    assert max(block.standard_error / block.trace for block in few.values()) > 0.02
    options = PackingOptions(drop=0.5, tail_draws=4, relative_error=0.02)
    assert _blocks(module, inputs, options) == _blocks(module, inputs, options)
    for name, block in _blocks(module, inputs, options).items():
        assert block.standard_error <= 0.02 * block.trace
        assert block.draws > 4
        assert abs(block.trace - exact[name].trace) < 4 * block.standard_error


def test_time_that_is_up_is_said() -> None:
    module, inputs, _ = _mlp(gain=6)
    network, notes = ModuleNetwork(module, torch.float64), list[str]()
    options = PackingOptions(drop=0.5, tail_draws=4, relative_error=1e-9, seconds=1e-9)
    found = gauss_newton_blocks(network, inputs, ["0"], options=options, progress=Silent(notes.append))
    assert found.blocks["0"].draws == 4
    assert len(notes) == 1
    assert "after the time allowed" in notes[0]


def test_an_error_out_of_reach_ends_at_the_most_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_gauss_newton, "_MOST_DRAWS", 20)
    module, inputs, _ = _mlp(gain=6)
    network, notes = ModuleNetwork(module, torch.float64), list[str]()
    options = PackingOptions(drop=0.5, tail_draws=4, relative_error=1e-9)
    found = gauss_newton_blocks(network, inputs, ["0"], options=options, progress=Silent(notes.append))
    assert found.blocks["0"].draws == 20
    assert "at the most draws" in notes[0]


def test_same_seed_same_result_and_other_seed_another() -> None:
    module, inputs, _ = _mlp()
    options = PackingOptions(drop=0.3, tail_draws=4)
    assert _blocks(module, inputs, options, 1) == _blocks(module, inputs, options, 1)
    assert _blocks(module, inputs, options, 1) != _blocks(module, inputs, options, 2)


def test_eigenvalues_of_the_head_are_lower_bounds() -> None:
    module, inputs, _ = _mlp(gain=6)
    exact = _blocks(module, inputs, EXACT)
    for drop in (0.05, 0.3):
        options = PackingOptions(drop=drop, tail_draws=4, eigenvalues=3)
        for name, block in _blocks(module, inputs, options).items():
            for found, bound in zip(block.eigenvalues, exact[name].eigenvalues, strict=True):
                assert 0 < found <= bound * (1 + 1e-12)
            assert block.eigenvalues[0] > (1 - 2 * drop) * exact[name].eigenvalues[0]


def test_softmax_columns_give_the_same_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs, _ = _positions()
    wanted = _blocks(module, inputs, EXACT)
    monkeypatch.setattr(output_factor, "EIGEN_CLASSES", 2)
    for name, block in _blocks(module, inputs, EXACT).items():
        assert block.trace == pytest.approx(wanted[name].trace, rel=1e-12)
        assert block.eigenvalues == pytest.approx(wanted[name].eigenvalues, rel=1e-12)


def test_outputs_that_do_not_fit_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_curvature, "_BYTES_PER_PAIR", 2**40)
    module, inputs, _ = _positions()
    exact = {name: block.trace for name, block in _blocks(module, inputs, PackingOptions(drop=0)).items()}
    monkeypatch.undo()
    truth = _blocks(module, inputs, PackingOptions(drop=0))
    assert exact != {name: block.trace for name, block in truth.items()}
    monkeypatch.setattr(output_curvature, "_BYTES_PER_PAIR", 2**40)
    notes = list[str]()
    network = ModuleNetwork(module, torch.float64)
    options = PackingOptions(drop=0, tail_draws=300, eigenvalues=2)
    found = gauss_newton_blocks(network, inputs, ["first", "mix"], options=options, progress=Silent(notes.append))
    for name, block in found.blocks.items():
        assert (block.draws, block.eigenvalues) == (300, ())
        assert block.standard_error < 0.1 * block.trace
        assert abs(block.trace - truth[name].trace) < 4 * block.standard_error
    assert "do not fit" in notes[0]
    with pytest.raises(InputError, match="spectrum does not fit"):
        gauss_newton_spectrum(network, inputs, "mix")


def test_float32_is_close_to_float64() -> None:
    module, inputs, _ = _residual()
    exact = _blocks(module, inputs, EXACT)
    for name, block in _blocks(module, inputs.float(), EXACT).items():
        assert block.trace == pytest.approx(exact[name].trace, rel=1e-5)
        assert block.eigenvalues == pytest.approx(exact[name].eigenvalues, rel=1e-5)


def test_some_layers_only() -> None:
    module, inputs, _ = _residual()
    network = ModuleNetwork(module, torch.float64)
    block = gauss_newton_blocks(network, inputs, ["grouped"], options=EXACT).blocks["grouped"]
    assert block.trace == pytest.approx(_blocks(module, inputs, EXACT)["grouped"].trace, rel=1e-12)


def test_sweeps_are_counted() -> None:
    module, inputs, _ = _mlp()
    passes = _run(module, inputs, PackingOptions(drop=0)).passes_over_data
    # The outputs, one forward for each sample, one backward for each of 4 pairs; 3 samples to measure memory.
    assert passes == pytest.approx(1 + 1 + 4 + 3 / 60)


def test_a_layer_without_influence_has_zeros() -> None:
    module, inputs, _ = _mlp()
    with torch.no_grad():
        module.get_parameter("2.weight").zero_()
        module.get_parameter("2.bias").fill_(-1)
    blocks = _blocks(module, inputs, EXACT)
    assert blocks["0"] == blocks["2"] == BlockCurvature(0.0, 0.0, (0.0, 0.0, 0.0))
    sampled = _blocks(module, inputs, PackingOptions(drop=0.3, tail_draws=4, relative_error=0.5))
    assert (sampled["0"].trace, sampled["0"].standard_error) == (0.0, 0.0)


def test_an_all_zero_layer_has_zeros_before_it_and_a_trace_itself() -> None:
    module, inputs, _ = _mlp()
    with torch.no_grad():
        module.get_parameter("4.weight").zero_()
    blocks = _blocks(module, inputs, EXACT)
    assert blocks["0"] == blocks["2"] == BlockCurvature(0.0, 0.0, (0.0, 0.0, 0.0))
    assert blocks["4"].trace > 0


def test_a_layer_that_the_outputs_do_not_depend_on_has_zeros() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(3, 2)
            self.unused = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            logits: Tensor = self.used(x)
            return logits

    blocks = _blocks(Unused().double().eval(), torch.randn(4, 3, dtype=torch.float64), EXACT)
    assert blocks["unused"] == BlockCurvature(0.0, 0.0, (0.0, 0.0, 0.0))
    assert blocks["used"].trace > 0


def test_saturated_softmax_has_zeros() -> None:
    module, inputs, _ = _mlp()
    with torch.no_grad():
        module.get_parameter("4.bias").copy_(torch.tensor([3000.0, 0, 0, 0, 0]))
    assert _blocks(module, inputs, EXACT)["0"] == BlockCurvature(0.0, 0.0, (0.0, 0.0, 0.0))
    assert not len(gauss_newton_spectrum(ModuleNetwork(module, torch.float64), inputs, "0"))


def test_a_batch_of_one() -> None:
    module, inputs, labels = _residual()
    dense = _dense(module, inputs[:1], labels[:1], "stem.weight", CrossEntropy())
    assert _blocks(module, inputs[:1], EXACT)["stem"].trace == pytest.approx(float(dense.trace()), rel=1e-10)
    assert len(check_samples_apart(ModuleNetwork(module, torch.float64), inputs[:1])) == 4


def test_a_layer_that_runs_twice_is_refused() -> None:
    layer = nn.Linear(4, 4)
    network = ModuleNetwork(nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 3)).eval(), torch.float32)
    inputs = torch.randn(3, 4)
    assert check_samples_apart(network, inputs) == {"3"}
    with pytest.raises(CodesignError, match=r"'0'.*2 times.*Hutchinson"):
        gauss_newton_blocks(network, inputs, ["0"])


def test_a_layer_that_is_not_called_is_refused() -> None:
    network = ModuleNetwork(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.float32)
    inputs = torch.randn(3, 4, 8)
    seen = check_samples_apart(network, inputs)
    assert seen == {"linear1", "linear2"}
    with pytest.raises(CodesignError, match="0 times"):
        gauss_newton_blocks(network, inputs, ["self_attn.out_proj"])


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
        gauss_newton_blocks(network, torch.randn(4, 3, dtype=torch.float64), ["last"])


def test_nan_in_the_data_names_the_sample() -> None:
    module, inputs, _ = _residual()
    inputs[4, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="sample 4"):
        _blocks(module, inputs, EXACT)


def test_infinite_weights_are_refused() -> None:
    module, inputs, _ = _residual()
    with torch.no_grad():
        module.get_parameter("stem.weight")[0] = float("inf")
    with pytest.raises(InputError, match=r"sample 0.*NaN or infinity"):
        _blocks(module, inputs, EXACT)


def test_gradients_that_overflow_are_refused() -> None:
    module, inputs, _ = _mlp()
    with torch.no_grad():
        module.get_parameter("0.weight").mul_(1e-40)
        module.get_parameter("0.bias").mul_(1e-12)
        module.get_parameter("2.bias").mul_(1e-12)
        module.get_parameter("4.weight").mul_(1e12)
    with pytest.raises(InputError, match=r"layer '0'.*NaN or infinity"):
        _blocks(module, inputs.float() * 1e28, EXACT)  # the gradient is of the order of 1e12 * 1e28


def test_one_class_is_refused() -> None:
    network = ModuleNetwork(nn.Linear(3, 1).eval(), torch.float64)
    inputs = torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(InputError, match="one output class"):
        gauss_newton_blocks(network, inputs, [""])
    assert gauss_newton_blocks(network, inputs, [""], SquaredError()).blocks[""].trace > 0


def test_no_samples_are_refused() -> None:
    module, inputs, _ = _residual()
    with pytest.raises(InputError, match="no samples"):
        _blocks(module, inputs[:0], EXACT)


def test_a_module_without_weighted_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no layers"):
        _blocks(nn.ReLU().eval(), torch.randn(2, 3), EXACT)


def test_an_unknown_layer_is_refused() -> None:
    module, inputs, _ = _residual()
    with pytest.raises(InputError, match=r"'steem'; did you mean 'stem'"):
        gauss_newton_blocks(ModuleNetwork(module, torch.float64), inputs, ["steem"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda output, target: output.argmax(), "not differentiable|differentiable torch"),
        (lambda output, target: output.detach().square().sum(), "not differentiable"),
        (lambda output, target: (output - target).round().sum(), "first and second derivatives are 0"),
        (lambda output, target: output - target, "allowed is a scalar"),
        (lambda output, target: torch.sqrt(output - output).sum(), "NaN or infinity"),
    ],
    ids=["argmax", "detached", "round", "no scalar", "infinite derivative"],
)
def test_losses_without_curvature_are_refused(function: Callable[[Tensor, Tensor], Tensor], message: str) -> None:
    module, inputs, _ = _mlp()
    with pytest.raises(InputError, match=message):
        _run(module, inputs, EXACT, loss=SampleLoss(function), targets=torch.randn(60, 5, dtype=torch.float64))


def test_a_linear_loss_has_zeros() -> None:
    module, inputs, _ = _mlp()
    loss = SampleLoss(lambda output, target: (output * target).sum())
    found = _run(module, inputs, EXACT, loss=loss, targets=torch.randn(60, 5, dtype=torch.float64))
    assert found.blocks["0"] == BlockCurvature(0.0, 0.0, (0.0, 0.0, 0.0))


def test_targets_that_do_not_fit_are_refused() -> None:
    module, inputs, _ = _mlp()
    with pytest.raises(InputError, match="got none"):
        _run(module, inputs, EXACT, loss=LOSSES["convex function"])
    with pytest.raises(InputError, match="3 targets for 60"):
        _run(module, inputs, EXACT, loss=LOSSES["convex function"], targets=torch.zeros(3, 5))


@pytest.mark.parametrize(
    "options",
    [
        {"drop": 1.0},
        {"drop": -0.1},
        {"drop": float("nan")},
        {"tail_draws": 1},
        {"pairs_at_once": 0},
        {"max_pairs": -1},
        {"eigenvalues": -1},
        {"memory_bytes": 100},
        {"relative_error": 0.0},
        {"relative_error": float("nan")},
        {"seconds": -1.0},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="allowed"):
        PackingOptions(**options)  # type: ignore[arg-type] # mixed values
