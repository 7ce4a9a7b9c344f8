import subprocess
import sys
from pathlib import Path

import pytest

from codesign.errors import InputError
from codesign.hardware.catalog import load_profile, load_target, profile_names, profile_of, target_names
from codesign.hardware.host import detect_host

ROOT = Path(__file__).parents[2]
ARRAY = (ROOT / "hw_profiles" / "squeezelerator-16x16.toml").read_text()


def _own(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


def test_the_shipped_files_are_listed() -> None:
    assert {"host-cpu", "squeezelerator-16x16"} <= set(profile_names())
    assert {"host-cpu", "squeezelerator-16x16"} <= set(target_names())
    assert list(profile_names()) == sorted(path.stem for path in (ROOT / "hw_profiles").glob("*.toml"))


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_loads_under_its_own_name(name: str) -> None:
    assert load_profile(name).name == name


@pytest.mark.parametrize("name", target_names())
def test_every_shipped_target_loads_and_its_profile_too(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert profile_of(target).name == target.profile


def test_a_target_s_threads_reach_a_detected_profile(tmp_path: Path) -> None:
    text = (ROOT / "targets" / "host-cpu.toml").read_text().replace('"host-cpu"', '"mine"', 1)
    text = text.replace("threads = 1", f"threads = {detect_host().logical_cores}")
    profile = profile_of(load_target(_own(tmp_path, text)))
    assert profile.threads == detect_host().logical_cores


def test_unknown_names_tell_the_closest() -> None:
    with pytest.raises(InputError, match=r"no target is named 'host-cup'; did you mean 'host-cpu'\?"):
        load_target("host-cup")
    with pytest.raises(InputError, match=r"no profile is named 'squeezelerator'; did you mean 'squeezelerator-8x8'"):
        load_profile("squeezelerator")


def test_a_file_of_one_s_own_is_read_from_its_path(tmp_path: Path) -> None:
    path = _own(tmp_path, ARRAY.replace("squeezelerator-16x16", "mine").replace("rows = 16", "rows = 8"))
    profile = load_profile(path)
    assert profile.name == "mine"
    assert profile.array is not None
    assert profile.array.rows == 8


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere/x.toml: no such file"):
        load_profile("nowhere/x.toml")


def test_the_name_inside_must_be_the_file_s(tmp_path: Path) -> None:
    path = _own(tmp_path, ARRAY)
    with pytest.raises(InputError, match=r"mine.toml: name: got 'squeezelerator-16x16', but the file is named 'mine'"):
        load_profile(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bandwidth_bytes_per_s = 8.0e9", "bandwidth_bytes_per_s = -8.0e9", r"memories.2.bandwidth_bytes_per_s: "),
        ("bandwidth_bytes_per_s = 8.0e9", "bandwidth_gb_per_s = 8.0", r"memories.2.bandwidth_gb_per_s: unknown key"),
        ("clock_hz = 5.0e8", "clock_mhz = 500.0", r"array.clock_mhz: unknown key; did you mean 'clock_hz'"),
        ("dispatch_s = 2.0e-7", "dispatch_s = nan", r"dispatch_s: "),
        ("rows = 16", "rows = 16.5", r"array.rows: "),
        ("macs_per_s = 1.28e11", "", r"compute.0.macs_per_s: missing"),
        ("[array]", "[array", r"is not valid TOML"),
    ],
)
def test_bad_files_are_refused_with_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in ARRAY
    path = _own(tmp_path, ARRAY.replace("squeezelerator-16x16", "mine").replace(old, new, 1))
    with pytest.raises(InputError, match=rf"mine\.toml: {message}"):
        load_profile(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threads = 1", "threads = 0", r"threads: "),
        ("threads = 1", "thread = 1", r"thread: unknown key; did you mean 'threads'"),
        ('runner = "local"', 'runner = "remote"', r"runner: "),
        (
            'profile = "host-cpu"',
            'profile = "host-cup"',
            r"profile: no profile is named 'host-cup'; did you mean 'host-cpu'",
        ),
        ("[tvm]", "[budget]\nlatency_ms = 3.0\n[tvm]", r"budget.latency_ms: unknown key; did you mean 'latency_s'"),
        ("[tvm]", "[budget]\nenergy_j = -3.0\n[tvm]", r"budget.energy_j: "),
    ],
)
def test_bad_targets_are_refused_with_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (ROOT / "targets" / "host-cpu.toml").read_text().replace('"host-cpu"', '"mine"', 1)
    assert old in text
    with pytest.raises(InputError, match=rf"mine\.toml: {message}"):
        load_target(_own(tmp_path, text.replace(old, new, 1)))


def test_a_detected_profile_is_as_strict(tmp_path: Path) -> None:
    text = (ROOT / "hw_profiles" / "host-cpu.toml").read_text().replace('"host-cpu"', '"mine"', 1)
    with pytest.raises(InputError, match=r"mine\.toml: detect: "):
        load_profile(_own(tmp_path, text.replace("detect = true", "detect = false")))
    with pytest.raises(InputError, match=r"mine\.toml: fallback_clock_ghz: unknown key"):
        load_profile(_own(tmp_path, text.replace("fallback_clock_hz = 2.0e9", "fallback_clock_ghz = 2.0")))
    with pytest.raises(InputError, match=r"mine\.toml: unpack: .*each of the widths 2, 3, 4, 5 and 6"):
        load_profile(_own(tmp_path, text.replace("weight_bits = 5", "weight_bits = 4")))
    with pytest.raises(InputError, match=r"mine\.toml: instruction_sets: .*last row must fit every processor"):
        load_profile(_own(tmp_path, text.replace('architecture = "any"', 'architecture = "x86_64"')))


def test_listing_and_loading_need_neither_torch_nor_onnx() -> None:
    code = (
        "import sys; from codesign.hardware.catalog import load_profile, profile_names; "
        "[load_profile(name) for name in profile_names()]; "
        "print(sorted({'torch', 'tvm', 'onnx', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
