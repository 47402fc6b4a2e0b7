"""What is rolled out: a checkpoint or a scripted expert becomes a planner with a name and a provenance."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from imf_jax.config import IMAGE_SIZE, ExecutionConfig, to_dict


class Candidate(NamedTuple):
    """What is rolled out.

    Attributes:
        planner: what acts.
        task: the task that it is rolled out on.
        label: how messages and reports call it.
        folder: how a folder with its results is called.
        provenance: what the manifest says about it, plain JSON types.
        image_size: height and width of the pictures that it reads [pixels].
    """

    planner: Any
    task: str
    label: str
    folder: str
    provenance: dict[str, Any]
    image_size: int = IMAGE_SIZE


def load_checkpoint(
    checkpoint: Path,
    *,
    task: str | None,
    sampling_steps: int | None,
    plan_batch: int,
    execution: ExecutionConfig | None = None,
) -> tuple[Candidate, Path]:
    """The policy of a checkpoint folder, or of the newest complete checkpoint of a run folder.

    Args:
        checkpoint: the folder.
        task: the task to roll out on; None for the one that the policy was trained for.
        sampling_steps: function evaluations per plan; None for as many as in training.
        plan_batch: rows of a planning batch on the host.
        execution: how its plans reach the robot; at once by default.

    Returns:
        the candidate, and the checkpoint folder that was taken.

    Raises:
        UserError: there is no complete checkpoint, or it cannot be read.
        ArgumentError: the policy cannot be executed so.
    """
    from imf_jax.checkpoints import load_policy
    from imf_jax.evaluation.manifest import folder_hash
    from imf_jax.rollout.delay import policy_planner

    loaded = load_policy(checkpoint)
    policy, run = loaded.policy, loaded.path.resolve().parent.parent.name
    if sampling_steps is not None:
        policy.config = dataclasses.replace(policy.config, sampling_steps=sampling_steps)
    provenance = {
        "checkpoint": {"path": str(loaded.path.resolve()), "sha256": folder_hash(loaded.path), "step": loaded.step},
        "sampling_steps": policy.config.sampling_steps,
        "training": to_dict(loaded.config),
    }
    execution = execution or ExecutionConfig()
    planner = policy_planner(policy, plan_batch, execution)
    label, folder = f"{run}, step {loaded.step}", f"{run}_step{loaded.step}"
    if execution.delay_steps:
        label, folder = f"{label}, delay {execution.delay_steps}", f"{folder}_delay{execution.delay_steps}"
    candidate = Candidate(planner, task or loaded.meta.task, label, folder, provenance, planner.image_size)
    return candidate, loaded.path


def load_expert(task: str | None, execution: ExecutionConfig | None = None) -> Candidate:
    """The scripted expert of a task, "transfer" by default.

    Args:
        task: the task.
        execution: how its actions reach the robot; at once by default.

    Raises:
        ArgumentError: the task has no expert, or the execution needs a policy.
    """
    if execution is not None:
        execution.require_no_plan_ahead()
    from imf_jax.rollout.expert_planner import ExpertPlanner

    name = task or "transfer"
    return Candidate(ExpertPlanner(name), name, "scripted expert", f"expert_{name}", {"checkpoint": None})
