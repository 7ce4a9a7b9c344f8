import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.quantization.divergence import divergence, reference_log_probabilities
from codesign.testing.programs import small_program

torch.set_num_threads(1)


@given(st.integers(0, 2**31), st.floats(1e-6, 30.0))
@settings(max_examples=30, deadline=None)
def test_divergence_is_that_of_the_two_distributions(seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, moved = (spread * torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=moved)
    expected = torch.distributions.kl_divergence(p, q)
    found = divergence(logits.log_softmax(-1), moved)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (divergence(logits.log_softmax(-1), logits + 3) < 1e-9).all()


def test_temperature_softens_and_leaves_small_motions_at_half_their_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, motion = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    for temperature in (0.5, 1.0, 3.0):
        log_p = (logits / temperature).log_softmax(-1)
        mean = (log_p.exp() * motion).sum(-1, keepdim=True)
        half_variance = (log_p.exp() * (motion - mean).square()).sum(-1) / 2
        found = divergence(log_p, logits + 1e-4 * motion, temperature) / 1e-8
        torch.testing.assert_close(found, half_variance, rtol=2e-3, atol=0)


def test_positions_are_averaged() -> None:
    logits, moved = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    rows = divergence(logits.flatten(0, 1).double().log_softmax(-1), moved.flatten(0, 1))
    torch.testing.assert_close(divergence(logits.double().log_softmax(-1), moved), rows.reshape(2, 5).mean(1))


def test_the_first_node_that_spoils_the_reference_is_named() -> None:
    program = small_program()
    graph = TorchGraph(program.graph)
    graph.constants["branch.bias"] = torch.full((4,), float("inf"))
    with pytest.raises(InputError, match=r"node 'branch' \(Conv\): its result becomes NaN or infinite"):
        reference_log_probabilities(graph, torch.zeros(2, 3, 8, 8))
