"""Import arrows run downward only: each room imports what its row allows, and no more."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "l2m_ros"
LEAVES = {"types", "errors", "progress", "drawing"}  # anyone may import these
ALLOWED: dict[str, set[str]] = {
    "types": {"errors"},
    "errors": set(),
    "progress": set(),
    "drawing": {"types", "errors"},
    "geometry": set(),
    "network": set(),
    "runtime": {"network"},  # narrowed to single files below
    "localization": {"geometry", "runtime"},
    "lifting": {"geometry"},
    "training": {"network", "lifting", "geometry"},
    "evaluation": {"geometry", "runtime"},
    "simulation": {"geometry"},
    "ros": {"localization", "geometry", "runtime"},
}
MAY_IMPORT_NETWORK = {"torch_backend", "export"}
# The sole importers of each engine, and of ROS.
SOLE_IMPORTERS = {
    "rclpy": {"ros"},
    "onnxruntime": {"runtime/onnxruntime_backend", "lifting"},
    "tensorrt": {"runtime/tensorrt_backend"},
    "cuda": {"runtime/cuda_memory"},
    "torch": {"network", "training", "lifting", "runtime/torch_backend", "runtime/export"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrow"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_run_downward(path):
    room = room_of(path)
    if room in ("cli", "commands", "__init__", "__main__"):
        return
    allowed = ALLOWED[room] | (LEAVES if room not in LEAVES else set()) | {room}
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "l2m_ros" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in allowed, f"{room} imports {name}"
            if room == "runtime" and parts[1] == "network":
                assert path.stem in MAY_IMPORT_NETWORK, f"{path.name} imports {name}"


@pytest.mark.parametrize("engine", SOLE_IMPORTERS)
def test_engines_have_one_importer(engine):
    for path in FILES:
        place = str(path.relative_to(PACKAGE).with_suffix("").as_posix())
        if place.startswith("commands/") or place == "cli":
            continue
        if any(name.split(".")[0] == engine for name in imports_of(path)):
            assert any(
                place == owner or place.startswith(f"{owner}/") for owner in SOLE_IMPORTERS[engine]
            ), f"{place} imports {engine}"


def test_importing_only_defines():
    """No module prints, opens or computes at import: top-level statements are definitions."""
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assert not call, f"{path}:{node.lineno} calls something at import"
