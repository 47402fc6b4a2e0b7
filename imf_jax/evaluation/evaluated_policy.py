"""Evaluated policy: a planner, of a checkpoint or a scripted expert, with a name and a provenance."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from imf_jax.checkpoints import LoadedPolicy
from imf_jax.config import IMAGE_SIZE, NO_TASK, EvalConfig, PictureStyle, ServeConfig, require, to_dict
from imf_jax.config.perturbation import active, perturbation_text
from imf_jax.config.recording import RolloutConfig
from imf_jax.errors import ArgumentError
from imf_jax.sim.backends.base import Backend
from imf_jax.sim.tasks import get_task, task_names
from imf_jax.spaces import RobotSpaces


def _nothing() -> None:
    pass


class EvaluatedPolicy(NamedTuple):
    """Policy to roll out, with its name and provenance.

    Attributes:
        planner: plans its actions.
        task: the task that it is rolled out on.
        label: its name in messages and reports.
        provenance: its entries of the manifest, plain JSON types.
        folder: default name of a folder with its results.
        image_size: height and width of the pictures that it reads [pixels].
        checkpoint: the checkpoint folder that it was loaded from, if it was.
        pictures: how the pictures that it learned from were drawn; None if it sees none, or nobody said so.
        close: lets go of what it holds, such as connections.
    """

    planner: Any
    task: str
    label: str
    provenance: Mapping[str, Any] = MappingProxyType({})
    folder: str = ""
    image_size: int = IMAGE_SIZE
    checkpoint: Path | None = None
    pictures: PictureStyle | None = None
    close: Callable[[], None] = _nothing


def load_evaluated_policy(config: EvalConfig | RolloutConfig) -> EvaluatedPolicy:
    """Load the policy or the scripted expert that the flags name.

    Raises:
        UserError: there is no complete checkpoint, or it cannot be read.
        ArgumentError: the task has no expert, or what is named cannot be executed as the flags say.
    """
    return _load_expert(config) if config.checkpoint is None else _load_policy(config)


def load_as_configured(config: EvalConfig | RolloutConfig | ServeConfig) -> LoadedPolicy:
    """Load the policy of `--checkpoint`, which computes as the flags say.

    Raises:
        UserError: there is no complete checkpoint, or it cannot be read.
        ArgumentError: the policy has no such encoder.
    """
    from imf_jax.checkpoints import load_policy
    from imf_jax.models.encoders.lewm import LewmEncoder

    assert config.checkpoint is not None
    loaded = load_policy(config.checkpoint)
    policy = loaded.policy
    if config.sampling_steps is not None:
        policy.config = dataclasses.replace(policy.config, sampling_steps=config.sampling_steps)
    if config.encoder_dtype is not None:
        encoder = policy.frozen_encoder
        if not isinstance(encoder, LewmEncoder):
            run = loaded.path.resolve().parent.parent.name
            raise ArgumentError(
                f"--encoder-dtype {config.encoder_dtype} is for a frozen LEWM encoder, which the policy of {run} does "
                "not have; leave it out"
            )
        encoder.dtype = np.dtype(config.encoder_dtype)
    return loaded


def _load_policy(config: EvalConfig | RolloutConfig) -> EvaluatedPolicy:
    """Load the policy of a checkpoint folder, or of the newest complete checkpoint of a run folder."""
    from imf_jax.evaluation.manifest import folder_hash
    from imf_jax.rollout.delay import policy_planner

    loaded, execution = load_as_configured(config), config.execution
    policy, run = loaded.policy, loaded.path.resolve().parent.parent.name
    provenance = {
        "checkpoint": {"path": str(loaded.path.resolve()), "sha256": folder_hash(loaded.path), "step": loaded.step},
        "sampling_steps": policy.config.sampling_steps,
        "training": to_dict(loaded.config),
    }
    keep_chunks = isinstance(config, EvalConfig) and config.capture.keep_chunks
    planner = policy_planner(policy, config.plan_batch, execution, keep_chunks=keep_chunks)
    label, folder = f"{run}, step {loaded.step}", f"{run}_step{loaded.step}"
    if execution.delay_steps:
        label, folder = f"{label}, delay {execution.delay_steps}", f"{folder}_delay{execution.delay_steps}"
    task = config.task or trained_task(loaded.meta.task)
    require_robot(loaded.meta.spaces, loaded.meta.task, task)
    size = planner.image_size
    return EvaluatedPolicy(planner, task, label, provenance, folder, size, loaded.path, loaded.meta.pictures)


def perturbed(policy: EvaluatedPolicy, perturb: Mapping[str, float], backend: Backend) -> EvaluatedPolicy:
    """The same policy under perturbations, which its provenance and its name then tell.

    Args:
        policy: the policy.
        perturb: name -> level, see `imf_jax.config.perturbation`. Level 0 changes nothing but the provenance.
        backend: the simulator, which perturbs the scenes.

    Raises:
        ArgumentError: the policy does not have what is perturbed.
    """
    if not perturb:
        return policy
    from imf_jax.rollout.perturbations.base import perturbed_planner

    fovy = {name: float(backend.model.camera(name).fovy[0]) for name in policy.planner.cameras}
    planner = perturbed_planner(policy.planner, perturb, backend.task.robot.spaces, fovy)
    text = perturbation_text(perturb)
    return policy._replace(
        planner=planner,
        label=f"{policy.label}, {text}" if text else policy.label,
        folder="_".join([policy.folder, *(f"{name}{level:g}" for name, level in active(perturb).items())]),
        provenance={**policy.provenance, "perturbations": dict(perturb)},
    )


def trained_task(task: str) -> str:
    """Task that a policy was trained for, by what its checkpoint or its server names.

    Raises:
        ArgumentError: it is in somebody's file or module. A checkpoint may come from others, so that what it names is
            not executed unless the user says so.
    """
    require(
        task != NO_TASK,
        "the policy was trained for a robot that has no scene here; name a task whose robot has the same actions and "
        "states: --task",
    )
    require(
        task in task_names(),
        f"the policy was trained on a task of its own, {task}; name it, if you trust it: --task {task}",
    )
    return task


def require_robot(trained: RobotSpaces, trained_on: str, task: str) -> None:
    """Refuse a task whose robot is not the one of the policy.

    Args:
        trained: robot of the policy.
        trained_on: its task.
        task: the task to evaluate on.

    Raises:
        ArgumentError: names both.
    """
    robot = get_task(task).robot.spaces
    require(
        trained.fits(robot),
        f"the policy was trained for robot {trained.name!r} on task {trained_on!r}, but --task {task} has robot "
        f"{robot.name!r}; evaluate it on a task of its robot",
    )


def _load_expert(config: EvalConfig | RolloutConfig) -> EvaluatedPolicy:
    """Load the scripted expert of a task, "transfer" by default."""
    config.execution.require_no_plan_ahead()
    from imf_jax.rollout.expert_planner import ExpertPlanner

    name = config.task or "transfer"
    folder = f"expert_{get_task(name).name}"  # the reference of a task may be the path of a file
    return EvaluatedPolicy(ExpertPlanner(name), name, "scripted expert", {"checkpoint": None}, folder)
