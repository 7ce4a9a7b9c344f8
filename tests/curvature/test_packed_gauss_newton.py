from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from codesign.curvature import output_curvature, output_factor, packed_gauss_newton
from codesign.curvature.loss import Loss, SquaredError
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import (
    PackingOptions,
    gauss_newton_blocks,
    gauss_newton_spectrum,
)
from codesign.curvature.tapped_network import BlockCurvature, Tap
from codesign.errors import CodesignError, InputError
from codesign.progress import Silent
from codesign.testing.curvature_cases import (
    LOSSES,
    CurvatureCase,
    dense_hessian,
    mlp_case,
    packed,
    positions_case,
    residual_case,
    targets_for,
)

EXACT = PackingOptions(drop=0, eigenvalues=3)


def _blocks(module: nn.Module, inputs: Tensor, options: PackingOptions, seed: int = 0) -> Mapping[str, BlockCurvature]:
    return packed(module, inputs, options, seed).blocks


@pytest.mark.parametrize("make", [residual_case, positions_case, mlp_case])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_equals_the_dense_hessian(make: Callable[[], CurvatureCase], loss: Loss) -> None:
    module, inputs, labels = make()
    inputs, labels = inputs[:12], labels[:12]
    targets = targets_for(loss, module, inputs, labels)
    network = ModuleNetwork(module, inputs.dtype)
    blocks = packed(module, inputs, EXACT, loss=loss, targets=targets).blocks
    assert len(blocks) >= 3
    for name, block in blocks.items():
        dense = dense_hessian(module, inputs, targets, f"{name}.weight", loss)
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
    module, inputs, labels = mlp_case()
    loss = LOSSES["non-convex function"]
    targets = targets_for(loss, module, inputs, labels)
    found = gauss_newton_spectrum(ModuleNetwork(module, torch.float64), inputs, "2", loss, targets)
    assert found[0] > 0 > found[-1]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_traces_in_what_enters_layers(loss: Loss) -> None:
    module, inputs, labels = mlp_case()
    inputs, labels = inputs[:7], labels[:7]
    targets = targets_for(loss, module, inputs, labels)
    assert isinstance(module, nn.Sequential)
    found = packed(module, inputs, EXACT, loss=loss, targets=targets, activations=["0", "2", "4"]).activations
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
    module, inputs, _ = mlp_case()
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
    module, inputs, _ = positions_case()
    for drop in (0.0, 0.4):
        options = PackingOptions(drop=drop, tail_draws=5, eigenvalues=2)
        chunked = replace(options, pairs_at_once=at_once)
        whole, parts = (packed(module, inputs.to(dtype), o, 3, activations=["mix"]) for o in (options, chunked))
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
    small, large = (packed(module, inputs, PackingOptions(0, eigenvalues=3, memory_bytes=m)) for m in (2**20, 2**30))
    # The first layer's gradients came in two passes of 10 forwards and 20 backwards.
    assert small.passes_over_data == pytest.approx(large.passes_over_data + 3)
    for name, block in small.blocks.items():
        assert block.trace == pytest.approx(large.blocks[name].trace, rel=1e-12)
        assert block.eigenvalues == pytest.approx(large.blocks[name].eigenvalues, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("make", [positions_case, mlp_case])
def test_sampled_tail_is_unbiased(make: Callable[[], CurvatureCase], loss: Loss) -> None:
    module, inputs, labels = make()
    targets = targets_for(loss, module, inputs, labels)
    exact = packed(module, inputs, PackingOptions(drop=0), loss=loss, targets=targets).blocks
    options = PackingOptions(drop=0.6, tail_draws=8, max_pairs=3)
    runs = [packed(module, inputs, options, seed, loss, targets).blocks for seed in range(30)]
    for name, block in exact.items():
        found = torch.tensor([run[name].trace for run in runs], dtype=torch.float64)
        reported = torch.tensor([run[name].standard_error for run in runs], dtype=torch.float64)
        spread = float(found.std())
        assert {run[name].draws for run in runs} == {8}
        assert abs(float(found.mean()) - block.trace) < 4 * spread / 30**0.5
        assert float(reported.square().mean().sqrt()) == pytest.approx(spread, rel=0.6)


def test_one_draw_for_many_rows_is_better_than_a_pair() -> None:
    module, inputs, _ = positions_case()
    exact = _blocks(module, inputs, PackingOptions(drop=0))
    drawn = _blocks(module, inputs, PackingOptions(drop=0.99, max_pairs=0, tail_draws=400))
    for name, block in drawn.items():
        assert block.standard_error * 400**0.5 < 1.0 * exact[name].trace


def test_draws_go_on_until_the_error_is_small_enough() -> None:
    module, inputs, _ = mlp_case(gain=6)
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
    module, inputs, _ = mlp_case(gain=6)
    network, notes = ModuleNetwork(module, torch.float64), list[str]()
    options = PackingOptions(drop=0.5, tail_draws=4, relative_error=1e-9, seconds=1e-9)
    found = gauss_newton_blocks(network, inputs, ["0"], options=options, progress=Silent(notes.append))
    assert found.blocks["0"].draws == 4
    assert len(notes) == 1
    assert "after the time allowed" in notes[0]


def test_an_error_out_of_reach_ends_at_the_most_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_gauss_newton, "_MOST_DRAWS", 20)
    module, inputs, _ = mlp_case(gain=6)
    network, notes = ModuleNetwork(module, torch.float64), list[str]()
    options = PackingOptions(drop=0.5, tail_draws=4, relative_error=1e-9)
    found = gauss_newton_blocks(network, inputs, ["0"], options=options, progress=Silent(notes.append))
    assert found.blocks["0"].draws == 20
    assert "at the most draws" in notes[0]


