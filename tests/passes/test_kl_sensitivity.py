from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from codesign.errors import InputError
from codesign.ir.annotation import find, read
from codesign.ir.annotations import KlSensitivity
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, Pass, PassContext
from codesign.passes.kl_sensitivity import KlSensitivityPass, remaining_shares
from codesign.passes.observe_activations import ObserveActivationsPass
from codesign.progress import Silent
from codesign.quantization.divergence import divergence
from codesign.quantization.simulation import SimulatedNetwork
from codesign.testing.pass_conformance import check_pass

Make = Callable[[], Program]
RunTogether = Callable[[Pass, Sequence[Program], PassContext], None]


def _values(program: Program) -> list[list[float]]:
    return [
        [x for e in read(node, KlSensitivity).by_bits for x in (e.loss_increase_nats, e.standard_error_nats)]
        for node in program.weighted_nodes
    ]


def _set_weight(program: Program, name: str, value: float) -> None:
    weight = program.graph.graph.initializers[name]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(np.full(weight.const_value.numpy().shape, value, np.float32), name=name)


def test_conformance(observed: Make, data: CalibrationData) -> None:
    check_pass(lambda: KlSensitivityPass(bits=(2, 4), samples=6), observed, PassContext(data))


def test_processes_and_memory_do_not_change_the_values(
    observed: Make, data: CalibrationData, run_together: RunTogether
) -> None:
    pass_, alone = KlSensitivityPass(dtype="float64"), observed()
    pass_.run(alone, PassContext(data))
    narrow = observed()
    pass_.run(narrow, PassContext(data, memory_bytes=1))
    together = [observed() for _ in range(3)]
    run_together(pass_, together, PassContext(data))
    for program in (narrow, *together):
        np.testing.assert_allclose(_values(program), _values(alone), rtol=1e-8, atol=1e-18)


def test_fewer_samples_than_processes_are_refused(observed: Make, data: CalibrationData) -> None:
    from codesign.data_parallel import Shard

    with pytest.raises(InputError, match="2 samples cannot be split among 3 processes"):
        KlSensitivityPass(samples=2).run(observed(), PassContext(data, shard=Shard(0, 3)))


def test_an_all_zero_layer_costs_nothing(data: CalibrationData) -> None:
    from codesign.testing.programs import small_program

    program = small_program()
    _set_weight(program, "branch.weight", 0.0)
    ObserveActivationsPass().run(program, PassContext(data))
    KlSensitivityPass().run(program, PassContext(data))
    branch = next(node for node in program.weighted_nodes if node.name == "branch")
    assert [e.loss_increase_nats for e in read(branch, KlSensitivity).by_bits] == pytest.approx([0.0] * 6, abs=1e-12)


def test_softened_outputs_rank_nodes_where_no_answer_changes(observed: Make, data: CalibrationData) -> None:
    program = observed()
    network, x = SimulatedNetwork(program.graph, dtype=torch.float64), torch.from_numpy(data.images).double()
    KlSensitivityPass(bits=(2, 8), temperature=4.0, dtype="float64").run(program, PassContext(data))
    reference, found, expected, plain = network.graph.run(x), [], [], []
    for node in program.weighted_nodes:
        name = name_of(node)
        logits = network.graph.run(x, network.constants(name, 8), network.hook({name: 8}, False))
        assert (logits.argmax(-1) == reference.argmax(-1)).all()
        expected.append(float(divergence((reference / 4).log_softmax(-1), logits, 4.0).mean()))
        plain.append(float(divergence(reference.log_softmax(-1), logits).mean()))
        found.append(read(node, KlSensitivity).by_bits[1].loss_increase_nats)
    np.testing.assert_allclose(found, np.array(expected) * sum(plain) / sum(expected), rtol=1e-9)


def test_temperature_must_be_positive() -> None:
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"temperature is .*, allowed are numbers above 0"):
            KlSensitivityPass(temperature=wrong)


def test_one_sample_has_no_error_bar(observed: Make, data: CalibrationData) -> None:
    program = observed()
    KlSensitivityPass(samples=1).run(program, PassContext(data))
    assert all(e.standard_error_nats == 0 for n in program.weighted_nodes for e in read(n, KlSensitivity).by_bits)


def test_nan_and_overflow_are_refused_with_the_node(observed: Make, data: CalibrationData) -> None:
    broken = replace(data, images=data.images.copy())
    broken.images[3, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="calibration image 3 holds NaN or infinity"):
        KlSensitivityPass().run(observed(), PassContext(broken))
    program = observed()
    _set_weight(program, "head.weight", 3e38)
    with pytest.raises(InputError, match=r"node 'head' \(Gemm\): its result becomes NaN or infinite"):
        KlSensitivityPass().run(program, PassContext(data))


def test_data_of_another_shape_is_refused(observed: Make, data: CalibrationData) -> None:
    with pytest.raises(InputError, match=r"have shape \[3, 4, 8\], the network takes \[3, 8, 8\]"):
        KlSensitivityPass().run(observed(), PassContext(replace(data, images=data.images[:, :, :4])))
    with pytest.raises(InputError, match="samples is 0"):
        KlSensitivityPass(samples=0).run(observed(), PassContext(data))


def test_whole_widths_are_left_out_beyond_the_budget(observed: Make, data: CalibrationData) -> None:
    notes: list[str] = []
    program, everything = observed(), observed()
    shares = remaining_shares(program)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares["stem"] == 1.0
    limited = KlSensitivityPass(bits=(8, 2, 4), max_forwards=2.5 * sum(shares.values()))
    limited.run(program, PassContext(data, progress=Silent(notes.append)))
    KlSensitivityPass(bits=(2, 4)).run(everything, PassContext(data))
    for node, other in zip(program.weighted_nodes, everything.weighted_nodes, strict=True):
        assert {e.weight_bits: e for e in read(node, KlSensitivity).by_bits} == {
            e.weight_bits: e for e in read(other, KlSensitivity).by_bits
        }
    assert len(notes) == 1
    assert "8 bits are left out to stay within max-forwards" in notes[0]


def test_a_budget_of_nothing_measures_nothing(observed: Make, data: CalibrationData) -> None:
    program = observed()
    KlSensitivityPass(max_forwards=0).run(program, PassContext(data))
    assert [find(node, KlSensitivity) for node in program.weighted_nodes] == [KlSensitivity(by_bits=())] * 3
    for wrong in (-1.0, float("nan")):
        with pytest.raises(InputError, match="max-forwards is"):
            KlSensitivityPass(max_forwards=wrong)
