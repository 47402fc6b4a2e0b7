"""Tasks by their names: those of this package, of installed packages, and of the user's own files."""

from imf_jax.sim.tasks.base import Array, ContactPair, TableTask, Task, TaskObservation, TaskResult
from imf_jax.sim.tasks.registry import get_expert, get_task, task_names

__all__ = [
    "Array",
    "ContactPair",
    "TableTask",
    "Task",
    "TaskObservation",
    "TaskResult",
    "get_expert",
    "get_task",
    "task_names",
]