def test_same_seed_same_result_and_other_seed_another() -> None:
    module, inputs, _ = mlp_case()
    options = PackingOptions(drop=0.3, tail_draws=4)
    assert _blocks(module, inputs, options, 1) == _blocks(module, inputs, options, 1)
    assert _blocks(module, inputs, options, 1) != _blocks(module, inputs, options, 2)


def test_eigenvalues_of_the_head_are_lower_bounds() -> None:
    module, inputs, _ = mlp_case(gain=6)
    exact = _blocks(module, inputs, EXACT)
    for drop in (0.05, 0.3):
        options = PackingOptions(drop=drop, tail_draws=4, eigenvalues=3)
        for name, block in _blocks(module, inputs, options).items():
            for found, bound in zip(block.eigenvalues, exact[name].eigenvalues, strict=True):
                assert 0 < found <= bound * (1 + 1e-12)
            assert block.eigenvalues[0] > (1 - 2 * drop) * exact[name].eigenvalues[0]


def test_softmax_columns_give_the_same_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs, _ = positions_case()
    wanted = _blocks(module, inputs, EXACT)
    monkeypatch.setattr(output_factor, "EIGEN_CLASSES", 2)
    for name, block in _blocks(module, inputs, EXACT).items():
        assert block.trace == pytest.approx(wanted[name].trace, rel=1e-12)
        assert block.eigenvalues == pytest.approx(wanted[name].eigenvalues, rel=1e-12)


def test_outputs_that_do_not_fit_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_curvature, "_BYTES_PER_PAIR", 2**40)
    module, inputs, _ = positions_case()
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
    module, inputs, _ = residual_case()
    exact = _blocks(module, inputs, EXACT)
    for name, block in _blocks(module, inputs.float(), EXACT).items():
        assert block.trace == pytest.approx(exact[name].trace, rel=1e-5)
        assert block.eigenvalues == pytest.approx(exact[name].eigenvalues, rel=1e-5)


def test_some_layers_only() -> None:
    module, inputs, _ = residual_case()
    network = ModuleNetwork(module, torch.float64)
    block = gauss_newton_blocks(network, inputs, ["grouped"], options=EXACT).blocks["grouped"]
    assert block.trace == pytest.approx(_blocks(module, inputs, EXACT)["grouped"].trace, rel=1e-12)


def test_sweeps_are_counted() -> None:
    module, inputs, _ = mlp_case()
    passes = packed(module, inputs, PackingOptions(drop=0)).passes_over_data
    # The outputs, one forward for each sample, one backward for each of 4 pairs; 3 samples to measure memory.
    assert passes == pytest.approx(1 + 1 + 4 + 3 / 60)
