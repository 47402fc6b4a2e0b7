"""Rooms of the package import downwards only, and no two files import each other."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "imf_jax"

ROOMS = (
    "errors",
    "streams",
    "interrupts",
    "jax_settings",
    "terminal",
    "config",
    "settings_file",
    "spaces",
    "token_file",
    "chunks",
    "client",
    "cache",
    "files",
    "images",
    "cores",
    "memory",
    "plots",
    "video",
    "cli",
    "seeds",
    "weight_files",
    "sim",
    "models",
    "checkpoints",
    "data",
    "viewing",
    "envs",
    "rollout",
    "evaluation",
    "serving",
    "training",
    "recording",
    "presets",
    "suite",
    "benchmark",
    "conversion",
    "commands",
)
"""From the ground up: a room imports itself and what stands before it."""

APART = {"data": {"sim"}}
"""Rooms below that a room must not know all the same: demonstrations are files, whatever made them."""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name in MODULES} - {PACKAGE.name}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_room_is_in_the_list():
    rooms = {room_of(module) for module in MODULES if module != PACKAGE.name}
    assert rooms == set(ROOMS)


def test_rooms_import_downwards_only():
    upwards = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if module != PACKAGE.name
        and (
            ROOMS.index(room_of(name)) > ROOMS.index(room_of(module)) or room_of(name) in APART.get(room_of(module), ())
        )
    ]
    assert not upwards


def test_no_two_files_import_each_other():
    resolved: set[str] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in resolved:
            for name in sorted(IMPORTS[module]):
                # A package and what is in it count as one where the package gathers the names of its files.
                if not (module.startswith(f"{name}.") or name == module):
                    follow(name, (*path, module))
            resolved.add(module)

    for module in MODULES:
        follow(module, ())
