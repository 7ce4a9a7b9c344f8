"""Imports go one way (design: errors ... < cli)."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"files", "progress", "config", "data_parallel", "durations"}),
    frozenset({
        "factory",
        "solver",
    }),  # partition and search solve the same programmes, and neither may import the other
    frozenset({"ir"}),
    frozenset({"curvature", "quantization", "architecture", "hardware", "partition"}),
    frozenset({"plan"}),
    frozenset({"cost"}),
    frozenset({"pass_manager"}),
    frozenset({"passes", "search", "backend", "training", "testing"}),
    frozenset({"calibration"}),
    frozenset({"tuning"}),
    frozenset({"report"}),
    frozenset({"run_file", "run_folder", "console"}),
    frozenset({"search_file"}),
    frozenset({"flow"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
DATA_ONLY = {"targets", "hw_profiles"}
SAME_LAYER_ALLOWED = {("config", "errors"), ("hardware", "quantization"), ("testing", "search"), ("testing", "backend")}
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "codesign":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("codesign.")}
    return found


def _part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if relative.parts[0] == "passes" else Path(relative.parts[1]).stem


def _offences(part: str, imports: set[str]) -> list[str]:
    offences = []
    for other in imports - {part} - DATA_ONLY - {"__version__"}:
        allowed = RANK[other] < RANK[part] or (part, other) in SAME_LAYER_ALLOWED
        if not allowed:
            offences.append(f"{part} imports {other}")
    return offences


def _sources() -> list[Path]:
    own = [p for p in (ROOT / "codesign").rglob("*.py") if not p.parent.is_symlink() and p.name != "__init__.py"]
    return own + [p for p in (ROOT / "passes").glob("*.py") if p.name != "__init__.py"]


def test_imports_point_one_way() -> None:
    offences = [f"{p.relative_to(ROOT)}: {line}" for p in _sources() for line in _offences(_part_of(p), _imports(p))]
    assert offences == []


def test_an_upward_import_is_noticed() -> None:
    assert _offences("ir", {"flow"}) == ["ir imports flow"]
    assert _offences("search", {"backend"}) == ["search imports backend"]
    assert _offences("flow", {"search", "backend"}) == []
