import errno
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxscript import optimizer

from codesign.errors import CodesignError, InputError
from codesign.ir.annotation import Annotation, annotate, annotations_of, find
from codesign.ir.annotations import (
    ANNOTATION_KINDS,
    ActivationLossAtBits,
    ActivationRange,
    ActivationSensitivity,
    CostAtBits,
    CostEstimate,
    CrossLayerTerm,
    CrossLayerTerms,
    HessianTrace,
    KlSensitivity,
    LossAtBits,
    QuadraticLoss,
    QuadraticLossAtBits,
    QuantizationError,
    WeightError,
    Work,
)
from codesign.ir.printer import print_graph
from codesign.ir.program import Program
from codesign.ir.serialization import graph_digest, load_graph, restore_facts, save_graph
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.passes.count_work import CountWorkPass
from codesign.testing.programs import small_program

counts = st.integers(min_value=0, max_value=2**60)
numbers = st.floats(allow_nan=False)
losses = st.builds(
    LossAtBits,
    weight_bits=counts,
    activation_bits=counts,
    loss_increase_nats=numbers,
    standard_error_nats=numbers,
    method=st.sampled_from(["kl", "hawq-v2"]),
)
facts = st.one_of(
    st.builds(Work, **dict.fromkeys(Work.model_fields, counts)),
    st.builds(
        HessianTrace,
        trace=numbers,
        standard_error=numbers,
        top_eigenvalues=st.lists(numbers, max_size=3).map(tuple),
        parameter=st.text(),
        parameters=counts,
        matrix=st.sampled_from(["hessian", "gauss-newton"]),
        exact=st.booleans(),
        method=st.sampled_from(["packed-gauss-newton", "hutchinson"]),
        weights_of=st.sampled_from(["module", "folded"]),
        samples=counts,
    ),
    st.builds(KlSensitivity, by_bits=st.lists(losses).map(tuple)),
    st.builds(
        QuadraticLoss,
        by_bits=st.lists(
            st.builds(
                QuadraticLossAtBits,
                weight_bits=counts,
                gauss_newton_nats=numbers,
                gauss_newton_standard_error_nats=numbers,
                gradient_nats=st.none() | numbers,
                gradient_standard_error_nats=st.none() | numbers,
            ),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(
        ActivationSensitivity,
        value=st.text(),
        by_bits=st.lists(
            st.builds(
                ActivationLossAtBits,
                activation_bits=counts,
                kl_nats=numbers,
                kl_standard_error_nats=numbers,
                squared_error=numbers,
            ),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(
        CrossLayerTerms,
        terms=st.lists(
            st.builds(
                CrossLayerTerm,
                weight_bits=counts,
                other=st.text(),
                other_weight_bits=counts,
                loss_increase_nats=numbers,
                standard_error_nats=numbers,
            ),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(
        QuantizationError,
        by_bits=st.lists(st.builds(WeightError, bits=counts, squared_error=numbers, relative_error=numbers)).map(tuple),
    ),
    st.builds(
        ActivationRange,
        inputs=st.lists(st.none() | st.tuples(numbers, numbers)).map(tuple),
        outputs=st.lists(st.tuples(numbers, numbers)).map(tuple),
        rule=st.sampled_from(["min-max", "percentile", "mse"]),
        samples=counts,
    ),
    st.builds(
        CostEstimate,
        target=st.text(),
        provenance=st.sampled_from(["exact", "measured"]),
        by_bits=st.lists(
            st.builds(
                CostAtBits,
                weight_bits=counts,
                activation_bits=counts,
                latency_s=numbers,
                energy_j=numbers,
                bound=st.text(),
            )
        ).map(tuple),
    ),
)


class Flavour(Annotation):
    key: ClassVar[str] = "flavour"
    sweet: int


def _annotated() -> Program:
    program = small_program()
    PassManager([CountWorkPass()]).run(program, PassContext())
    return program


def _work(model: ir.Model) -> dict[str | None, Work | None]:
    return {node.name: find(node, Work) for node in model.graph}


@given(st.lists(facts, max_size=7))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_fact_survives_saving(tmp_path: Path, written: list[Annotation]) -> None:
    program = small_program()
    for node, fact in zip(program.graph.graph, written, strict=False):
        annotate(node, fact)
    save_graph(program.graph, tmp_path / "g.onnx")
    loaded = load_graph(tmp_path / "g.onnx")
    before = [annotations_of(node) for node in program.graph.graph]
    assert [annotations_of(node) for node in loaded.graph] == before
    assert print_graph(loaded) == print_graph(program.graph)
    assert graph_digest(loaded) == graph_digest(program.graph)


def test_saving_leaves_the_graph_in_memory_alone_and_writes_the_same_bytes(tmp_path: Path) -> None:
    program = _annotated()
    save_graph(program.graph, tmp_path / "a" / "g.onnx")
    assert all(not node.metadata_props for node in program.graph.graph)
    save_graph(program.graph, tmp_path / "h.onnx")
    data = (tmp_path / "a" / "g.onnx").read_bytes()
    assert (tmp_path / "h.onnx").read_bytes() == data
    save_graph(load_graph(tmp_path / "h.onnx"), tmp_path / "i.onnx")
    assert (tmp_path / "i.onnx").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "h.onnx", "i.onnx"]


def test_the_file_is_legal_onnx_and_facts_are_readable_json(tmp_path: Path) -> None:
    save_graph(_annotated().graph, tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    onnx.checker.check_model(model, full_check=True)
    entries = {entry.key: entry.value for entry in model.graph.node[0].metadata_props}
    assert entries["codesign.work"].startswith('{"macs":6912,')


def test_stale_facts_are_not_written(tmp_path: Path) -> None:
    program = _annotated()
    program.graph.graph[0].meta.invalidate(Work.key)
    save_graph(program.graph, tmp_path / "g.onnx")
    loaded = load_graph(tmp_path / "g.onnx")
    assert [find(node, Work) is None for node in loaded.graph] == [True] + [False] * 6


def test_stale_facts_do_not_come_back_from_what_the_file_said(tmp_path: Path) -> None:
    node = (program := small_program()).graph.graph[0]
    node.metadata_props["codesign.flavour"] = '{"sweet":1}'
    annotate(node, Flavour(sweet=2))
    save_graph(program.graph, tmp_path / "g.onnx")
    assert load_graph(tmp_path / "g.onnx").graph[0].metadata_props["codesign.flavour"] == '{"sweet":2}'
    node.meta.invalidate(Flavour.key)
    save_graph(program.graph, tmp_path / "g.onnx")
    assert "codesign.flavour" not in load_graph(tmp_path / "g.onnx").graph[0].metadata_props


def test_unknown_facts_and_decisions_survive_untouched(tmp_path: Path) -> None:
    entries = {"codesign.weight-bits": "3", "codesign.flavour": '{ "sweet": 1 }', "namespace": "a.b", "codesign": "x"}
    program = _annotated()
    program.graph.graph[0].metadata_props.update(entries)
    for _ in range(2):
        save_graph(program.graph, tmp_path / "g.onnx")
        program = Program(load_graph(tmp_path / "g.onnx"))
    assert dict(program.graph.graph[0].metadata_props) == entries
    restore_facts(program.graph, [Flavour])
    assert find(program.graph.graph[0], Flavour) == Flavour(sweet=1)
    assert "codesign.flavour" not in program.graph.graph[0].metadata_props


def test_facts_survive_other_tools(tmp_path: Path) -> None:
    program = _annotated()
    expected = list(_work(program.graph).values())
    program.graph.graph[0].metadata_props["codesign.weight-bits"] = "3"
    save_graph(program.graph, tmp_path / "a.onnx")
    onnx.save(onnx.load(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    onnx.shape_inference.infer_shapes_path(tmp_path / "b.onnx", tmp_path / "c.onnx")
    ir.save(optimizer.optimize(ir.load(tmp_path / "c.onnx")), tmp_path / "d.onnx")
    for name in ("a.onnx", "b.onnx", "c.onnx", "d.onnx"):
        loaded = load_graph(tmp_path / name)
        assert list(_work(loaded).values()) == expected  # the optimizer renames Flatten, now Reshape
        assert dict(loaded.graph[0].metadata_props) == {"codesign.weight-bits": "3"}
    optimizer.optimize(onnx.load(tmp_path / "c.onnx"))


def test_weights_beside_the_file_are_read_into_memory(tmp_path: Path) -> None:
    program = _annotated()
    ir.save(program.graph, tmp_path / "a.onnx", external_data="a.data", size_threshold_bytes=0)
    loaded = load_graph(tmp_path / "a.onnx")
    save_graph(loaded, tmp_path / "elsewhere" / "b.onnx")
    assert graph_digest(load_graph(tmp_path / "elsewhere" / "b.onnx")) == graph_digest(program.graph)
    (tmp_path / "a.data").write_bytes(b"short")
    with pytest.raises(InputError, match="weights cannot be read"):
        load_graph(tmp_path / "a.onnx")
    (tmp_path / "a.data").unlink()
    with pytest.raises(InputError, match="weights cannot be read"):
        load_graph(tmp_path / "a.onnx")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    save_graph(_annotated().graph, tmp_path / "g.onnx")
    data = (tmp_path / "g.onnx").read_bytes()
    short = tmp_path / "short.onnx"
    for length in [*range(0, len(data), 97), len(data) - 1]:
        short.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"short\.onnx"):
            load_graph(short)


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_flipped_byte_is_read_or_refused_but_never_crashes(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "g.onnx"
    if not path.exists():
        save_graph(_annotated().graph, path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(data)
    try:
        load_graph(broken)
    except InputError as error:
        assert "broken.onnx" in str(error)


def test_a_weight_shorter_than_its_shape_is_refused(tmp_path: Path) -> None:
    save_graph(small_program().graph, tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    tensor.raw_data = tensor.raw_data[:-4]
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(InputError, match=r"weight 'head\.weight' holds 76 bytes, its type and shape say 80"):
        load_graph(tmp_path / "g.onnx")


@pytest.mark.parametrize("text", ['{"macs":1}', '{"macs":"many"}', "{", "3", '{"colour":1}', ""])
def test_a_corrupted_fact_is_refused(tmp_path: Path, text: str) -> None:
    program = small_program()
    program.graph.graph[0].metadata_props["codesign.work"] = text
    save_graph(program.graph, tmp_path / "g.onnx")
    with pytest.raises(InputError, match=r"g\.onnx: node 'stem': stored fact codesign\.work is corrupted"):
        load_graph(tmp_path / "g.onnx")


@pytest.mark.parametrize(
    ("contents", "message"),
    [(None, "no such file"), (b"", "holds no graph or is truncated"), (b"hello, world\n" * 9, "not an ONNX file")],
)
def test_files_that_are_no_graphs_are_refused(tmp_path: Path, contents: bytes | None, message: str) -> None:
    path = tmp_path / "g.onnx"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(InputError, match=message):
        load_graph(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_graph(tmp_path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "g.onnx"
    save_graph(small_program().graph, path)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CodesignError, match="No space left on device"):
        save_graph(_annotated().graph, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_kinds_have_their_own_keys() -> None:
    keys = [kind.key for kind in ANNOTATION_KINDS]
    assert len(set(keys)) == len(keys)
    assert all(key.replace("-", "").isalpha() and key == key.lower() for key in keys)


def test_low_bit_weights_survive(tmp_path: Path) -> None:
    program = small_program()
    weight = program.graph.graph.initializers["stem.weight"]
    integers = np.arange(108, dtype=np.int8).reshape(4, 3, 3, 3) % 15 - 7
    weight.const_value = ir.tensor(integers, dtype=ir.DataType.INT4, name="stem.weight")
    weight.type = ir.TensorType(ir.DataType.INT4)
    save_graph(program.graph, tmp_path / "g.onnx")
    loaded = load_graph(tmp_path / "g.onnx").graph.initializers["stem.weight"].const_value
    assert loaded is not None and loaded.dtype == ir.DataType.INT4
    assert (loaded.numpy().astype(np.int8) == integers).all()
