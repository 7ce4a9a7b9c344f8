"""`codesign compile` and `codesign measure`, as a user calls them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from codesign.backend.layer_times import CALL, REST
from codesign.backend.rpc_runner import RpcRunner
from codesign.calibration.probe_network import reference_network
from codesign.errors import InputError
from codesign.flow.runners import kernel_runner_of, runner_of
from codesign.hardware.amx_permission import request_amx
from codesign.hardware.catalog import load_target
from codesign.hardware.host import detect_host
from codesign.ir.serialization import save_graph

Codesign = Callable[..., tuple[int, str]]
NATIVE, ROUNDED = 'mcpu = "native"', 'mcpu = "native"\nfloat_products = "bfloat16"'
QUICK = ("--repeats", "3", "--runs-per-sample", "2", "--warm-up", "1")


def _target(folder: Path, name: str, old: str, new: str, base: str = "raspberry-pi-4") -> str:
    """A target file of one's own, made from a shipped one."""
    text = (Path(__file__).parents[2] / "targets" / f"{base}.toml").read_text()
    assert old in text
    path = folder / f"{name}.toml"
    path.write_text(text.replace(f'name = "{base}"', f'name = "{name}"').replace(old, new))
    return str(path)


def test_a_network_is_compiled_and_measured_layer_by_layer(tiny_graph: Path, codesign: Codesign) -> None:
    code, printed = codesign("compile", "net.onnx", "--target", "host-cpu")
    assert (code, "net-host-cpu: compiled for " in printed) == (0, True)
    folder = tiny_graph / "net-host-cpu"
    assert sorted(path.name for path in folder.iterdir()) == ["cpp", "lib", "manifest.json", "network.onnx", "run.py"]
    assert not list(tiny_graph.glob(".*"))
    code, printed = codesign("measure", str(folder), "--target", "host-cpu", "--layers", "--json", "m.json", *QUICK)
    assert code == 0
    assert re.search(r"median .* minimum .* \(measured, 3 samples, 1 thread\(s\)\)", printed)
    found = json.loads((tiny_graph / "m.json").read_text())
    assert found["latency"]["provenance"] == "measured"
    assert len(found["latency"]["samples_s"]) == 3
    assert "instructions" not in found
    layers = {row["layer"]: row["latency_s"] for row in found["layers"]}
    assert sum(layers.values()) == pytest.approx(found["latency"]["median_s"])
    network = json.loads((folder / "lib" / next(folder.glob("lib/*.kernels.json")).name).read_text())
    assert set(layers) <= {row["operation"] for row in network} | {REST, CALL}
    assert CALL in layers  # a network this small is mostly the call
    for name in layers:
        assert name in printed


def test_a_plan_of_a_run_and_its_quantised_network(
    tiny: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny)
    assert codesign("run", "run.toml", "--out", "out")[0] == 0
    report = json.loads((tiny / "out" / "report.json").read_text())
    plan = f"out/plans/{report['chosen']['id']}.json"
    assert codesign("compile", plan, "--target", "host-cpu", "--out", "of-plan")[0] == 0
    network = f"out/artifacts/{report['chosen']['id']}/network.onnx"
    assert codesign("compile", network, "--target", "host-cpu", "--out", "of-file")[0] == 0
    of_plan, of_file = (json.loads((tiny / f / "manifest.json").read_text()) for f in ("of-plan", "of-file"))
    assert of_plan["plan_digest"] == report["chosen"]["id"]
    assert of_plan["inputs"] == of_file["inputs"]
    assert 0 < of_plan["inputs"][0]["scale"] < 1
    assert of_plan["weight_bytes"] == of_file["weight_bytes"] < report["baseline"]["measured"]["artifact_weight_bytes"]
    shutil.rmtree(tiny / "out" / "artifacts")  # a plan that was not built is written into the graph now
    code, printed = codesign("compile", plan, "--target", "host-cpu", "--out", "of-plan")
    assert (code, "was not measured in that run" in printed) == (0, True)
    again = json.loads((tiny / "of-plan" / "manifest.json").read_text())
    assert {**again, "digests": 0} == {**of_plan, "digests": 0}


@pytest.mark.skipif(
    not request_amx() or "amx_bf16" not in detect_host().flags,
    reason="this processor or operating system has no AMX-BF16",
)
def test_rounded_products_are_said_wherever_numbers_are(tiny_graph: Path, codesign: Codesign) -> None:
    target, said = _target(tiny_graph, "fast", NATIVE, ROUNDED, "host-cpu"), "2 layer(s) in float32 multiply operands"
    save_graph(reference_network(), tiny_graph / "net.onnx")  # those of the tiny network are too little work
    code, printed = codesign("compile", "net.onnx", "--target", target, "--out", "made")
    assert (code, said in printed) == (0, True), printed
    assert json.loads((tiny_graph / "made" / "manifest.json").read_text())["bfloat16_layers"] == 2
    code, printed = codesign("measure", "made", "--target", target, "--json", "m.json", *QUICK)
    assert (code, said in printed) == (0, True), printed
    assert json.loads((tiny_graph / "m.json").read_text())["bfloat16_layers"] == 2


