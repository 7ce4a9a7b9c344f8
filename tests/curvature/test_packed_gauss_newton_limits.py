"""Packed Gauss-Newton blocks at their limits: layers without influence, samples that see each other, refusals."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from codesign.curvature.loss import CrossEntropy, SampleLoss, SquaredError
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import (
    PackingOptions,
    gauss_newton_blocks,
    gauss_newton_spectrum,
)
from codesign.curvature.tapped_network import BlockCurvature, check_samples_apart
from codesign.errors import CodesignError, InputError
from codesign.testing.curvature_cases import LOSSES, dense_hessian, mlp_case, packed, residual_case

EXACT = PackingOptions(drop=0, eigenvalues=3)


def _blocks(module: nn.Module, inputs: Tensor, options: PackingOptions, seed: int = 0) -> Mapping[str, BlockCurvature]:
    return packed(module, inputs, options, seed).blocks


def test_a_layer_without_influence_has_zeros() -> None:
    module, inputs, _ = mlp_case()
    with torch.no_grad():
        module.get_parameter("2.weight").zero_()
        module.get_parameter("2.bias").fill_(-1)
    blocks = _blocks(module, inputs, EXACT)
    assert blocks["0"] == blocks["2"] == BlockCurvature(0.0, 0.0, (0.0, 0.0, 0.0))
    sampled = _blocks(module, inputs, PackingOptions(drop=0.3, tail_draws=4, relative_error=0.5))
    assert (sampled["0"].trace, sampled["0"].standard_error) == (0.0, 0.0)


def test_an_all_zero_layer_has_zeros_before_it_and_a_trace_itself() -> None:
    module, inputs, _ = mlp_case()
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
    module, inputs, _ = mlp_case()
    with torch.no_grad():
        module.get_parameter("4.bias").copy_(torch.tensor([3000.0, 0, 0, 0, 0]))
    assert _blocks(module, inputs, EXACT)["0"] == BlockCurvature(0.0, 0.0, (0.0, 0.0, 0.0))
    assert not len(gauss_newton_spectrum(ModuleNetwork(module, torch.float64), inputs, "0"))


def test_a_batch_of_one() -> None:
    module, inputs, labels = residual_case()
    dense = dense_hessian(module, inputs[:1], labels[:1], "stem.weight", CrossEntropy())
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
    module, inputs, _ = residual_case()
    inputs[4, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="sample 4"):
        _blocks(module, inputs, EXACT)


def test_infinite_weights_are_refused() -> None:
    module, inputs, _ = residual_case()
    with torch.no_grad():
        module.get_parameter("stem.weight")[0] = float("inf")
    with pytest.raises(InputError, match=r"sample 0.*NaN or infinity"):
        _blocks(module, inputs, EXACT)


def test_gradients_that_overflow_are_refused() -> None:
    module, inputs, _ = mlp_case()
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
    module, inputs, _ = residual_case()
    with pytest.raises(InputError, match="no samples"):
        _blocks(module, inputs[:0], EXACT)


def test_a_module_without_weighted_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no layers"):
        _blocks(nn.ReLU().eval(), torch.randn(2, 3), EXACT)


def test_an_unknown_layer_is_refused() -> None:
    module, inputs, _ = residual_case()
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
    module, inputs, _ = mlp_case()
    with pytest.raises(InputError, match=message):
        packed(module, inputs, EXACT, loss=SampleLoss(function), targets=torch.randn(60, 5, dtype=torch.float64))


def test_a_linear_loss_has_zeros() -> None:
    module, inputs, _ = mlp_case()
    loss = SampleLoss(lambda output, target: (output * target).sum())
    found = packed(module, inputs, EXACT, loss=loss, targets=torch.randn(60, 5, dtype=torch.float64))
    assert found.blocks["0"] == BlockCurvature(0.0, 0.0, (0.0, 0.0, 0.0))


def test_targets_that_do_not_fit_are_refused() -> None:
    module, inputs, _ = mlp_case()
    with pytest.raises(InputError, match="got none"):
        packed(module, inputs, EXACT, loss=LOSSES["convex function"])
    with pytest.raises(InputError, match="3 targets for 60"):
        packed(module, inputs, EXACT, loss=LOSSES["convex function"], targets=torch.zeros(3, 5))


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
