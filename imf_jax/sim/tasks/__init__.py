"""The tasks, by the name used on command lines."""

from collections.abc import Callable

from imf_jax.errors import ArgumentError
from imf_jax.sim.tasks.base import Array, Task, TaskObservation, TaskResult
from imf_jax.sim.tasks.transfer import Transfer

TASKS: dict[str, Callable[[], Task]] = {"transfer": Transfer}


def get_task(name: str) -> Task:
    """Look up a task by its name.

    Raises:
        ArgumentError: if there is none; the message lists the tasks.
    """
    if name not in TASKS:
        raise ArgumentError(f"unknown task '{name}'; choose one of: {', '.join(sorted(TASKS))}")
    return TASKS[name]()


__all__ = ["TASKS", "Array", "Task", "TaskObservation", "TaskResult", "get_task"]
