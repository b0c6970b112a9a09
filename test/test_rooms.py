"""Import arrows run downward only: each room imports what its row allows, and no more."""

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "l2m_ros"
# Files at the top of the package that any room may import.
LEAVES = {
    "types", "errors", "progress", "timing", "drawing", "spelling", "images", "image_header",
    "files", "output_paths", "compiled",
}  # fmt: skip
WORKSHOP = {
    "workshop", "geometry", "matching", "engines", "export", "networks", "tracking", "mapping",
    "frames", "bags", "parameters",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "types": {"errors"},
    "errors": set(),
    "progress": set(),
    "timing": set(),
    "threads": set(),
    "spelling": set(),
    "files": {"errors", "output_paths"},
    "output_paths": {"errors"},
    "compiled": set(),
    "image_header": {"errors"},
    "images": {"types", "errors", "files", "image_header"},
    "drawing": {"types", "errors"},
    "geometry": set(),
    "engines": {"networks"},  # narrowed to the torch engine below
    "networks": set(),
    "matching": {"engines"},
    "export": {"networks", "engines"},
    "tracking": {"geometry", "matching"},
    "mapping": {"geometry", "matching", "tracking"},
    "frames": {"geometry", "tracking"},
    "parameters": {"tracking", "matching", "geometry", "frames", "mapping"},
    "bags": {"frames", "parameters", "tracking", "mapping", "matching", "geometry"},
    "node": {
        "bags", "frames", "parameters", "mapping", "tracking", "matching", "engines", "geometry",
    },
    "workshop": WORKSHOP,
}  # fmt: skip
FREE = ("cli", "commands", "__init__", "__main__")  # entry points may import everything
MAY_IMPORT_NETWORKS = {"engines": {"engines/torch"}}
# The sole importers of each engine, and of ROS.
SOLE_IMPORTERS = {
    "rclpy": {"node"},
    "onnxruntime": {"engines/onnxruntime"},
    "openvino": {"engines/openvino"},
    "tensorrt": {"engines/tensorrt/backend"},
    "cuda": {"engines/tensorrt/cuda_memory"},
    # Peers are other people's torch programs, imported when one is asked for.
    "torch": {
        "networks",
        "workshop",
        "engines/torch",
        "export/stages",
        "matching/peers",
        "matching/deformable",
    },
}
FILES = sorted(PACKAGE.rglob("*.py"))


@functools.cache
def read(path: Path) -> tuple[list[str], list[int]]:
    """Names that a file imports; lines at its top that call something. Trees are not kept: there
    are a million nodes for the garbage collector to walk."""
    tree, names = ast.parse(path.read_text()), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrow"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    calls = [
        node.lineno
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    return names, calls


def imports_of(path: Path) -> list[str]:
    return read(path)[0]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_run_downward(path):
    room = room_of(path)
    if room in FREE:
        return
    allowed = ALLOWED[room] | (LEAVES if room not in LEAVES else set()) | {room}
    place = path.relative_to(PACKAGE).with_suffix("").as_posix()
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "l2m_ros" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in allowed, f"{place} imports {name}"
            if parts[1] == "networks" and room in MAY_IMPORT_NETWORKS:
                assert place in MAY_IMPORT_NETWORKS[room], f"{place} imports {name}"


def test_no_import_circle_between_files():
    """Also not through imports inside functions: whatever a file reaches never reaches it back."""
    modules = {module_of(path): path for path in FILES}
    arrows = {
        module: {target_of(name, modules) for name in imports_of(path)} - {module, None}
        for module, path in modules.items()
    }
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in sorted(arrows.get(module, ())):
                walk(target, (*trail, module))
            done.add(module)

    for module in arrows:
        walk(module, ())


def module_of(path: Path) -> str:
    return ".".join(["l2m_ros", *path.relative_to(PACKAGE).with_suffix("").parts])


def target_of(name: str, modules: dict[str, Path]) -> str | None:
    """The file that `from a.b import c` reads: a.b.c if that is a file, else a.b."""
    return next((m for m in (name, name.rpartition(".")[0]) if m in modules), None)


@pytest.mark.parametrize("engine", SOLE_IMPORTERS)
def test_engines_have_one_importer(engine):
    for path in FILES:
        place = str(path.relative_to(PACKAGE).with_suffix("").as_posix())
        if room_of(path) in FREE:
            continue
        if any(name.split(".")[0] == engine for name in imports_of(path)):
            assert any(
                place == owner or place.startswith(f"{owner}/") for owner in SOLE_IMPORTERS[engine]
            ), f"{place} imports {engine}"


def test_importing_only_defines():
    """No module prints, opens or computes at import: top-level statements are definitions."""
    for path in FILES:
        assert not read(path)[1], f"{path}:{read(path)[1][0]} calls something at import"
