"""The order of the layers, read from the import statements."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

#: Layer of each module; a package stands for all modules in it that have no line of their own.
LAYERS = {
    "schema": 0, "errors": 0, "__init__": 0,
    # What only computes on values, and what reads rings and settings.
    "config": 1, "config_checks": 1, "codegen": 1, "safe_yaml": 1, "boottime": 1, "paths": 1, "dns": 1,
    "derived": 1, "arrow": 1, "watch": 1, "sequences": 1, "shape": 1, "resources": 1,
    "kernel.ring": 1, "kernel.decode": 1, "kernel.hooks": 1,
    "crashes.model": 1, "crashes.lines": 1, "crashes.parse": 1, "crashes.verdict": 1,
    "rules.condition": 1, "rules.values": 1,
    "process": 2, "rules": 2, "rules.falco": 2, "document": 2,
    "alerts": 3, "pipeline": 3, "parts": 3, "classes": 3, "speed": 3,
    "outputs": 4, "record": 4, "reading": 4, "replay": 4, "ecs_input": 4, "parquet": 4, "parquet_read": 4, "columns": 4,
    "hunting": 4, "report": 4,
}
#: Where everything not named above belongs: the loader, the supervisor, the daemon, the command line.
TOP = 5
_SANS_IO = 3

#: Modules of the lower layers whose subject is the outside world, and what they may touch of it.
OUTSIDE = {
    "codegen": "writes the generated header, when run as a program",
    "config": "reads settings",
    "safe_yaml": "reads YAML files, within limits",
    "resources": "finds the files that are installed with the package",
    "kernel.ring": "reads the rings",
    "process.seed": "reads /proc",
    "rules.files": "finds and reads rule files",
    "rules.samples": "reads samples beside rule files",
}
_OUTSIDE_MODULES = {"asyncio", "fcntl", "glob", "io", "mmap", "os", "pathlib", "psutil", "pwd", "select", "selectors",
                    "shutil", "signal", "socket", "subprocess", "tempfile", "threading", "time", "urllib"}
_OUTSIDE_CALLS = {"open", "input", "print"}
_CLOCKS = {("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}


def modules() -> dict[str, Path]:
    """Modules of the package by dotted name, without the package's own name."""
    found = {}
    for path in sorted((ROOT / "sensor").rglob("*.py")):
        parts = list(path.relative_to(ROOT / "sensor").with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = modules()


def layer(module: str) -> int:
    """The layer of a module, by its own line or its package's."""
    for name in (module, module.rpartition(".")[0]):
        if name in LAYERS:
            return LAYERS[name]
    return TOP


def imports(path: Path) -> set[str]:
    """Everything that a module imports, also inside functions, but not for annotations alone."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))
    return names


def own_imports(path: Path) -> set[str]:
    """Modules of ours that a module imports."""
    names = (name.removeprefix("sensor.") for name in imports(path) if name.startswith("sensor."))
    return {name for name in names if name in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_its_own_layer_and_lower_ones(module: str) -> None:
    """The way of an event has one direction."""
    higher = {name: layer(name) for name in own_imports(MODULES[module]) if layer(name) > layer(module)}
    assert not higher, f"layer {layer(module)} imports higher ones: {higher}"


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) <= _SANS_IO and name not in OUTSIDE])
def test_lower_layers_touch_no_file_socket_or_clock(module: str) -> None:
    """What they need of the outside is passed in; so they can be tested, and replayed, without one."""
    roots = {name.partition(".")[0] for name in imports(MODULES[module])}
    assert not roots & _OUTSIDE_MODULES
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name):
            assert called.id not in _OUTSIDE_CALLS, f"line {node.lineno}"
        elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            assert (called.value.id, called.attr) not in _CLOCKS, f"line {node.lineno}"


def test_table_of_layers_names_only_modules_that_are_there() -> None:
    """A line for a module that went away would hide the next one of that name."""
    packages = {name.rpartition(".")[0] for name in MODULES}
    assert set(LAYERS) | set(OUTSIDE) <= set(MODULES) | packages
