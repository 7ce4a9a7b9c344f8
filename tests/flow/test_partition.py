"""`codesign partition` and `codesign calibrate-link` from the command line."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from codesign.errors import InputError
from codesign.flow.partition import partition
from codesign.flow.partition_request import PartitionRequest, machine_of_request
from codesign.partition.link_measurement import LinkSample, fit_link
from codesign.progress import Silent
from codesign.report.partition_html import scaling_figure, write_partition_html

Codesign = Callable[..., tuple[int, str]]
ALEXNET = Path(__file__).parents[2] / "examples" / "alexnet.csv"
MODES = {"batch", "model", "grid", "dense-grid", "mesh-tensorflow", "optimal"}


def test_a_table_of_layers(codesign: Codesign, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = ("partition", "--layers", str(ALEXNET), "--devices", "32", "--batch", "2048", "--no-redistribution")
    code, printed = codesign(
        *command, "--alpha", "2e-6", "--bandwidth", "6e9", "--element-bytes", "4", "--json", str(out)
    )
    assert code == 0
    assert "fc6" in printed
    found = json.loads(out.read_text())
    assert set(found["totals"]) == MODES
    assert f"{found['totals']['batch'] * 1e3:.1f} {found['totals']['dense-grid'] * 1e3:.1f}" == "80.7 25.5"
    layers = found["layers"]
    assert [layer["name"] for layer in layers] == [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8"]
    assert sum(layer["seconds"] for layer in layers) == pytest.approx(found["totals"]["optimal"])
    assert all(layer["placement"] and layer["bytes"] > 0 for layer in layers)
    assert found["gap"] == 0


def test_layers_of_every_mode_add_up(codesign: Codesign, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    for mode in sorted(MODES):
        arguments = ("--layers", str(ALEXNET), "--mesh", "data=2,model=2", "--batch", "8", "--mode", mode)
        assert codesign("partition", *arguments, "--json", str(out))[0] == 0
        found = json.loads(out.read_text())
        assert sum(layer["seconds"] for layer in found["layers"]) == pytest.approx(found["totals"][mode])


def test_a_network_is_planned_executed_and_executed_again_from_its_file(codesign: Codesign, tmp_path: Path) -> None:
    out, saved = tmp_path / "out.json", tmp_path / "planned.onnx"
    model = ("codesign.testing.networks:PlainNet", "--input-shape", "1,1,8,8", "--devices", "2", "--batch", "4")
    code, printed = codesign("partition", *model, "--execute", "--plan", str(saved), "--json", str(out))
    assert code == 0, printed
    assert "exactly as planned" in printed
    execution = json.loads(out.read_text())["execution"]
    assert execution["as_planned"]
    assert max(execution["largest_errors"].values()) < 1e-10
    assert "exactly as planned" in codesign("partition", str(saved), "--devices", "2", "--batch", "4", "--execute")[1]
    code, printed = codesign("partition", str(saved), "--devices", "4", "--batch", "4", "--execute")
    assert code == 2
    assert "its placement is for 2 devices, got 4" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--devices", "4"), "give either a MODEL"),
        (("--layers", str(ALEXNET)), "how many devices?"),
        (("--layers", str(ALEXNET), "--devices", "0"), "devices: got 0"),
        (("--layers", str(ALEXNET), "--devices", "4", "--mesh", "a=4"), "either --mesh or --devices"),
        (("--layers", str(ALEXNET), "--mesh", "data4"), "allowed are names with sizes"),
        (("--layers", str(ALEXNET), "--devices", "4", "--alpha", "-1"), "latency is -1"),
        (("--layers", str(ALEXNET), "--target", "host-cpu"), "is one device"),
        (("--layers", str(ALEXNET), "--target", "cpu+npu"), "no rate for numbers of 32 bits"),
        (("--layers", str(ALEXNET), "--devices", "4", "--execute"), "says too little to be executed"),
        (("--layers", "nowhere.csv", "--devices", "4"), "cannot be read as CSV"),
        (
            ("--layers", str(ALEXNET), "--devices", "64", "--batch", "2", "--mode", "batch"),
            "2 samples cannot be shared",
        ),
        (("x:y", "--devices", "99999", "--execute"), "this machine has"),
    ],
)
def test_mistakes_are_explained(codesign: Codesign, arguments: tuple[str, ...], message: str) -> None:
    code, printed = codesign("partition", *arguments)
    assert code in {1, 2}
    assert message in " ".join(printed.split())
    assert "Traceback" not in printed


def test_wrong_tables_name_the_line(tmp_path: Path) -> None:
    lines = ALEXNET.read_text().splitlines()
    path = tmp_path / "layers.csv"
    for row, message in (
        (lines[1].replace("conv,", "convo,"), "kind: got 'convo'; did you mean 'conv'"),
        (lines[1].replace("34848", "-3"), "weights: got '-3'"),
        (lines[1].replace("154587", "7"), "input_elements: got 7"),
        (lines[2].replace("conv2", "conv1"), "occurs twice"),
    ):
        path.write_text(
            "\n".join([lines[0], lines[1] if "twice" in message else row, row][: 3 if "twice" in message else 2])
        )
        with pytest.raises(InputError, match=message):
            partition(PartitionRequest(layers=path, devices=2), Silent())


def test_dense_layers_need_no_image(tmp_path: Path) -> None:
    path = tmp_path / "layers.csv"
    lines = ALEXNET.read_text().splitlines()
    path.write_text("\n".join([lines[0], "fc,dense,32,8,4,,,,,,,,"]))
    result = partition(PartitionRequest(layers=path, devices=2, batch=4), Silent())
    assert [row.name for row in result.layers] == ["fc"]


def test_the_page_shows_how_space_goes_on_where_samples_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codesign.flow.partition.SCALING_DEVICES", (1, 4, 16))
    request = PartitionRequest(layers=ALEXNET, devices=4, batch=4, with_scaling=True)
    result = partition(request, Silent())
    by_devices = {point.devices: point.seconds for point in result.scaling}
    assert by_devices[16]["batch"] is None
    assert by_devices[16]["optimal"] is not None
    assert {trace.name for trace in scaling_figure(result).data} >= {"batch", "optimal"}
    page = tmp_path / "page.html"
    write_partition_html(result, page)
    assert "Time against devices" in page.read_text()


def test_unequal_devices_form_a_pipeline() -> None:
    request = PartitionRequest(layers=ALEXNET, target="big-little", batch=16, goal="throughput", micro_batches=8)
    machine = machine_of_request(request)
    assert machine.is_mixed
    result = partition(request, Silent())
    assert result.pipeline is not None
    pipeline, devices = result.pipeline
    assert set(devices) == {"big", "little"}
    alone = machine.kinds[0].device.seconds
    assert pipeline.seconds < sum(alone(op.macs, 0.0) for op in result.network.operators) * 1.2


def test_four_boards_are_planned_with_their_link() -> None:
    result = partition(PartitionRequest(layers=ALEXNET, target="pi4-x4", batch=16), Silent())
    assert result.with_compute
    assert result.mesh.axes[0].link.bandwidth_bytes_per_s == 1.17e8
    assert result.chosen.price.energy_j > 0


def test_a_link_is_recovered_from_exact_times() -> None:
    from codesign.partition.collectives import GLOO, messages, share
    from codesign.partition.link_measurement import KINDS, SIZES

    samples = [
        LinkSample(k, n, messages(k, 2) * 1e-4 + share(k, 2) * n * GLOO.get(k, 1.0) / 2e9) for k in KINDS for n in SIZES
    ]
    fit = fit_link(samples, 2)
    assert fit.latency_s == pytest.approx(1e-4)
    assert fit.bandwidth_bytes_per_s == pytest.approx(2e9)
    assert fit.relative_error < 1e-9


def test_a_calibrated_target_is_a_target(codesign: Codesign, tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    code, printed = codesign("calibrate-link", "--out", str(out), "--repeats", "2")
    assert code == 0
    assert "calibrated" in printed
    link = tomllib.loads(out.read_text())["link"]
    assert machine_of_request(PartitionRequest(target=str(out))).mesh.axes[0].link.latency_s == link["latency_s"]
    code, printed = codesign("calibrate-link", "pi4-x4")
    assert code == 2
    assert "needs runner 'local'" in printed
