"""`codesign simulate` through the real command."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from codesign.hardware.catalog import load_profile

Codesign = Callable[..., tuple[int, str]]
HEADER = "net,name,H,W,C,K,R,S,sh,sw,ph,pw,groups,OH,OW,fc\n"
TABLE = (
    HEADER
    + "A,stem,18,18,3,16,3,3,1,1,0,0,1,16,16,0\nA,fc,1,1,64,10,1,1,1,1,0,0,1,1,1,1\nB,fc,1,1,8,8,1,1,1,1,0,0,1,1,1,1\n"
)
ARRAY = ("--profile", "squeezelerator-16x16")
KEYS = {"name", "cycles", "utilisation", "latency_s", "energy_j", "traffic_bytes", "bound"}
SMALL_BUFFER = "capacity_bytes = 64 # of the buffer"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `layers.csv` and the profile `small.toml` whose buffer holds 64 bytes."""
    monkeypatch.chdir(tmp_path)
    Path("layers.csv").write_text(TABLE)
    shipped = (Path(__file__).parents[2] / "hw_profiles" / "squeezelerator-16x16.toml").read_text()
    assert shipped.count("capacity_bytes = 131072") == 1
    small = shipped.replace("capacity_bytes = 131072", SMALL_BUFFER)
    Path("small.toml").write_text(small.replace('name = "squeezelerator-16x16"', 'name = "small"'))
    return tmp_path


def _simulate(codesign: Codesign, *arguments: str) -> dict[str, Any]:
    code, printed = codesign("simulate", *arguments, "--json", "found.json")
    assert code == 0, printed
    found = json.loads(Path("found.json").read_text())
    assert isinstance(found, dict)
    return found


def _refusal(codesign: Codesign, *arguments: str) -> str:
    code, printed = codesign("simulate", *arguments, "--json", "found.json", "--html", "page.html")
    assert code == 2
    assert "Traceback" not in printed
    assert printed.count("codesign: error: ") == 1, printed
    assert list(Path().rglob("*.partial*")) == []
    assert not Path("found.json").exists()
    assert not Path("page.html").exists()
    return printed.partition("codesign: error: ")[2]


def _save_onnx(path: Path, operators: list[str]) -> None:
    names = [f"t{index}" for index in range(len(operators) + 1)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in (names[0], names[-1])]
    nodes = [helper.make_node(op, [names[i]], [names[i + 1]], name=f"n{i}") for i, op in enumerate(operators)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])), path)


@pytest.mark.usefixtures("folder")
def test_json_has_the_layers_in_order_with_totals(codesign: Codesign) -> None:
    found = _simulate(codesign, "layers.csv", *ARRAY)
    assert [layer["name"] for layer in found["layers"]] == ["A/stem", "A/fc", "B/fc"]
    assert all(set(layer) == KEYS for layer in found["layers"])
    assert [detail["macs"] for detail in found["details"]] == [16 * 16 * 3 * 16 * 9, 640, 64]
    totals = found["totals"]
    for key in ("cycles", "latency_s", "energy_j"):
        assert totals[key] == pytest.approx(sum(layer[key] for layer in found["layers"]), rel=1e-12)
    for level in ("register-file", "global-buffer", "dram"):
        assert totals["traffic_bytes"][level] == sum(layer["traffic_bytes"][level] for layer in found["layers"])
    assert min(layer["utilisation"] for layer in found["layers"]) < totals["utilisation"] < 1
    assert (found["profile"], found["provenance"]) == ("squeezelerator-16x16", "simulated")
    assert (found["weight_bits"], found["activation_bits"]) == (8, 8)


