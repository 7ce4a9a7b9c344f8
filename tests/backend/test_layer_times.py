"""Times of layers out of times of kernels."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.backend.artifact_folder import open_artifact
from codesign.backend.kernel_table import KernelCall
from codesign.backend.kernel_timing import KernelTimingSettings, LocalKernelRunner
from codesign.backend.layer_times import CALL, LARGEST_CALL_S, REST, layer_times, rescaled, scaled_layers
from codesign.errors import MeasurementError

Call = tuple[str, str]
CALLS = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["", "one", "two", "three"])), min_size=1)


@given(CALLS, st.lists(st.floats(1e-9, 1.0), min_size=5, max_size=5), st.floats(1e-9, 10.0))
def test_layers_add_up_and_keep_their_proportions(pairs: list[Call], seconds: list[float], network_s: float) -> None:
    calls = [KernelCall(kernel, layer, ()) for kernel, layer in pairs]
    timed = dict(zip("abcde", seconds, strict=True))
    layers = scaled_layers(calls, timed, network_s)
    assert sum(layer.seconds for layer in layers) == pytest.approx(network_s)
    assert sum(layer.alone_s for layer in layers) == pytest.approx(sum(timed[call.kernel] for call in calls))
    assert [layer.layer for layer in layers] == list(dict.fromkeys(call.operation or REST for call in calls))
    for layer in layers:
        assert layer.seconds * layers[0].alone_s == pytest.approx(layers[0].seconds * layer.alone_s)
        assert layer.kernels == tuple(c.kernel for c in calls if (c.operation or REST) == layer.layer)
    for layer, twice in zip(layers, rescaled(layers, 2 * network_s), strict=True):
        assert twice.seconds == pytest.approx(2 * layer.seconds)
        assert twice.alone_s == layer.alone_s


def test_a_kernel_counts_as_often_as_it_is_called_and_views_do_not() -> None:
    calls = [KernelCall(kernel, layer, ()) for kernel, layer in (("k", "a"), ("view", "b"), ("k", "c"), ("k", "c"))]
    layers = {layer.layer: layer.seconds for layer in scaled_layers(calls, {"k": 0.5}, 6.0)}
    assert layers == {"a": 2.0, "c": 4.0}
    with pytest.raises(MeasurementError, match="none of the network's kernels could be timed"):
        scaled_layers(calls, {}, 1.0)


def test_what_a_network_takes_beyond_its_kernels_is_the_price_of_calling_it() -> None:
    calls = [KernelCall("k", "a", ()), KernelCall("l", "b", ())]
    timed = {"k": 1e-6, "l": 2e-6}
    layers = {layer.layer: layer for layer in scaled_layers(calls, timed, 1e-5, 5e-6)}
    found = {name: layer.seconds for name, layer in layers.items()}
    assert found == pytest.approx({"a": 2e-6, "b": 4e-6, CALL: 4e-6})
    assert layers[CALL].alone_s == pytest.approx(2e-6)
    assert layers[CALL].kernels == ()
    hot = {layer.layer: layer.seconds for layer in scaled_layers(calls, timed, 1e-5, 2.5e-6)}
    assert hot == pytest.approx({"a": 1e-5 / 3, "b": 2e-5 / 3})


def test_what_no_call_takes_is_shared_out() -> None:
    calls = [KernelCall("k", "a", ()), KernelCall("l", "b", ())]
    layers = {layer.layer: layer.seconds for layer in scaled_layers(calls, {"k": 1e-3, "l": 3e-3}, 5e-3, 5e-3)}
    assert layers[CALL] == pytest.approx(LARGEST_CALL_S, rel=0.3)
    assert layers["b"] == pytest.approx(3 * layers["a"])
    assert sum(layers.values()) == pytest.approx(5e-3)


def test_layers_of_a_compiled_network(artifact_folder: Path) -> None:
    _, artifact = open_artifact(artifact_folder)
    settings = KernelTimingSettings(placements=1, repeats=2, sample_s=1e-4, timeout_s=60)
    layers = layer_times(artifact, 1e-4, LocalKernelRunner(), settings)
    assert sum(layer.seconds for layer in layers) == pytest.approx(1e-4)
    assert {"xq", "layer", CALL} <= {layer.layer for layer in layers}  # nothing is smaller than what a call takes
    assert any(name.startswith("conv_i8") for layer in layers if layer.layer == "layer" for name in layer.kernels)
