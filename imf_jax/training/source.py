"""What a run learns from: a dataset, and the task or only the robot that it is of."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from imf_jax.config import NO_TASK, PretrainConfig, TrainConfig, require
from imf_jax.data.clips import split_episodes
from imf_jax.data.selection import Selection, select
from imf_jax.data.windows import Demonstrations
from imf_jax.errors import UserError
from imf_jax.models.policy import with_action_dim
from imf_jax.sim.tasks import Task, get_task, task_names
from imf_jax.spaces import RobotSpaces


@dataclass(frozen=True)
class TrainingSource:
    """A dataset and its robot.

    Attributes:
        selection: the dataset.
        task: on which validation rolls out; None if the robot of the dataset has no scene here.
        spaces: action and state of the robot.
        env_state_dim: channels of the scene state that a policy which does not see is given.
        notes: how the dataset was understood, one line each.
    """

    selection: Selection
    task: Task | None
    spaces: RobotSpaces
    env_state_dim: int
    notes: tuple[str, ...] = ()

    def columns(self, cameras: tuple[str, ...]) -> dict[str, Any] | None:
        """Where inputs and outputs come from in the dataset, for checkpoints; None for our own demonstrations."""
        reader = self.selection.reader
        if reader.fixed_size and self.task is not None:
            return None
        return {
            "format": reader.kind,
            **{role: list(names) for role, names in self.selection.columns.items()},
            "cameras": dict(zip(cameras, self.selection.source_cameras(cameras), strict=True)),
            "hz": reader.info(0).hz if len(reader) else None,
            "tasks": list(reader.tasks or ()),
        }


def find_source(config: TrainConfig) -> tuple[TrainConfig, TrainingSource]:
    """Open the dataset of a policy's training and tell whose it is.

    Returns:
        the configuration, with the width of the robot's actions and with `NO_TASK` where nothing can be rolled out;
        and the source.

    Raises:
        ArgumentError, UserError: see `open_source`.
    """
    source = open_source(config)
    if source.task is None:
        config = replace(config, task=NO_TASK)
    return replace(config, policy=with_action_dim(config.policy, source.spaces)), source


def open_source(config: TrainConfig | PretrainConfig) -> TrainingSource:
    """Open the dataset of a run and tell whose it is.

    Raises:
        ArgumentError: the task is not known, a column is not there, or the dataset is of another task.
        UserError: the dataset cannot be opened.
    """
    task = None if config.task == NO_TASK else get_task(config.task)
    selection = select(config.data, config.columns)
    reader = selection.reader
    notes: tuple[str, ...] = ()
    if task is not None and not reader.fixed_size:
        task, notes = _task_of(config, task, selection)
    if task is not None:
        return TrainingSource(selection, task, task.robot.spaces, task.env_state_dim, notes)
    spaces = selection.spaces()
    if len(reader) and (described := reader.info(0).robot):
        spaces = described
    return TrainingSource(selection, None, spaces, selection.width("env_state"), notes)


def _task_of(
    config: TrainConfig | PretrainConfig, task: Task, selection: Selection
) -> tuple[Task | None, tuple[str, ...]]:
    """The task, if the dataset may be of it; and what to say about that."""
    reader, spaces = selection.reader, task.robot.spaces
    known = set(reader.tasks or ()) & set(task_names())
    require(
        not known or task.name in known,
        f"{config.data} holds demonstrations of task {', '.join(sorted(known))!r}, not of --task {config.task!r}",
    )
    widths = selection.width("action"), selection.width("state")
    whose = f"{config.data} is of robot {reader.robot or 'unknown'!r} ({widths[0]} actions, {widths[1]} states)"
    if widths != (spaces.action_dim, spaces.state_dim):
        return None, (f"{whose}, which has no scene here (--task {NO_TASK}): held-out episodes tell what is learned",)
    if (selection.names("action"), selection.names("state")) != (spaces.action_names, spaces.state_names):
        return task, (
            f"{whose} and taken for robot {spaces.name!r} of task {task.name!r}, though its entries have other names; "
            f"if it is not, give --task {NO_TASK}",
        )
    return task, ()


def data_notes(source: TrainingSource) -> list[str]:
    """What to know about the episodes of a dataset, one line each."""
    reader, notes = source.selection.reader, list(source.notes)
    if reader.fixed_size:
        return notes
    outcomes = [reader.info(index).success for index in range(len(reader))]
    if failed := outcomes.count(False):
        notes.append(f"{failed} of {len(outcomes)} episodes are marked as failures; all are learned from")
    if len(reader.tasks or ()) > 1:
        notes.append(f"the dataset has {len(reader.tasks or ())} tasks; the policy is not told which one it is to do")
    return notes


def hold_out(
    source: TrainingSource, data: Demonstrations, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps to train on and held-out steps: the dataset's own choice of episodes, else a random one.

    Args:
        source: the dataset.
        data: all of its steps.
        share: of the episodes that is held out; 0 holds none out.
        seed: of the run.

    Returns:
        int (N_t,) and int (N_h,), increasing; None if nothing is held out.
    """
    reader = source.selection.reader
    if share == 0:
        return None
    infos = [reader.info(index) for index in range(len(reader))]
    marked = np.repeat([info.held_out for info in infos], [info.steps for info in infos])
    if marked.any() and not marked.all():
        return np.flatnonzero(~marked), np.flatnonzero(marked)
    try:
        split = split_episodes(data, share, seed)
    except UserError:
        return None  # of a single episode nothing can be held out
    return split.training, split.held_out
