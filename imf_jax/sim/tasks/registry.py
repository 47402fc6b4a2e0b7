"""Tasks by name or by place, and their experts.

| `--task` | what it is |
|---|---|
| `transfer` | a file of this folder: the task whose `name` is the name of the file, `_` for `-` |
| a name | an entry point of the group `imf_jax.tasks` of an installed package, `name = "package.module:Class"` |
| `package.module:Class` | a class that can be imported |
| `path/to/file.py`, `path/to/file.py:Class` | a class in a Python file; without its name the only task in it |
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from imf_jax.errors import ArgumentError, one_line
from imf_jax.sim.tasks.base import Task

GROUP = "imf_jax.tasks"
"""Group of entry points by which installed packages offer tasks."""

_NOT_TASKS = ("aloha", "base", "registry")


def task_names() -> tuple[str, ...]:
    """Names of the tasks of this package and of installed ones."""
    return tuple(sorted({*_own_modules(), *_entry_points()}))


@cache
def get_task(reference: str) -> Task:
    """The task of a name, a class that can be imported, or a Python file; see the module.

    A file or module is executed, so references must come from the user, never from a file that somebody else wrote.

    Raises:
        ArgumentError: there is none, or it cannot be loaded; the message says why.
    """
    kind = _find_class(reference)
    if not (inspect.isclass(kind) and issubclass(kind, Task)):
        raise ArgumentError(f"--task {reference} is not a task; let it be a class derived from imf_jax.sim.tasks.Task")
    try:
        task = kind()
    except Exception as error:
        raise _failed(f"--task {reference}", error) from error
    lacking = [
        name for name in ("name", "robot", "objects", "stages", "env_state_dim", "max_steps") if _lacks(task, name)
    ]
    if lacking:
        raise ArgumentError(f"--task {reference} has no {', '.join(lacking)}; see imf_jax.sim.tasks.Task")
    return task


def get_expert(task: str) -> Any:
    """The scripted expert of a task, see `imf_jax.sim.experts.base.Expert`.

    Raises:
        ArgumentError: if the task has none.
    """
    expert = get_task(task).expert
    if expert is None:
        with_one = [name for name in _own_modules() if get_task(name).expert is not None]
        raise ArgumentError(f"task '{task}' has no scripted expert; tasks with one: {', '.join(sorted(with_one))}")
    kind = _import_object(expert, f"the expert of task '{task}'") if isinstance(expert, str) else expert
    return kind()


def _find_class(reference: str) -> Any:
    module = _own_modules().get(reference)
    if module is not None:
        tasks = _tasks_in(importlib.import_module(module))
        return next(kind for kind in tasks if kind.name == reference)
    points = _entry_points()
    if reference in points:
        try:
            return points[reference].load()
        except Exception as error:
            raise _failed(f"--task {reference}", error) from error
    file, _, name = reference.partition(":")
    if file.endswith(".py"):
        return _class_in_file(reference, Path(file), name)
    if name:
        return _import_object(reference, f"--task {reference}")
    raise ArgumentError(
        f"unknown task '{reference}'; choose one of: {', '.join(task_names())}; or name a class by package.module:Name "
        "or a Python file"
    )


def _class_in_file(reference: str, path: Path, name: str) -> Any:
    if not path.is_file():
        raise ArgumentError(f"--task {reference}: there is no file {path}")
    module = _load_file(path.resolve(), reference)
    if name:
        if not hasattr(module, name):
            raise ArgumentError(f"--task {reference}: {path} has no {name}")
        return getattr(module, name)
    tasks = _tasks_in(module)
    if len(tasks) != 1:
        found = ", ".join(kind.__name__ for kind in tasks) or "none"
        raise ArgumentError(f"--task {reference}: {path} must define one task, it has {found}; name one: {path}:Name")
    return tasks[0]


def _load_file(path: Path, reference: str) -> ModuleType:
    name = f"imf_jax_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(f"--task {reference}", error) from error
    return module


def _import_object(reference: str, what: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise _failed(what, error) from error


def _failed(what: str, error: Exception) -> ArgumentError:
    """The error of loading `what`, with the line of the file where it arose."""
    # Frames of this file and of the import system do not help; a syntax error names its line itself.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _imports(frame.filename)]
    where = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    return ArgumentError(f"{what} cannot be loaded: {type(error).__name__}: {one_line(error)}{where}")


def _imports(file: str) -> bool:
    """Whether a file is part of how modules are imported."""
    return file in (__file__, importlib.__file__, importlib.metadata.__file__) or file.startswith("<frozen importlib")


def _tasks_in(module: ModuleType) -> list[type[Task]]:
    """The tasks that a module defines itself."""
    classes = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Task)]
    return [kind for kind in classes if kind.__module__ == module.__name__ and not inspect.isabstract(kind)]


@cache
def _own_modules() -> dict[str, str]:
    """Name of a task of this package -> its module."""
    package = __name__.rpartition(".")[0]
    folder = str(Path(__file__).parent)
    names = [module.name for module in pkgutil.iter_modules([folder]) if module.name not in _NOT_TASKS]
    return {name.replace("_", "-"): f"{package}.{name}" for name in names}


@cache
def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def _lacks(task: Task, name: str) -> bool:
    return not hasattr(task, name)
