"""The explicit lists in pyproject.toml match what is on disk."""

import os
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINKED = {"passes", "targets", "hw_profiles"}


def _packages_on_disk() -> set[str]:
    found = {f"codesign.{name}" for name in LINKED}
    for folder, below, files in os.walk(ROOT / "codesign"):  # does not follow links to folders
        below[:] = [name for name in below if name not in LINKED]
        if "__init__.py" in files:
            found.add(".".join(Path(folder).relative_to(ROOT).parts))
    return found


def test_every_package_on_disk_is_declared_and_no_other() -> None:
    declared = PROJECT["tool"]["setuptools"]["packages"]
    assert len(declared) == len(set(declared))
    assert set(declared) == _packages_on_disk()


def test_a_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "codesign").rglob("*.py")} | {ROOT / name for name in LINKED}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").is_file()) == []


@pytest.mark.parametrize("name", sorted(LINKED))
def test_a_top_level_folder_is_linked_into_the_package(name: str) -> None:
    link = ROOT / "codesign" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert PROJECT["tool"]["setuptools"]["package-dir"][f"codesign.{name}"] == name


@pytest.mark.parametrize("name", ["targets", "hw_profiles"])
def test_folders_of_data_hold_toml_files_that_are_shipped(name: str) -> None:
    assert PROJECT["tool"]["setuptools"]["package-data"][f"codesign.{name}"] == ["*.toml"]
    kinds = {path.suffix for path in (ROOT / name).iterdir() if path.is_file()}
    assert kinds == {".toml", ".py"}


def test_every_pass_has_an_entry_point_of_its_own_name() -> None:
    declared = PROJECT["project"]["entry-points"]["codesign.passes"]
    files = {path.stem for path in (ROOT / "passes").glob("*.py")} - {"__init__"}
    assert set(declared) == {stem.replace("_", "-") for stem in files}
    installed = {
        entry.name: entry for entry in entry_points(group="codesign.passes") if entry.value.startswith("codesign.")
    }
    for name, value in declared.items():
        kind = installed[name].load()
        assert installed[name].value == value
        assert kind.name == name
        assert kind.__name__ == "".join(part.capitalize() for part in name.split("-")) + "Pass"


def test_the_command_is_the_entry_point() -> None:
    (script,) = (entry for entry in entry_points(group="console_scripts") if entry.name == "codesign")
    assert script.value == PROJECT["project"]["scripts"]["codesign"] == "codesign.cli:main"


def test_passes_cannot_be_imported_by_their_folder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=r"codesign\.passes"):
        __import__("passes")
