"""Whatever is wrong with the input: one clear sentence with a cure, a non-zero exit code, nothing half-written."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

Codesign = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run that works, which is the current one."""
    monkeypatch.chdir(tiny)
    return tiny


def _refusal(codesign: Codesign, *arguments: str) -> str:
    """The message with which a command is refused; nothing is left half-written."""
    code, printed = codesign(*arguments)
    assert code not in {0, None}, printed
    assert "Traceback" not in printed
    assert "Warning" not in printed
    assert printed.count("codesign: error: ") == 1, printed
    left = [path.name for path in Path().rglob("*") if ".partial" in path.name or path.name.startswith("report.")]
    assert left == []
    return printed.partition("codesign: error: ")[2]


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _save_data(path: Path, images: ArrayLike | None = None, labels: ArrayLike | None = None) -> None:
    with np.load(path) as archive:
        kept = {"images": archive["images"], "labels": archive["labels"]}
    np.savez(
        path,
        images=kept["images"] if images is None else np.asarray(images),
        labels=kept["labels"] if labels is None else np.asarray(labels),
    )


def _save_onnx(path: Path, operators: list[str], size: int | str = 64) -> None:
    """A chain of element-wise operators and a dense layer of 64 inputs."""
    names = [f"t{i}" for i in range(len(operators) + 1)]
    nodes = [helper.make_node(op, [names[i]], [names[i + 1]], name=f"n{i}") for i, op in enumerate(operators)]
    nodes.append(helper.make_node("Gemm", [names[-1], "w"], ["y"], name="dense"))
    weight = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [64, 3], weight.tobytes(), raw=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def _use_onnx(folder: Path, operators: list[str], size: int | str = 64) -> None:
    _save_onnx(folder / "net.onnx", operators, size)
    _replace(folder / "run.toml", 'weights = "weights.safetensors"\ninput_shape = [1, 1, 8, 8]\n', "")
    _replace(folder / "run.toml", "net.py:tiny", "net.onnx")


def test_missing_run_file(folder: Path, codesign: Codesign) -> None:
    assert _refusal(codesign, "run", "absent.toml") == "absent.toml: no such file; check the path\n"


def test_a_process_ends_in_the_same_way(folder: Path) -> None:
    command = [sys.executable, "-m", "codesign", "run", "absent.toml"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == "codesign: error: absent.toml: no such file; check the path\n"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.weights=absent.pth", ["absent.pth", "no such file"]),
        ("model.weights=net.py", ["net.py", ".safetensors"]),
        ("model.source=absent.py:tiny", ["absent.py: no such file; check the path"]),
        ("model.source=net.py:tinny", ["net.py:tinny", "did you mean 'tiny'?"]),
        ("model.source=net.py", ["net.py: is no network", "path/to/file.py:factory"]),
        ("model.source=absent.onnx", ["weights: absent.onnx holds its own"]),
        ("data.train=absent.npz", ["absent.npz: no such data; check the path"]),
        ("data.test=absent", ["absent: no such data; check the path"]),
        ("data.train=net.py", ["net.py: unknown kind of data; allowed are"]),
        ("data.also_test.test=test.npz", ["data.also_test: the name 'test' is taken", "choose another"]),
        ("data.calibration_samples=5000", ["5000 calibration and 24 search samples", "ask for fewer"]),
        ("serach.evaluations=3", ["serach: unknown key; did you mean 'search'?"]),
        ("search.evaluation=3", ["search.evaluation: unknown key; did you mean 'evaluations'?"]),
        ("search.budgets.0.average_bit=3", ["search.budgets.0.average_bit: unknown key; did you mean 'average_bits'?"]),
        ("seed=zero", ["run.toml (with --set): seed: Input should be a valid integer", "got 'zero'"]),
        ("seed=-1", ["seed: ", "greater than or equal to 0", "got -1"]),
        ("seed=99999999999999999999", ["seed: ", "got 99999999999999999999"]),
        ('seed="3"', ["seed: Input should be a valid integer", "got '3'"]),
        ("search.evaluations=2.5", ["search.evaluations: ", "got 2.5"]),
        ("search.budgets=[]", ["search.budgets: ", "at least 1"]),
        ("search.budgets.0.average_bits=nan", ["search.budgets.0.average_bits: ", "got nan"]),
        ("measure.timeout_s=inf", ["measure.timeout_s: ", "got inf"]),
        ("quantization.percentile=nan", ["quantization.percentile: ", "got nan"]),
        ("data.search_samples=1", ["data.search_samples: ", "greater than or equal to 2", "got 1"]),
        (
            "quantization.weight_bits=[4,7]",
            ["quantization: ", "weight_bits [7] are not supported", "[2, 3, 4, 5, 6, 8]"],
        ),
        ("quantization.weight_bits=4", ["quantization.weight_bits: ", "got 4"]),
        ('measure.compilers=["gcc"]', ["measure.compilers.0: ", "'tvm' or 'onnxruntime'", "got 'gcc'"]),
        ("name=../x", ["name: ", "got '../x'"]),
        ("no-value", ["--set no-value: got no 'key=value'"]),
        ("name.x=1", ["--set name.x=1: 'name.x' does not lead to a value; check the key"]),
        ("target=host-cpy", ["no target is named 'host-cpy'; did you mean 'host-cpu'?"]),
        ("target=absent.toml", ["absent.toml: no such file; check the path"]),
        ('quantization.ties=[["a","b"]]', ["layer 'a' is tied", "known: "]),
        ("train.epochs=1", ["the run file has both [train] and model.weights; remove one of them"]),
        ("model.input_shape=[1,1,9,9]", ["input of [1, 1, 9, 9]", "set input_shape to what it takes"]),
        ("model.input_shape=[2,1,8,8]", ["input_shape: got [2, 1, 8, 8]", "batch of 1"]),
        ("search.budgets.0={latency_s=1e-12}", ["latency_s: at most", "least possible", "raise the limit"]),
        (
            "search.budgets.0={average_bits=2}",
            ["weight_bytes: at most 410 bytes allowed, least possible 668 bytes); raise"],
        ),
        ("search.budgets.0={}", ["search.budgets.0: ", "must limit something"]),
    ],
)
def test_a_wrong_value(folder: Path, codesign: Codesign, setting: str, words: list[str]) -> None:
    message = _refusal(codesign, "run", "run.toml", "--set", setting)
    assert [word for word in words if word not in message] == [], message
    assert not (folder / "runs/tiny/search.json").exists()


