from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.annotation import read
from codesign.ir.annotations import CrossLayerTerms
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, Pass, PassContext
from codesign.passes.cross_layer import CrossLayerPass
from codesign.quantization.divergence import divergence
from codesign.quantization.simulation import SimulatedNetwork
from codesign.testing.pass_conformance import check_pass

Make = Callable[[], Program]
RunTogether = Callable[[Pass, Sequence[Program], PassContext], None]
EXACT = CrossLayerPass(bits=(2, 4), dtype="float64")


class Counter:
    """Listens to progress."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, label: str, total: int) -> None:
        self.total = total

    def advance(self, steps: int = 1) -> None:
        self.done += steps

    def finish(self) -> None:
        pass

    def note(self, message: str) -> None:
        pass


def _kl(network: SimulatedNetwork, x: Tensor, bits: dict[str, int]) -> Tensor:
    constants: dict[str, Tensor] = {}
    for name, width in bits.items():
        constants |= network.constants(name, width)
    reference = network.graph.run(x).log_softmax(-1)
    return divergence(reference, network.graph.run(x, constants, network.hook(bits, quantize_activations=False)))


def _values(program: Program) -> list[tuple[object, ...]]:
    return [
        (name_of(node), t.weight_bits, t.other, t.other_weight_bits, t.loss_increase_nats, t.standard_error_nats)
        for node in program.weighted_nodes
        for t in read(node, CrossLayerTerms).terms
    ]


def test_terms_are_the_kl_of_both_minus_that_of_each(observed: Make, data: CalibrationData) -> None:
    program = observed()
    EXACT.run(program, PassContext(data))
    network, x = SimulatedNetwork(program.graph, dtype=torch.float64), torch.from_numpy(data.images).double()
    found = _values(program)
    names = [name_of(node) for node in program.weighted_nodes]
    assert {row[:4] for row in found} == {
        (one, a, other, b) for (one, other), a, b in product(combinations(names, 2), (2, 4), (2, 4))
    }
    for one, a, other, b, mean, error in found:
        alone = _kl(network, x, {str(one): int(str(a))}) + _kl(network, x, {str(other): int(str(b))})
        extra = _kl(network, x, {str(one): int(str(a)), str(other): int(str(b))}) - alone
        assert mean == pytest.approx(float(extra.mean()), rel=1e-9, abs=1e-15)
        assert error == pytest.approx(float(extra.std()) / len(x) ** 0.5, rel=1e-9, abs=1e-15)


def test_progress_reaches_its_total(observed: Make, data: CalibrationData) -> None:
    counter = Counter()
    CrossLayerPass(samples=9).run(observed(), PassContext(data, progress=counter))
    assert counter.done == counter.total == 3


def test_processes_and_memory_do_not_change_the_values(
    observed: Make, data: CalibrationData, run_together: RunTogether
) -> None:
    alone = observed()
    EXACT.run(alone, PassContext(data))
    narrow = observed()
    EXACT.run(narrow, PassContext(data, memory_bytes=1))
    together = [observed() for _ in range(2)]
    run_together(EXACT, together, PassContext(data))
    expected = np.array([row[4:] for row in _values(alone)], np.float64)
    for program in (narrow, *together):
        found = np.array([row[4:] for row in _values(program)], np.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-16)


def test_conformance(observed: Make, data: CalibrationData) -> None:
    check_pass(lambda: CrossLayerPass(samples=5), observed, PassContext(data))


def test_calibration_data_is_needed(observed: Make) -> None:
    with pytest.raises(InputError, match="pass cross-layer needs calibration data"):
        CrossLayerPass().run(observed(), PassContext())
