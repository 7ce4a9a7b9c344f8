"""Networks that are measured: drawn ones and the user's own."""

import itertools
from collections import defaultdict

import onnx
import onnx_ir as ir

from codesign.calibration.probe_network import probe_networks
from codesign.calibration.probes import drawn_probes, model_probes
from codesign.calibration.samples import FLOAT
from codesign.quantization.scheme import WEIGHT_BITS, BitWidths

WIDTHS = tuple(BitWidths(bits, 8) for bits in WEIGHT_BITS)


def test_the_same_seed_draws_the_same_networks() -> None:
    first, again, other = (list(itertools.islice(drawn_probes(WIDTHS, seed), 6)) for seed in (0, 0, 1))
    assert [probe.name for probe in first] == [probe.name for probe in again]
    assert [probe.bits for probe in first] == [probe.bits for probe in again]
    assert {probe.name for probe in first}.isdisjoint(probe.name for probe in other)


def test_drawn_networks_are_valid_and_cover_all_kinds() -> None:
    kinds = set()
    for model in itertools.islice(probe_networks(0), 12):
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        for node in model.graph:
            groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
            kinds.add((node.op_type, bool(groups and groups > 1)))
    expected = {"Conv", "Gemm", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Relu"}
    assert expected <= {op_type for op_type, _ in kinds}
    assert ("Conv", True) in kinds


def test_integers_are_drawn_from_all_widths() -> None:
    probes = list(itertools.islice(drawn_probes(WIDTHS, 0), 8))
    assert [probe.bits is None for probe in probes[:4]] == [True, False, True, False]
    used = {pair for probe in probes if probe.bits for pair in probe.bits.values()}
    assert used == set(WIDTHS)
    assert {probe.bits is None for probe in itertools.islice(drawn_probes((), 0), 4)} == {True}


def test_forms_of_a_network_show_its_shapes_at_several_widths() -> None:
    forms = list(model_probes({"net": next(iter(probe_networks(0)))}, WIDTHS))
    assert [form.name.split(", ")[1] for form in forms] == ["float32", "8 bits", "mixed 0", "mixed 1"]
    assert forms[0].widths("conv_0") == FLOAT
    assert set((forms[1].bits or {}).values()) == {BitWidths(8, 8)}
    widths = defaultdict(set)
    for form in forms[2:]:
        for name, pair in (form.bits or {}).items():
            widths[name].add(pair)
    assert all(len(pairs) == 2 for pairs in widths.values())
    assert len(list(model_probes({"net": next(iter(probe_networks(0)))}, ()))) == 1


def test_kernels_hold_every_node_that_does_something_once() -> None:
    probe = next(drawn_probes((), 0))
    merged = [other.name for _, others in probe.kernels.values() for other in others]
    free = [node.name for node in probe.facts.nodes if node.op_type == "Flatten"]
    assert sorted([*probe.kernels, *merged, *free]) == sorted(node.name for node in probe.facts.nodes)
