"""The command's small subcommands, and how fast it answers."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from codesign import __version__
from codesign.hardware.catalog import profile_names, target_names
from codesign.pass_manager.registry import installed_passes

Codesign = Callable[..., tuple[int, str]]
HAWQ = Path(__file__).parents[2] / ".." / "shared" / "reference" / "hawq_v3_resnet18.json"
HEAVY = ("torch", "tvm", "onnxruntime", "plotly", "sklearn", "onnx", "numpy", "highspy")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["run", "--help"], ["--version"], []])
def test_help_needs_no_heavy_library(arguments: list[str]) -> None:
    script = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('HEAVY', *[n for n in {HEAVY} if n in sys.modules], file=sys.stderr))\n"
        "from codesign.cli import main\n"
        "main()\n"
    )
    started = time.perf_counter()
    command = [sys.executable, "-c", script, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stderr.split("HEAVY")[1].split() == []
    assert time.perf_counter() - started < 2  # much more than it takes: other tests run beside this one
    assert ended.returncode == (0 if arguments else 2)
    if "--version" in arguments:
        assert ended.stdout == f"{__version__}\n"
    else:
        assert "Usage: " in ended.stdout


def test_help_names_every_command(codesign: Codesign) -> None:
    code, printed = codesign("--help")
    assert code == 0
    for name in ("run", "opt", "analyze", "partition", "calibrate-link", "allocate", "targets", "profiles", "passes"):
        assert f" {name} " in printed


def test_a_misspelt_option_or_command(codesign: Codesign) -> None:
    for arguments in (["run", "x.toml", "--outt", "y"], ["rum"], ["run"]):
        code, printed = codesign(*arguments)
        assert code == 2
        assert "Usage: " in printed
        assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("command", "names"), [("targets", target_names()), ("profiles", profile_names()), ("passes", installed_passes())]
)
def test_listings_name_everything_and_show_each(
    codesign: Codesign, command: str, names: tuple[str, ...] | dict[str, object]
) -> None:
    code, printed = codesign(command)
    assert code == 0
    assert len(names) >= 2
    for name in names:
        assert name in printed
        code, shown = codesign(command, name)
        assert code == 0
        assert name in shown


def test_a_profile_is_shown_with_the_source_of_each_number(codesign: Codesign) -> None:
    _, shown = codesign("profiles", "squeezelerator-16x16")
    for words in ("16 x 16", "source", "pJ per MAC", "not verified", "weight-stationary"):
        assert words in shown


def test_options_of_a_pass_are_shown_with_their_defaults(codesign: Codesign) -> None:
    _, shown = codesign("passes", "hessian-trace")
    assert "samples" in shown


def test_opt_prints_facts_and_writes_the_graph(tiny: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny)
    source = ("opt", "net.py:tiny", "--weights", "weights.safetensors", "--input-shape", "1,1,8,8")
    code, printed = codesign(*source, "-p", "count-work", "--time-passes")
    assert code == 0, printed
    assert f"macs={8 * 9 * 64}" in printed.replace(" ", "").replace(":", "=").replace(",", "").replace('"', "")
    code, printed = codesign(*source, "-p", "count-work", "-o", "counted.onnx")
    assert (code, printed) == (0, "")
    data = ("--data", "train.npz", "--samples", "8")
    code, printed = codesign("opt", "counted.onnx", "-p", "hessian-trace{samples=8}", *data, "--print-after-all")
    assert code == 0, printed
    assert "trace" in printed


def test_a_dry_run_says_what_would_happen_and_does_nothing(
    tiny: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny)
    code, printed = codesign("run", "run.toml", "--dry-run")
    assert code == 0, printed
    for words in ("net.py:tiny with weights.safetensors", "24 samples of train.npz", "40 samples of test.npz"):
        assert words in printed
    for words in ("count-work,", "average_bits = 5.5", "host-cpu (local)", "Kept from before", "nothing"):
        assert words in printed
    assert not (tiny / "runs").exists()


def test_target_and_settings_change_the_run_file(
    tiny: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny)
    change = ("--target", "squeezelerator-16x16", "--set", "search.evaluations=3", "--set", 'name="other"')
    code, printed = codesign("run", "run.toml", "--dry-run", *change)
    assert code == 0, printed
    assert "squeezelerator-16x16 (simulated)" in printed
    assert "3 plans measured at most" in printed
    assert "runs/other/report.html" in printed


@pytest.mark.skipif(not HAWQ.exists(), reason="../shared/reference/hawq_v3_resnet18.json is absent")
def test_allocate_finds_the_published_optimum_of_every_case(codesign: Codesign, tmp_path: Path) -> None:
    code, printed = codesign("allocate", HAWQ, "--json", tmp_path / "answers.json")
    assert code == 0, printed
    cases = json.loads(HAWQ.read_text())["cases"]
    answers = json.loads((tmp_path / "answers.json").read_text())["cases"]
    assert len(cases) == len(answers) > 0
    for case, answer in zip(cases, answers, strict=True):
        assert answer["gap"] == 0
        assert {"bits", "loss_increase", "gap", "seconds"} <= answer.keys()
        assert answer["bits"] == case["optimal_bits"]
        assert answer["loss_increase"] == pytest.approx(case["optimal_loss_increase"], rel=1e-9)
