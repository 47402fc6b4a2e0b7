"""Policies from elsewhere as evaluated policies: `--policy ws://HOST:PORT` and `--policy package.module:function`."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from imf_jax.config import IMAGE_SIZE, EvalConfig, PictureStyle, from_dict
from imf_jax.config.evaluation import POLICY_SCHEMES
from imf_jax.errors import ArgumentError, UserError, one_line
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy, require_robot, trained_task
from imf_jax.rollout.outside_policy import FunctionPolicy, outside_planner
from imf_jax.rollout.remote_policy import OURS, RemotePolicy
from imf_jax.sim.tasks import get_task
from imf_jax.spaces import RobotSpaces
from imf_jax.token_file import read_token


def load_outside_policy(config: EvalConfig) -> EvaluatedPolicy:
    """Connect to the server, or import the function, that `--policy` names.

    Raises:
        ArgumentError: it cannot be executed as the flags say, has another robot, or cannot be imported.
        UserError: the server cannot be reached, or describes no policy that can be evaluated.
    """
    assert config.policy is not None
    return _load_served(config) if config.policy.startswith(POLICY_SCHEMES) else _load_function(config)


def _load_served(config: EvalConfig) -> EvaluatedPolicy:
    assert config.policy is not None
    keys = dict(entry.split("=", 1) for entry in config.policy_keys) if config.policy_keys else None
    name = config.task or "transfer"
    task = get_task(name)
    spaces = task.robot.spaces
    policy = RemotePolicy(
        config.policy,
        action_dim=spaces.action_dim,
        shapes={"state": (spaces.state_dim,), "env_state": (task.env_state_dim,)},
        image_size=IMAGE_SIZE,
        plan_batch=config.plan_batch,
        keys=keys,
        prompt=config.policy_prompt,
        token=read_token(config.policy_token_file, "--policy-token-file"),
        timeout_s=config.policy_timeout_s,
    )
    try:
        metadata, pictures = policy.metadata, None
        provenance: dict[str, Any] = {
            "checkpoint": None,
            "served": {"address": config.policy, "metadata": _plain(metadata)},
        }
        label = str(metadata.get("policy", "served policy"))
        if metadata.get("protocol") == OURS:
            if keys is not None:
                raise ArgumentError("--policy-keys is for servers of others; this one reads our names")
            name, pictures = _trained(config, metadata)
            policy.action_dim = get_task(name).robot.spaces.action_dim
            provenance |= {
                "checkpoint": _plain(metadata.get("checkpoint")),
                "sampling_steps": _plain(metadata.get("sampling_steps")),
            }
        planner = outside_planner(
            policy,
            get_task(name).robot.spaces,
            policy.plan_batch,
            config.execution,
            keep_chunks=config.capture.keep_chunks,
        )
    except BaseException:
        policy.close()
        raise
    delay = config.execution.delay_steps
    folder = f"{_file_name(label)}{f'_delay{delay}' if delay else ''}"
    label = f"{label}, served{f', delay {delay}' if delay else ''}"
    return EvaluatedPolicy(
        planner, name, label, provenance, folder, policy.image_size, pictures=pictures, close=policy.close
    )


def _trained(config: EvalConfig, metadata: dict[str, Any]) -> tuple[str, PictureStyle | None]:
    """The task to evaluate on, and how the pictures of the demonstrations were drawn, by the server's metadata."""
    try:
        trained_on, robot = str(metadata["task"]), RobotSpaces.from_json(metadata["robot"])
        style = metadata.get("pictures")
        pictures = None if style is None else from_dict(PictureStyle, style)
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{config.policy} does not describe its robot ({one_line(error)})") from None
    name = config.task or trained_task(trained_on)
    require_robot(robot, trained_on, name)
    return name, pictures


def _load_function(config: EvalConfig) -> EvaluatedPolicy:
    assert config.policy is not None
    name = config.task or "transfer"
    task, spaces = get_task(name), get_task(name).robot.spaces
    act = _import_function(config.policy)
    try:
        policy = FunctionPolicy(act, spaces.action_dim, spaces.state_dim, task.env_state_dim, IMAGE_SIZE)
    except UserError as error:
        raise ArgumentError(f"--policy {config.policy}: {error}") from None
    except Exception as error:
        raise ArgumentError(
            f"--policy {config.policy} fails for one scene of zeros: {type(error).__name__}: {one_line(error)}"
        ) from error
    planner = outside_planner(
        policy, spaces, config.plan_batch, config.execution, keep_chunks=config.capture.keep_chunks
    )
    provenance = {"checkpoint": None, "served": {"address": config.policy, "metadata": {"function": config.policy}}}
    return EvaluatedPolicy(planner, name, config.policy, provenance, _file_name(config.policy))


def _import_function(reference: str) -> Any:
    module, _, name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:  # as for `python -m`: a console command does not have it
        sys.path.insert(0, str(Path.cwd()))
    try:
        act = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ArgumentError(
            f"--policy {reference} cannot be imported: {type(error).__name__}: {one_line(error)}"
        ) from error
    if not callable(act):
        raise ArgumentError(f"--policy {reference} is no function")
    return act


def _plain(value: Any) -> Any:
    """Plain JSON types of metadata, which come from others: what is none of them becomes its name."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    return str(value)[:1000]


def _file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label)[:80].strip("._") or "served"
