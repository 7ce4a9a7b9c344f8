import csv
import json
from pathlib import Path

import pytest

from codesign.errors import InputError
from codesign.flow.simulate import DataflowChoice, SimulateRequest, parse_array, simulate

HEADER = "layer,OH,OW,C,K,R,S,stride\n"
LAYERS = HEADER + "stem,16,16,3,16,3,3,1\npoint,16,16,16,32,1,1,1\nfc,1,1,64,10,1,1,1\n"
SCALESIM = Path(__file__).parents[2] / ".." / "shared" / "reference" / "scalesim_cycles.csv"
ARRAY = "squeezelerator-16x16"


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "layers.csv"
    path.write_text(LAYERS)
    return str(path)


@pytest.mark.skipif(not SCALESIM.is_file(), reason="needs ../shared/reference/scalesim_cycles.csv")
@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_cycles_of_a_skewed_array_are_scale_sim_s(size: int, dataflow: DataflowChoice) -> None:
    with SCALESIM.open(newline="") as file:
        rows = list(csv.DictReader(file))
    result = simulate(SimulateRequest(str(SCALESIM), ARRAY, (size, size), "skewed", dataflow))
    assert len(result.layers) == len(rows)
    for layer, row in zip(result.layers, rows, strict=True):
        assert layer.name == f"{row['net']}/{row['layer']}"
        if (row["df"], row["arr"]) == (dataflow, str(size)):
            assert layer.cycles == int(row["cycles"])


def test_the_result_is_json_in_the_order_of_the_input(table: str) -> None:
    found = json.loads(json.dumps(simulate(SimulateRequest(table, ARRAY)).to_json(), allow_nan=False))
    assert [layer["name"] for layer in found["layers"]] == ["stem", "point", "fc"]
    assert set(found["layers"][0]["traffic_bytes"]) == {"register-file", "global-buffer", "dram"}
    assert found["totals"]["latency_s"] == pytest.approx(sum(layer["latency_s"] for layer in found["layers"]))
    assert "array.clock_hz" in found["unverified"]
    assert found["provenance"] == "simulated"


def test_best_is_the_fastest_of_all_dataflows(table: str) -> None:
    ways = {way: simulate(SimulateRequest(table, ARRAY, (8, 8), "skewed", way)) for way in ("os", "ws", "is")}
    best = simulate(SimulateRequest(table, ARRAY, (8, 8), "skewed"))
    for index, layer in enumerate(best.layers):
        assert layer.latency_s == min(result.layers[index].latency_s for result in ways.values())


def test_an_element_keeps_its_rate_in_an_array_of_another_shape(table: str) -> None:
    for shape in ((3, 7), (12, 14), (500, 500)):
        result = simulate(SimulateRequest(table, ARRAY, shape, "broadcast", "ws"))
        assert all(layer.cycles == round(layer.cycles or 0) for layer in result.layers)
        assert all(0 < layer.utilisation <= 1 for layer in result.layers)


def test_a_network_is_priced_with_everything_that_takes_time() -> None:
    source = "codesign.architecture.squeezenext:squeezenext_digits"
    result = simulate(SimulateRequest(source, ARRAY, weight_bits=4, input_shape=(1, 1, 8, 8)))
    kinds = {layer.op_type for layer in result.layers}
    assert {"Conv", "Gemm"} <= kinds
    assert kinds - {"Conv", "Gemm"}  # additions of shortcuts, the mean over positions
    assert all(layer.cycles is None for layer in result.layers if layer.op_type not in {"Conv", "Gemm"})


def test_a_processor_has_no_array_to_change(table: str) -> None:
    assert simulate(SimulateRequest(table, "host-cpu")).provenance == "estimated"
    for request in (
        SimulateRequest(table, "host-cpu", array=(8, 8)),
        SimulateRequest(table, "host-cpu", array_model="skewed"),
        SimulateRequest(table, "host-cpu", dataflow="os"),
    ):
        with pytest.raises(InputError, match="profile 'host-cpu': describes a processor"):
            simulate(request)


def test_bad_requests_are_refused(table: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a broadcast array cannot run input-stationary, allowed are output-"):
        simulate(SimulateRequest(table, ARRAY, None, "broadcast", "is"))
    with pytest.raises(InputError, match="no rate for 4-bit weights with 4-bit activations"):
        simulate(SimulateRequest(table, ARRAY, weight_bits=4, activation_bits=4))
    with pytest.raises(InputError, match=r"nowhere.csv: cannot be read"):
        simulate(SimulateRequest(str(tmp_path / "nowhere.csv"), ARRAY))
    with pytest.raises(InputError, match="no profile is named 'tpu'"):
        simulate(SimulateRequest(table, "tpu"))


@pytest.mark.parametrize("text", ["16", "16x", "0x16", "16x0", "-4x4", "4x4x4", "4.5x4", "axb", ""])
def test_an_array_that_is_none_is_refused(text: str) -> None:
    assert parse_array(" 8X16 ") == (8, 16)
    with pytest.raises(InputError, match=r"array: got .*such as 16x16"):
        parse_array(text)