def test_all_mistakes_of_a_run_file_are_named_at_once(folder: Path, codesign: Codesign) -> None:
    message = _refusal(codesign, "run", "run.toml", "--set", "sed=1", "--set", "model.sauce=x", "--set", "name=3")
    assert message.count("run.toml") == 3
    for words in ("sed: unknown key; did you mean 'seed'?", "model.sauce: unknown key", "name: Input should be"):
        assert words in message


def test_a_run_file_that_is_not_toml(folder: Path, codesign: Codesign) -> None:
    (folder / "run.toml").write_text("name = \n")
    message = _refusal(codesign, "run", "run.toml")
    assert message.startswith("run.toml: is not valid TOML")
    assert "line 1" in message


def test_a_run_file_without_a_model(folder: Path, codesign: Codesign) -> None:
    (folder / "run.toml").write_text('name = "x"\n[data]\ntrain = "train.npz"\n')
    assert _refusal(codesign, "run", "run.toml") == "run.toml: model: missing; add it\n"


def test_an_unknown_target_names_the_closest(folder: Path, codesign: Codesign) -> None:
    message = _refusal(codesign, "run", "run.toml", "--target", "squeezelerator-16")
    assert "no target is named 'squeezelerator-16'; did you mean 'squeezelerator-16x16'?" in message


@pytest.mark.parametrize(("label", "allowed"), [(3, "0 to 2"), (-1, "0 to ")])
@pytest.mark.parametrize("file", ["train.npz", "test.npz"])
def test_wrong_label_range(folder: Path, codesign: Codesign, file: str, label: int, allowed: str) -> None:
    with np.load(folder / file) as archive:
        labels = archive["labels"].copy()
    labels[7] = label
    _save_data(folder / file, labels=labels)
    message = _refusal(codesign, "run", "run.toml")
    assert f"{file}: sample 7 has label {label}, allowed are {allowed}" in message
    assert "correct the labels" in message


def test_labels_that_are_not_integers(folder: Path, codesign: Codesign) -> None:
    _save_data(folder / "train.npz", labels=np.zeros(120))
    assert "labels are float64, allowed are integers; convert them" in _refusal(codesign, "run", "run.toml")


