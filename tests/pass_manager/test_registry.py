import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from codesign.errors import InputError, PassError
from codesign.pass_manager.base import Pass
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.pass_manager.registry import GROUP, find_pass, installed_passes, loaders_of

ROOT = Path(__file__).parents[2]

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar
from codesign.pass_manager.base import AnalysisPass, PassContext
from codesign.ir.program import Program

@dataclass(frozen=True)
class GreetPass(AnalysisPass):
    """Does nothing."""
    name: ClassVar[str] = "greet"
    times: int = 1
    def run(self, program: Program, context: PassContext) -> None:
        pass
'''


def _install(site: Path, distribution: str, points: dict[str, str], modules: dict[str, str]) -> None:
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for name, source in modules.items():
        (site / f"{name}.py").write_text(source)


def test_a_pass_of_another_distribution_is_found_and_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "third-party", {"greet": "third_party_a:GreetPass"}, {"third_party_a": MODULE})
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = parse_pipeline("greet{times=2}")
    assert str(found) == "greet{times=2}"
    assert type(found).__module__ == "third_party_a"
    assert "count-work" in installed_passes()


def test_a_name_clash_names_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "one", {"greet": "clash_one:GreetPass"}, {"clash_one": MODULE})
    _install(tmp_path, "two", {"greet": "clash_two:GreetPass", "other": "clash_two:GreetPass"}, {"clash_two": MODULE})
    monkeypatch.syspath_prepend(tmp_path)
    known = installed_passes()
    with pytest.raises(PassError, match=r"one 1.0 \(clash_one:GreetPass\)") as caught:
        find_pass("greet", known)
    assert "two 1.0 (clash_two:GreetPass)" in str(caught.value)
    assert "count-work" in known  # others go on working
    with pytest.raises(PassError, match="calls itself 'greet'"):
        find_pass("other", known)


def test_a_broken_import_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"broken": "broken_module:X", "absent": "no_such_module:X", "attribute": "fine_module:X"}
    modules = {"broken_module": "1 / 0", "fine_module": "X = 3"}
    _install(tmp_path, "faulty", points, modules)
    monkeypatch.syspath_prepend(tmp_path)
    known = installed_passes()
    with pytest.raises(PassError, match=r"'broken' of faulty 1.0 \(broken_module:X\).*ZeroDivisionError"):
        find_pass("broken", known)
    with pytest.raises(PassError, match=r"'absent' of faulty 1.0.*no_such_module"):
        find_pass("absent", known)
    with pytest.raises(PassError, match="not a subclass of Pass"):
        find_pass("attribute", known)


def test_an_unknown_name_gets_the_closest() -> None:
    with pytest.raises(InputError, match="did you mean 'count-work'"):
        find_pass("count-wrok", installed_passes())


def test_nothing_is_imported_before_it_is_named() -> None:
    code = (
        "import sys; from codesign.pass_manager.pipeline import parse_pipeline; parse_pipeline('count-work');"
        "print(sorted(m for m in sys.modules if m.startswith('codesign.passes.') or m == 'torch'))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "['codesign.passes.count_work']"


def _declared() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["entry-points"][GROUP]
    assert isinstance(declared, dict)
    return declared


@pytest.mark.parametrize("name", sorted(_declared()))
def test_every_declared_pass_loads_under_its_name(name: str) -> None:
    kind = find_pass(name, loaders_of([EntryPoint(name, _declared()[name], GROUP)]))
    assert issubclass(kind, Pass)
    assert kind.__module__ == f"codesign.passes.{name.replace('-', '_')}"
