"""Named training configurations: every Python file in `configs/` is a preset, so adding a file adds one.

`configs/transfer_state.py` is the preset `transfer-state`. Its docstring says what it reaches, on what hardware and in
what time; its variable `config` is a `TrainConfig`. Presets of pre-training are in `configs/pretrain/`, theirs is a
`PretrainConfig`.
"""

import ast
import runpy
from pathlib import Path
from typing import TypeVar

from imf_jax.config import RunConfig, TrainConfig, from_dict, to_dict
from imf_jax.errors import ArgumentError, UserError

_INSTALLED = Path(__file__).resolve().parent / "configs"
DIRECTORY = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parent.parent / "configs"
"""In the repository presets lie beside the package, where they are read and written; a wheel holds them in it."""

PRETRAIN_DIRECTORY = DIRECTORY / "pretrain"

Config = TypeVar("Config", bound=RunConfig)


def preset_paths(directory: Path = DIRECTORY) -> dict[str, Path]:
    """Preset name -> its file, in alphabetic order. Nothing is executed."""
    files = sorted(path for path in directory.glob("*.py") if not path.name.startswith(("_", ".")))
    return {path.stem.replace("_", "-"): path for path in files}


def preset_path(name: str, directory: Path = DIRECTORY) -> Path:
    """File of a preset.

    Raises:
        ArgumentError: there is no preset of that name; the message lists those there are.
    """
    paths = preset_paths(directory)
    if name not in paths:
        raise ArgumentError(f"unknown preset {name!r}; presets are: {', '.join(paths) or f'none in {directory}'}")
    return paths[name]


def preset_description(path: Path) -> str:
    """Docstring of a preset file, read without executing it.

    Raises:
        UserError: the file is no valid Python or has no docstring.
    """
    try:
        description = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"preset {path} cannot be read: {error}") from None
    if not description:
        raise UserError(f"preset {path} has no docstring; say there what it reaches, on what hardware, in what time")
    return description


def load_preset(
    name: str,
    directory: Path = DIRECTORY,
    kind: type[Config] = TrainConfig,  # type: ignore[assignment]
) -> Config:
    """Configuration of a preset.

    Args:
        name: of the preset.
        directory: of its file.
        kind: of configuration.

    Raises:
        ArgumentError: there is no such preset, or its configuration contradicts itself or has a value of another type.
        UserError: its file fails or defines no `config`.
    """
    path = preset_path(name, directory)
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError as error:
        raise ArgumentError(f"preset {path}: {error}") from None
    except Exception as error:  # whatever a user's file can raise
        raise UserError(f"preset {path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(config, kind):
        raise UserError(f"preset {path} must define `config = {kind.__name__}(...)`, not {type(config).__name__}")
    try:
        return from_dict(kind, to_dict(config))  # Python checks no types: 5e4 is no whole number of steps
    except UserError as error:
        raise ArgumentError(f"preset {path}: {error}") from None