@pytest.mark.parametrize("trained", [False, True])
def test_images_that_do_not_fit_the_model(folder: Path, codesign: Codesign, trained: bool) -> None:
    for file, count in (("train.npz", 120), ("test.npz", 40)):
        _save_data(folder / file, images=np.random.default_rng(count).normal(size=(count, 9, 9, 1)))
    if trained:
        _replace(folder / "run.toml", 'weights = "weights.safetensors"\n', "")
        _replace(folder / "run.toml", "[data]", "[train]\nepochs = 1\n[data]")
    message = _refusal(codesign, "run", "run.toml")
    assert "train.npz" in message
    assert "[1, 9, 9]" in message or "[2, 1, 9, 9]" in message
    assert "use a" in message


def test_images_with_another_number_of_channels(folder: Path, codesign: Codesign) -> None:
    _save_data(folder / "test.npz", images=np.zeros((40, 8, 8, 3), np.uint8))
    message = _refusal(codesign, "run", "run.toml")
    assert "test.npz: images are [3, 8, 8] as channels, height, width, but the model takes [1, 8, 8]" in message


def test_nan_weights(folder: Path, codesign: Codesign) -> None:
    weights = load_file(folder / "weights.safetensors")
    weights["3.weight"][0, 0, 0, 0] = np.nan
    save_file(weights, folder / "weights.safetensors")
    message = _refusal(codesign, "run", "run.toml")
    assert "NaN or infinity in '3.weight'; use weights from a run that converged" in message


def test_weights_of_another_network(folder: Path, codesign: Codesign) -> None:
    weights = load_file(folder / "weights.safetensors")
    save_file({f"other.{name}": value for name, value in weights.items()}, folder / "weights.safetensors")
    assert "weights.safetensors" in _refusal(codesign, "run", "run.toml")


def test_truncated_weights(folder: Path, codesign: Codesign) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    assert "weights.safetensors" in _refusal(codesign, "run", "run.toml")


def test_nan_in_data(folder: Path, codesign: Codesign) -> None:
    with np.load(folder / "train.npz") as archive:
        images = archive["images"].copy()
    images[11, 2, 3, 0] = np.nan
    _save_data(folder / "train.npz", images=images)
    message = _refusal(codesign, "run", "run.toml")
    assert "train.npz: sample 11 holds NaN or infinity (1 of 120 samples do); remove or repair them" in message


def test_a_single_test_sample(folder: Path, codesign: Codesign) -> None:
    with np.load(folder / "test.npz") as archive:
        images, labels = archive["images"][:1], archive["labels"][:1]
    np.savez(folder / "test.npz", images=images, labels=labels)
    message = _refusal(codesign, "run", "run.toml")
    assert message.endswith("test.npz: 1 test sample has no standard error; give at least 2\n")


def test_truncated_data(folder: Path, codesign: Codesign) -> None:
    path = folder / "train.npz"
    path.write_bytes(path.read_bytes()[:3000])
    assert "train.npz: is not a readable .npz file" in _refusal(codesign, "run", "run.toml")


def test_truncated_onnx(folder: Path, codesign: Codesign) -> None:
    _use_onnx(folder, ["Relu"])
    path = folder / "net.onnx"
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        message = _refusal(codesign, "run", "run.toml")
        assert message.startswith("net.onnx: ")
        assert "again" in message


def test_all_unsupported_operators_are_listed(folder: Path, codesign: Codesign) -> None:
    _use_onnx(folder, ["Sinh", "Relu", "Acosh", "Sinh"])
    message = _refusal(codesign, "run", "run.toml")
    assert message == (
        "net.onnx: unsupported operators: Acosh (n2), Sinh (n0, n3); replace them in the network with supported ones\n"
    )


def test_dynamic_shapes(folder: Path, codesign: Codesign) -> None:
    _use_onnx(folder, ["Relu"], "width")
    message = _refusal(codesign, "run", "run.toml")
    assert "net.onnx: input 't0' has dynamic dimensions 'width' (axis 1); set input_shape" in message


def test_an_infeasible_budget_names_what_can_be_reached(folder: Path, codesign: Codesign) -> None:
    message = _refusal(codesign, "run", "run.toml", "--set", "search.budgets.0={weight_bytes=100}")
    packed_at_4_bits = (8 * 9 + 8 * 8 * 9 + 128 * 3) / 2 + 8 * (8 + 8 + 3)
    assert "weight_bytes" in message
    assert f"{packed_at_4_bits:g}" in message
    code, printed = codesign("run", "run.toml", "--set", f"search.budgets.0={{weight_bytes={packed_at_4_bits}}}")
    assert code == 0, printed