def test_mistakes_when_compiling(tiny_graph: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (
        (("plans/none.json", "host-cpu"), 2, "plans/none.json: no such file; name a file from plans/"),
        (("net.onnx", "h100"), 2, "target 'h100' has no [tvm] section"),
        (("net.onnx", "host-cpuu"), 2, "did you mean 'host-cpu'?"),
        (("net.onnx", _target(tiny_graph, "cpu", "cortex-a72", "cortex-a722")), 1, "did you mean 'cortex-a72'?"),
        (
            ("net.onnx", _target(tiny_graph, "old", NATIVE, ROUNDED.replace("native", "cascadelake"), "host-cpu")),
            1,
            "net.onnx: float_products = 'bfloat16' needs AMX-BF16, which processor cascadelake",
        ),
        (
            ("net.onnx", _target(tiny_graph, "odd", NATIVE, ROUNDED.replace("bfloat16", "bfloat61"), "host-cpu")),
            2,
            "tvm.float_products",
        ),
        (("net.onnx", _target(tiny_graph, "tri", '"aarch64-l', '"arch64-l')), 1, "LLVM has no architecture 'arch64'"),
    )
    for (source, target), expected, words in cases:
        code, printed = codesign("compile", source, "--target", target, "--out", "made")
        assert (code, words in printed) == (expected, True), printed
        assert ".made." not in printed  # no temporary path
    (tiny_graph / "full").mkdir()
    (tiny_graph / "full" / "mine").touch()
    code, printed = codesign("compile", "net.onnx", "--target", "host-cpu", "--out", "full")
    assert (code, "full: exists and is no artefact; give another --out" in printed) == (2, True)
    monkeypatch.setenv("PATH", str(tiny_graph))
    code, printed = codesign("compile", "net.onnx", "--target", "raspberry-pi-4", "--out", "made")
    assert (code, "no linker was found" in printed, "in Debian g++-aarch64-linux-gnu" in printed) == (1, True, True)
    assert not (tiny_graph / "made").exists()


def test_an_operator_without_a_template_names_itself_and_its_node(tiny_graph: Path, codesign: Codesign) -> None:
    import onnx

    model = onnx.load("net.onnx")
    middle = model.graph.node[0].output[0]
    for node in list(model.graph.node)[1:]:
        node.input[:] = ["odd" if name == middle else name for name in node.input]
    model.graph.node.insert(1, onnx.helper.make_node("Hardmax", [middle], ["odd"], name="strange"))
    onnx.save(model, "odd.onnx")
    code, printed = codesign("compile", "odd.onnx", "--target", "host-cpu")
    assert (code, "unsupported operators: Hardmax (strange); replace them" in printed) == (2, True)


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="Debian's g++-aarch64-linux-gnu is missing")
def test_an_artefact_goes_to_its_own_kind_of_device(tiny_graph: Path, codesign: Codesign) -> None:
    assert codesign("compile", "net.onnx", "--target", "raspberry-pi-4", "--out", "pi")[0] == 0
    code, printed = codesign("measure", "pi", "--target", "host-cpu")
    assert (code, "is compiled for aarch64, this device is x86_64" in printed) == (2, True)
    code, printed = codesign("measure", "pi", "--target", "x86-vnni-core")
    assert (code, "pi: is compiled for aarch64 (target 'raspberry-pi-4'), target 'x86-vnni-core' is" in printed) == (
        2,
        True,
    )
    code, printed = codesign("measure", "pi", "--target", "raspberry-pi-4")
    assert (code, "runner is 'simulated', so nothing can be timed there" in printed) == (2, True)
    code, printed = codesign("measure", "pi", "--target", "raspberry-pi-4-qemu", "--layers")
    assert (code, "the emulator counts whole runs only" in printed) == (2, True)


def test_mistakes_when_measuring(tiny_graph: Path, codesign: Codesign) -> None:
    code, printed = codesign("measure", "nothing", "--target", "host-cpu")
    assert (code, "name a folder that `codesign compile` wrote" in printed) == (2, True)
    assert codesign("compile", "net.onnx", "--target", "host-cpu", "--out", "made")[0] == 0
    code, printed = codesign("measure", "made", "--target", "squeezelerator-16x16")
    assert (code, "has no [tvm] section" in printed) == (2, True)
    library = next((tiny_graph / "made" / "lib").glob("*.so"))
    library.write_bytes(library.read_bytes()[:5000])
    code, printed = codesign("measure", "made", "--target", "host-cpu")
    assert (code, "(cut off or changed); copy or compile it again" in printed) == (2, True)


def test_each_target_gets_its_runner(tiny_graph: Path, codesign: Codesign) -> None:
    device = load_target("raspberry-pi-4-rpc")
    assert device.rpc is not None
    assert runner_of(device) == RpcRunner(device.rpc)
    assert kernel_runner_of(device) == RpcRunner(device.rpc)
    for name in ("raspberry-pi-4", "raspberry-pi-4-qemu"):
        with pytest.raises(
            InputError, match="so nothing can be timed there; use a target with runner 'local' or 'rpc'"
        ):
            runner_of(load_target(name))
        code, printed = codesign("calibrate", name)
        assert (code, "so there is no device to measure" in printed) == (2, True)
    code, printed = codesign("run", str(tiny_graph / "run.toml"), "--target", "raspberry-pi-4-qemu")
    assert (code, "counts instructions, by which nothing can be chosen" in printed) == (2, True)
