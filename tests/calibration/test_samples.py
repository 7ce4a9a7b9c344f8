"""Raw samples survive whatever happens to the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from codesign.backend.kernel_timing import NETWORK, KernelTiming
from codesign.calibration.samples import Conditions, KernelSample, NetworkSample, SampleFile, undisturbed
from codesign.errors import InputError

HERE = Conditions("a processor", 1, "vectors", "tvm 1", "templates")
TIMING = KernelTiming("conv_i4", ((3e-6, 2e-6), (2.5e-6,)), (1e-6, 1.02e-6, 1.02e-6))
SAMPLE = KernelSample("net", "conv", "Conv 3x3", 4, 8, (TIMING, TIMING))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "deep" / "s.jsonl", HERE)
    file.add(SAMPLE)
    file.add(NetworkSample("net", 12, KernelTiming(NETWORK, ((2e-4, 3e-4),), (1e-6, 1e-6))))
    again = SampleFile(file.path, HERE)
    assert (again.kernels, again.networks) == (file.kernels, file.networks)
    assert again.usual_s() == 1e-6
    assert again.kernels_s("net") == pytest.approx(again.kernels[0].seconds(1e-6))
    # the fastest sample of the middle placement, which ran at a slightly faster clock, of two kernels
    assert again.kernels[0].seconds(1.01e-6) == pytest.approx(2 * 2e-6)
    assert again.is_complete("net")
    assert again.measured_operations("net") == {"conv"}
    assert not again.is_complete("other")


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "s.jsonl", HERE)
    file.add(SAMPLE)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + whole[: len(whole) // 2])
    again = SampleFile(file.path, HERE)
    assert again.kernels == [SAMPLE]
    again.add(replace(SAMPLE, operation="next"))
    assert [s.operation for s in SampleFile(file.path, HERE).kernels] == ["conv", "next"]


@pytest.mark.parametrize("line", ['{"kind": "kernel"}', "nonsense", '{"kind": "other", "conditions": {}}', "[1]"])
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    file = SampleFile(tmp_path / "s.jsonl", HERE)
    file.add(SAMPLE)
    with file.path.open("a") as stream:
        stream.write(line + "\n")
    file.add(SAMPLE)
    with pytest.raises(InputError, match=r"s\.jsonl:2: is not a sample"):
        SampleFile(file.path, HERE)


def test_samples_of_other_conditions_are_kept_and_not_used(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "s.jsonl", HERE)
    file.add(SAMPLE)
    other = SampleFile(file.path, replace(HERE, threads=2))
    assert other.kernels == []
    other.add(replace(SAMPLE, operation="b"))
    assert [s.operation for s in SampleFile(file.path, HERE).kernels] == ["conv"]
    rows = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert [row["conditions"]["threads"] for row in rows] == [1, 2]


def test_the_last_measurement_counts_and_outliers_do_not() -> None:
    bad = replace(SAMPLE, timings=(KernelTiming("conv_i4", ((1e-6,),), (1.5e-6, 1.5e-6)),))
    others = [replace(SAMPLE, operation=f"op{i}") for i in range(3)]
    assert undisturbed([bad, *others], 1e-6) == others
    assert undisturbed([bad, *others, SAMPLE], 1e-6) == [SAMPLE, *others]
    assert undisturbed([bad], 1e-6) == [bad]  # a machine that is always like that
    assert undisturbed([bad], 1.5e-6) == [bad]


def test_disturbances_do_not_count_as_usual(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "s.jsonl", HERE)
    assert file.usual_s() == float("inf")
    for reference_s in (1.4e-6, 1e-6, 1.01e-6, 1.5e-6):
        file.add(replace(SAMPLE, timings=(KernelTiming("k", ((1e-6,),), (reference_s, reference_s)),)))
    assert file.usual_s() == 1.01e-6
