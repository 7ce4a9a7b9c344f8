"""Two processes that share the samples give the numbers of one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    *("-m", "codesign", "analyze", "net.py:tiny", "--weights", "weights.safetensors", "--input-shape", "1,1,8,8"),
    *("--data", "train.npz", "--samples", "25", "--bits", "2,8", "--dtype", "float64", "--json", "found.json"),
    *("--metric", "trace", "--metric", "eigenvalues", "--metric", "auto", "--metric", "gauss-newton"),
    *("--validate", "--held-out-samples", "31", "--assignments", "3"),
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def _found(folder: Path, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, *arguments]
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=200
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("samples, ") == 1  # one process alone speaks
    found = json.loads((folder / "found.json").read_text())
    assert isinstance(found, dict)
    return found


def _numbers(found: dict[str, Any]) -> dict[str, object]:
    return {key: found[key] for key in ("layers", "validation")}


def _flat(value: object, path: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{path}/{i}").items()}
    return {path: float(value)} if isinstance(value, (int, float)) and not path.endswith("seconds") else {}


@pytest.mark.slow  # three imports of torch
def test_two_processes_agree_with_one(tiny: Path) -> None:
    alone = _found(tiny, *ARGUMENTS)
    together = _found(tiny, *TORCHRUN, *ARGUMENTS)
    assert (alone["processes"], together["processes"]) == (1, 2)
    expected, found = _flat(_numbers(alone)), _flat(_numbers(together))
    assert len(expected) > 100
    assert found == {path: pytest.approx(value, rel=1e-6, abs=1e-9) for path, value in expected.items()}