@pytest.mark.usefixtures("folder")
def test_the_terminal_shows_layers_totals_provenance_and_what_is_not_verified(codesign: Codesign) -> None:
    code, printed = codesign("simulate", "layers.csv", *ARRAY)
    assert code == 0
    for words in ("A/stem", "110,592", "simulated", "output-stationary", "dram", "squeezelerator-16x16", "16x16"):
        assert words in printed
    (totals,) = [line for line in printed.splitlines() if re.match(r"│ all ", line)]
    assert "111,296" in totals
    (unverified,) = [line for line in printed.splitlines() if line.startswith("Not verified")]
    assert all(key in unverified for key in load_profile("squeezelerator-16x16").unverified)


@pytest.mark.usefixtures("folder")
def test_a_network_of_a_table_can_be_chosen(codesign: Codesign) -> None:
    found = _simulate(codesign, "layers.csv", *ARRAY, "--net", "B", "--html", "page.html")
    assert [layer["name"] for layer in found["layers"]] == ["B/fc"]
    assert "B of layers.csv on squeezelerator-16x16" in Path("page.html").read_text()


@pytest.mark.usefixtures("folder")
def test_options_of_the_array_reach_the_model(codesign: Codesign) -> None:
    options = ("--array", "8x4", "--array-model", "skewed", "--dataflow", "os")
    found = _simulate(codesign, "layers.csv", *ARRAY, *options)
    folds, depth = (256 // 8) * (16 // 4), 27
    assert found["layers"][0]["cycles"] == folds * (depth + 8 + 4 - 2) - 1  # simulator.md 2, skewed, OS
    assert {detail["dataflow"] for detail in found["details"]} == {"output-stationary"}
    assert (found["array"]["rows"], found["array"]["columns"], found["array"]["kind"]) == (8, 4, "skewed")


@pytest.mark.usefixtures("folder")
def test_floating_point_on_processors(codesign: Codesign) -> None:
    wide = _simulate(codesign, "layers.csv", "-p", "host-cpu", "--weight-bits", "32", "--activation-bits", "32")
    narrow = _simulate(codesign, "layers.csv", "-p", "host-cpu")
    assert (wide["provenance"], wide["array"], wide["totals"]["cycles"]) == ("estimated", None, None)
    assert wide["layers"][0]["traffic_bytes"]["l1"] == 4 * (18 * 18 * 3 + 16 * 256 + 27 * 16)
    assert wide["totals"]["latency_s"] > narrow["totals"]["latency_s"]


@pytest.mark.usefixtures("folder")
def test_without_a_rate_for_8_bits_the_profile_s_first_widths_are_taken(codesign: Codesign) -> None:
    text = Path("small.toml").read_text().replace(SMALL_BUFFER, "capacity_bytes = 131072")
    narrow = text.partition("[[compute]]\nweight_bits = 8\n")[0]
    Path("wide.toml").write_text(narrow.replace('name = "small"', 'name = "wide"'))
    found = _simulate(codesign, "layers.csv", "-p", "wide.toml")
    assert (found["weight_bits"], found["activation_bits"]) == (16, 16)
    assert "has no rate for 8-bit weights with 16-bit" in _refusal_after(codesign, "-p", "wide.toml")


def _refusal_after(codesign: Codesign, *options: str) -> str:
    Path("found.json").unlink()
    return _refusal(codesign, "layers.csv", *options, "--weight-bits", "8")


def test_a_network_is_simulated(tiny_graph: Path, codesign: Codesign) -> None:
    found = _simulate(codesign, "net.onnx", *ARRAY, "--weight-bits", "4", "--html", "page.html")
    kinds = [detail["operator"] for detail in found["details"]]
    assert [kind for kind in kinds if kind in {"Conv", "Gemm"}] == ["Conv", "Conv", "Gemm"]
    assert {detail["weight_bits"] for detail in found["details"] if detail["macs"]} == {4}
    assert all(set(layer) == KEYS for layer in found["layers"])
    assert "<h2>Roofline</h2>" in Path("page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "squeezelerator-16"), "no profile is named 'squeezelerator-16'; did you mean 'squeezelerator-16x16'?"),
        (("-p", "nowhere.toml"), "nowhere.toml"),
        ((*ARRAY, "--weight-bits", "4", "--activation-bits", "4"), "no rate for 4-bit weights with 4-bit activations"),
        ((*ARRAY, "--weight-bits", "32", "--activation-bits", "32"), "no rate for 32-bit weights with 32-bit"),
        ((*ARRAY, "--weight-bits", "0"), "no rate for 0-bit weights"),
        ((*ARRAY, "--activation-bits", "-8"), "no rate for 8-bit weights with -8-bit activations"),
        (("-p", "host-cpu", "--weight-bits", "32"), "no rate for 32-bit weights with 8-bit activations"),
        ((*ARRAY, "--array", "16"), "array: got '16', allowed are rows and columns above 0 such as 16x16"),
        ((*ARRAY, "--array", "0x4"), "array: got '0x4'"),
        ((*ARRAY, "--array", "-4x4"), "array: got '-4x4'"),
        ((*ARRAY, "--dataflow", "is"), "a squeezelerator array cannot run input-stationary"),
        ((*ARRAY, "--array-model", "broadcast", "--dataflow", "is"), "a broadcast array cannot run input-stationary"),
        (("-p", "host-cpu", "--array", "4x4"), "describes a processor, which has no array to change"),
        ((*ARRAY, "--net", "a"), "layers.csv: holds no network 'a'; known: A, B"),
        ((*ARRAY, "--input-shape", "1,3,8,8"), "layers.csv: a table has no weights and no input shape"),
        (("-p", "small.toml"), "layer 'A/stem': one filter, row and channel at a time take 127 bytes on chip, the"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_options_are_refused(codesign: Codesign, arguments: tuple[str, ...], message: str) -> None:
    assert message in _refusal(codesign, "layers.csv", *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "layers.csv: has no column C, K"),
        (HEADER, "layers.csv: holds no layers; add a line for each"),
        (TABLE.replace(",K,", ",k,"), "layers.csv: has no column K; it has"),
        (TABLE.replace(",groups,", ",group,"), "layers.csv: line 1: column 'group' is unknown; did you mean 'groups'?"),
        (TABLE.replace("A,fc,1,1,64", "A,fc,1,1,-64"), "layers.csv: line 3: C: got '-64', allowed are whole numbers"),
        (TABLE.replace("A,fc,1,1,64", "A,fc,1,1,0"), "layers.csv: line 3: C: got '0'"),
        (TABLE.replace("A,fc,1,1,64", "A,fc,1,1,nan"), "layers.csv: line 3: C: got 'nan'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_tables_are_refused_with_file_and_line(codesign: Codesign, text: str, message: str) -> None:
    Path("layers.csv").write_text(text)
    assert message in _refusal(codesign, "layers.csv", *ARRAY)


@pytest.mark.usefixtures("folder")
def test_bad_networks_are_refused(codesign: Codesign) -> None:
    _save_onnx(Path("empty.onnx"), ["Identity"])
    assert "empty.onnx: holds no layer that takes time" in _refusal(codesign, "empty.onnx", *ARRAY)
    assert "nowhere.onnx" in _refusal(codesign, "nowhere.onnx", *ARRAY)
    assert "small.toml: is neither a network nor a table" in _refusal(codesign, "small.toml", *ARRAY)
    assert "only CSV files hold several networks" in _refusal(codesign, "empty.onnx", *ARRAY, "--net", "A")


@pytest.mark.usefixtures("folder")
def test_a_network_that_only_moves_data_has_no_roofline(codesign: Codesign) -> None:
    _save_onnx(Path("relu.onnx"), ["Relu"])
    found = _simulate(codesign, "relu.onnx", *ARRAY, "--html", "page.html")
    (layer,) = found["layers"]
    assert (layer["cycles"], layer["utilisation"]) == (None, 0)
    assert found["totals"]["utilisation"] == 0
    assert "<h2>Roofline</h2>" not in Path("page.html").read_text()
