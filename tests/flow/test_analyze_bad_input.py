"""Whatever is wrong: one clear sentence with a cure, a non-zero exit code, no file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Codesign = Callable[..., tuple[int, str]]
MODEL = ("net.onnx",)  # `net.py:tiny`, lowered
BARE = """

def without_parameters() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Flatten())
"""


def _refusal(codesign: Codesign, *arguments: str) -> str:
    code, printed = codesign("analyze", *arguments, "--json", "found.json", "--html", "found.html")
    assert code not in {0, None}, printed
    assert "Traceback" not in printed
    assert printed.count("codesign: error: ") == 1, printed
    assert [path.name for path in Path().iterdir() if path.name.startswith((".", "found"))] == []
    return printed.partition("codesign: error: ")[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--metric", "trase"], ["unknown metric 'trase'; did you mean 'trace'?"]),
        (["--metric", "hawqv2"], ["unknown metric 'hawqv2'; did you mean 'hawq-v2'?"]),
        (["--metric", "xyz"], ["unknown metric 'xyz'; known: ", "gradient-gauss-newton"]),
        (["--bits", "2,7"], ["--bits: got [2, 7]", "[2, 3, 4, 5, 6, 8]"]),
        (["--bits", "4,4"], ["--bits: got [4, 4], allowed are different widths"]),
        (["--bits", "x"], ["'x': expected whole numbers"]),
        (["--memory-limit", "4 gigs"], ["--memory-limit: got '4 gigs'", "4GB"]),
        (["--metric", "hawq", "--weights-of", "module"], ["metric hawq", "use --weights-of folded"]),
        (["--metric", "subsets", "--subsets", "1"], ["--subsets: got 1", "needs two"]),
        (["--validate", "--metric", "trace"], ["--validate: no metric predicts a loss", "add --metric", "auto"]),
        (["--validate", "--assignment-bits", "2,5"], ["--assignment-bits: [5] are not among --bits [2, 3, 4, 6, 8]"]),
        (["--validate", "--assignments", "1"], ["--assignments: got 1, allowed are 2 or more"]),
        (["--validate", "--held-out-samples", "1"], ["--held-out-samples: got 1, allowed are 2 or more"]),
        (["--validate", "--samples", "119"], ["train.npz has 1 held-out samples beside the 119", "--held-out"]),
        (["--validate", "--held-out", "train.npz"], ["train.npz has 0 held-out samples", "--held-out"]),
        (["--validate", "--held-out", "absent.npz"], ["absent.npz: no such data; check the path"]),
        (["--target", "host-cpy"], ["no target is named 'host-cpy'; did you mean 'host-cpu'?"]),
        (["--mean", "1,2"], ["preprocessing: mean and std are for 2 channels"]),
        (["--std", "0"], ["--scale, --mean, --std, --layout: std", "greater than 0"]),
        (["--layout", "HWC"], ["layout", "'NHWC' or 'NCHW'"]),
        (["--drop", "2"], ["drop"]),
        (["--seconds", "-1"], ["seconds"]),
        (["--max-forwards", "-1"], ["max-forwards is -1"]),
        (["--memory-limit", "20kB"], ["--memory-limit: got '20kB', allowed are 1MiB or more"]),
        (
            ["--metric", "density", "--eigenvalues", "100", "--memory-limit", "1MiB"],
            ["metric density: 400 vectors of", "raise --memory-limit, or ask for fewer --eigenvalues"],
        ),
    ],
)
def test_a_wrong_option(tiny_graph: Path, codesign: Codesign, options: list[str], words: list[str]) -> None:
    message = _refusal(codesign, *MODEL, "--data", "train.npz", *options)
    assert [word for word in words if word not in message] == [], message


def test_missing_data(tiny_graph: Path, codesign: Codesign) -> None:
    assert "absent.npz: no such data; check the path" in _refusal(codesign, *MODEL, "--data", "absent.npz")


def test_no_data_at_all(tiny_graph: Path, codesign: Codesign) -> None:
    code, printed = codesign("analyze", *MODEL)
    assert code == 2
    assert "Missing option '--data'" in printed


def test_nan_in_data(tiny_graph: Path, codesign: Codesign) -> None:
    with np.load("train.npz") as archive:
        images, labels = archive["images"].copy(), archive["labels"]
    images[11, 2, 3, 0] = np.nan
    np.savez("broken.npz", images=images, labels=labels)
    message = _refusal(codesign, *MODEL, "--data", "broken.npz")
    assert "broken.npz: sample 11 holds NaN or infinity (1 of 120 samples do); remove or repair them" in message


def test_a_label_that_is_no_class(tiny_graph: Path, codesign: Codesign) -> None:
    with np.load("train.npz") as archive:
        images, labels = archive["images"], archive["labels"].copy()
    labels[5] = 3
    np.savez("wrong.npz", images=images, labels=labels)
    assert "sample 5 has label 3, allowed are 0 to 2" in _refusal(codesign, *MODEL, "--data", "wrong.npz")


def test_a_model_without_parameters(tiny_graph: Path, codesign: Codesign) -> None:
    Path("bare.py").write_text(Path("net.py").read_text() + BARE)
    message = _refusal(codesign, "bare.py:without_parameters", "--input-shape", "1,1,8,8", "--data", "train.npz")
    assert (
        "bare.py:without_parameters: has no convolution or matrix product with weights; nothing to analyse" in message
    )


def test_own_weights_of_a_network_without_a_module(tiny_graph: Path, codesign: Codesign) -> None:
    message = _refusal(codesign, "net.onnx", "--data", "train.npz", "--weights-of", "module", "--samples", "8")
    assert "weights-of=module" in message
    assert "use weights-of=folded" in message


def test_a_folder_that_cannot_be_written(tiny_graph: Path, codesign: Codesign) -> None:
    Path("file").write_text("")
    code, printed = codesign(
        "analyze", *MODEL, "--data", "train.npz", "--samples", "4", "--metric", "trace", "--json", "file/found.json"
    )
    assert code == 1
    assert "file/found.json: cannot be written" in printed
    assert "Traceback" not in printed