@pytest.mark.parametrize("name", ["lowered", "graph", "journal", "search", "network", "measurement", "report.json"])
def test_a_full_disk(folder: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    sync = os.fsync

    def full(descriptor: int) -> None:
        if name.removesuffix(".json") in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = _refusal(codesign, "run", "run.toml")
    assert "cannot be written (No space left on device); free some space or choose another folder" in message
    code, printed = codesign("run", "run.toml")
    assert code == 0, printed


def test_a_limit_on_the_size_of_files(folder: Path) -> None:
    """The kernel itself refuses to write more than 3000 bytes to a file."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    script = f"{limit}; from codesign.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", script, "run", "run.toml"], capture_output=True, text=True, check=False, cwd=folder
    )
    assert ended.returncode == 1
    assert "lowered.onnx: cannot be written (File too large)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [path.name for path in folder.rglob("*") if ".partial" in path.name] == []


def test_an_output_folder_that_is_a_file(folder: Path, codesign: Codesign) -> None:
    message = _refusal(codesign, "run", "run.toml", "--out", "net.py")
    assert "net.py" in message


def _damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\x00\xff" + data[len(data) // 2 + 3 :])


def test_a_corrupt_cache_entry_is_computed_again(
    folder: Path, codesign: Codesign, report_without_timings: Callable[[Path], object]
) -> None:
    code, printed = codesign("run", "run.toml")
    assert code == 0, printed
    run = folder / "runs" / "tiny"
    expected = report_without_timings(run)
    plan = next(path.parent for path in run.glob("artifacts/*/measurement.json") if path.parent.name != "baseline")
    kept = ("lowered.onnx", "graph.onnx", "facts.json", "search.json", "steps/annotate.json", "steps/search.json")
    artifacts = [plan / "network.onnx", plan / "measurement.json", *sorted(plan.glob("onnxruntime/*"))]
    assert len(artifacts) == 5
    for number, path in enumerate((*(run / name for name in kept), *artifacts)):
        whole = path.read_bytes()
        if number % 2 and path.parent.name != "steps":
            path.unlink()
        else:
            _damage(path)
        code, printed = codesign("run", "run.toml")
        assert code == 0, (path, printed)
        assert "the stored result is damaged; it is computed again" in printed, (path, printed)
        assert report_without_timings(run) == expected, path
        assert path.name == "measurement.json" or path.read_bytes() == whole, path


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("count-wrok", ["count-wrok", "did you mean 'count-work'?"]),
        ("count-work,", ["count-work,"]),
        ("count-work{", ["count-work{"]),
        ("hessian-trace{sample=4}", ["sample", "did you mean 'samples'?"]),
        ("hessian-trace{samples=many}", ["samples", "many"]),
        ("estimate-cost", ["estimate-cost"]),
        ("sensitivity{method=hessian}", ["method", "hawq-v2"]),
        ("hessian-trace{samples=4}", ["hessian-trace", "data"]),
    ],
)
def test_a_broken_pipeline(folder: Path, codesign: Codesign, pipeline: str, words: list[str]) -> None:
    message = _refusal(codesign, "opt", "net.py:tiny", "--input-shape", "1,1,8,8", "-p", pipeline, "-o", "out.onnx")
    assert [word for word in words if word not in message] == [], message
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["opt", "absent.onnx", "-p", "count-work"], ["absent.onnx: no such file"]),
        (["opt", "net.py:tiny", "-p", "count-work"], ["net.py:tiny: a module does not tell its input_shape"]),
        (["opt", "net.py:tiny", "-p", "count-work", "--input-shape", "1,x"], ["'1,x': expected whole numbers"]),
        (["opt", "net.py:tiny", "-p", "count-work", "--mean", "a"], ["'a': expected numbers separated by commas"]),
        (["targets", "host-cpy"], ["no target is named 'host-cpy'; did you mean 'host-cpu'?"]),
        (["profiles", "host-cpy"], ["no profile is named 'host-cpy'; did you mean 'host-cpu'?"]),
        (["passes", "count-wrok"], ["count-wrok", "did you mean 'count-work'?"]),
        (["allocate", "absent.json"], ["absent.json"]),
        (["allocate", "net.py"], ["net.py"]),
    ],
)
def test_other_commands(folder: Path, codesign: Codesign, arguments: list[str], words: list[str]) -> None:
    message = _refusal(codesign, *arguments)
    assert [word for word in words if word not in message] == [], message
