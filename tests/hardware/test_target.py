"""How devices are reached: which sections go with which runner."""

import re
from pathlib import Path

import pytest

from codesign.errors import InputError
from codesign.hardware.catalog import load_target

HEAD = 'name = "mine"\ndescription = "mine"\nprofile = "host-cpu"\n'
TVM = '[tvm]\nmcpu = "native"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('runner = "rpc"\n' + TVM, "the section [rpc] goes with runner = 'rpc', and only with it"),
        ('runner = "local"\n[rpc]\nserver = "a:1"\n' + TVM, "the section [rpc] goes with runner = 'rpc', and only"),
        ('runner = "local"\n[qemu]\n' + TVM, "the section [qemu] goes with runner = 'qemu-aarch64', and only with it"),
        ('runner = "rpc"\n[rpc]\nserver = "a:1"\n', "runner = 'rpc' needs a section [tvm]"),
        ('runner = "rpc"\n[rpc]\n' + TVM, "rpc: Value error, give either tracker = 'host:port' or server"),
        (
            'runner = "rpc"\n[rpc]\nserver = "a:1"\ntracker = "b:2"\n' + TVM,
            "give either tracker = 'host:port' or server",
        ),
        ('runner = "rpc"\n[rpc]\nserver = "a"\n' + TVM, "rpc.server: String should match pattern"),
        ('runner = "rpc"\n[rpc]\nserver = "a:1"\nport = 1\n' + TVM, "rpc.port: unknown key"),
        ('runner = "rpc"\n[rpc]\nserver = "a:1"\nconnect_timeout_s = 0.0\n' + TVM, "rpc.connect_timeout_s: "),
    ],
)
def test_sections_that_do_not_fit(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(HEAD + text)
    with pytest.raises(InputError, match=re.escape(message)):
        load_target(str(tmp_path / "mine.toml"))


def test_a_device_over_rpc(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(HEAD + 'runner = "rpc"\n[rpc]\nserver = "device.local:9090"\n' + TVM)
    target = load_target(str(tmp_path / "mine.toml"))
    assert target.rpc is not None
    assert (target.rpc.server, target.rpc.key, target.rpc.tracker) == ("device.local:9090", "codesign", None)
