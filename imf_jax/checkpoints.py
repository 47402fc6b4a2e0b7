"""Read checkpoints: list the complete ones of a run, load configuration, metadata and policy of one.

<run>/checkpoints/4000/config.json   the TrainConfig
                       meta.json     step, task, validation result, list of files; see `CheckpointMeta`
                       policy/       Orbax: the weights to act with and the normalizer statistics
                       training/     Orbax: the rest of the training state
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from flax import nnx

from imf_jax.config import PictureStyle, RunConfig, TrainConfig, from_dict, require
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.policy import Policy, build_policy, split_policy, unloaded_encoder
from imf_jax.sim.tasks import get_task, task_names
from imf_jax.spaces import RobotSpaces

FOLDER = "checkpoints"
CONFIG = "config.json"
META = "meta.json"
POLICY = "policy"
TRAINING = "training"

Config = TypeVar("Config", bound=RunConfig)

STORAGE_ERRORS = (OSError, ValueError, KeyError, RuntimeError)
"""What Orbax raises over a disk that is full or fails, and over files that are damaged or do not fit."""

_PLAIN_PATH = re.compile(r"[\w./=+,@~ -]+", re.ASCII)
"""Paths that Orbax's storage library takes literally; it reads brackets as a pattern, and refuses other characters."""


@dataclass(frozen=True)
class CheckpointMeta:
    """Metadata of a checkpoint, besides its configuration.

    Attributes:
        step: optimizer steps taken.
        task: task of the demonstrations; `config.NO_TASK` where their robot has no scene here.
        env_state_dim: channels of the task's scene state.
        weights: "average" if `policy/` holds averaged weights, "newest" if it holds the newest ones.
        data_sha256: fingerprint of the demonstrations.
        validation: figures of the rollout validation at this step, with `success` in 0..1 and `return`; None if there
            was none.
        files: relative path -> size [bytes] of every other file of the folder.
        robot: action and state of its robot, see `RobotSpaces.to_json`; None in checkpoints of older versions.
        pictures: how the pictures of the demonstrations were drawn; None if the policy sees none, or nobody said so.
        encoder: sizes and `weights_sha256` of the frozen encoder, whose weights are in `policy/`; None without one.
        columns: where inputs and outputs came from in a dataset of another format than ours: `format`; names of the
            columns of `action`, `state` and `env_state`; `cameras`, policy's name -> dataset's; `hz` and `tasks`.
        picture_room: steps whose pictures were held in memory where they were decoded ahead, which batches depend on;
            None where all were in memory or in a cache.
    """

    step: int
    task: str
    env_state_dim: int
    weights: str
    data_sha256: str
    validation: dict[str, float] | None
    files: dict[str, int]
    encoder: dict[str, Any] | None = None
    robot: dict[str, Any] | None = None
    pictures: PictureStyle | None = None
    columns: dict[str, Any] | None = None
    picture_room: int | None = None

    @property
    def spaces(self) -> RobotSpaces:
        """Action and state of the robot.

        Raises:
            UserError: they do not describe a robot, or are missing where the task is not one that is installed.
        """
        if self.robot is not None:
            return RobotSpaces.from_json(self.robot)
        # Older versions knew the tasks of this package only; a file or module that a checkpoint names is not executed.
        if self.task not in task_names():
            raise UserError(f"the checkpoint does not describe its robot, and its task {self.task} is not known")
        return get_task(self.task).robot.spaces


class LoadedPolicy(NamedTuple):
    """A policy from a checkpoint.

    Attributes:
        policy: ready to plan; averaged weights if the run kept an average, else the newest.
        config: configuration of its training.
        step: optimizer steps taken.
        meta: see `CheckpointMeta`.
        path: the checkpoint folder.
    """

    policy: Policy
    config: TrainConfig
    step: int
    meta: CheckpointMeta
    path: Path


def checkpoint_path(run: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return run / FOLDER / str(step)


def complete_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = run / FOLDER
    numbered = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return [path for path in sorted(numbered, key=lambda path: int(path.name)) if _damage(path) is None]


def newest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return next(reversed(complete_checkpoints(run)), None)


def read_meta(path: Path) -> CheckpointMeta:
    """`meta.json` of a complete checkpoint.

    Raises:
        UserError: a field is missing, not known or of another type.
    """
    return from_dict(CheckpointMeta, json.loads((path / META).read_text(encoding="utf-8")))


def read_config(folder: Path) -> TrainConfig:
    """The configuration of the training of a policy, see `read_run_config`."""
    return read_run_config(folder, TrainConfig)


def read_run_config(folder: Path, kind: type[Config]) -> Config:
    """The configuration of a run or of a checkpoint.

    Args:
        folder: of the run or checkpoint.
        kind: of run.

    Raises:
        UserError: it is missing or unreadable.
    """
    path = folder / CONFIG
    try:
        return from_dict(kind, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); it is not the configuration of a training run") from None
    except UserError as error:
        raise UserError(f"cannot use {path}: {error}") from None


def load_policy(path: Path) -> LoadedPolicy:
    """Rebuild the policy of a checkpoint; nothing but the checkpoint folder is needed.

    Args:
        path: a checkpoint folder, or a run folder, of which the newest complete checkpoint is taken.

    Raises:
        ArgumentError: there is no checkpoint at `path`.
        UserError: it is incomplete or does not fit this version.
    """
    path = resolve_checkpoint(path)
    config, meta = read_config(path), read_meta(path)
    frozen_encoder = unloaded_encoder(config.policy, meta.encoder) if meta.encoder else None
    frozen, *weights = split_policy(build_policy(config, meta.spaces, meta.env_state_dim, frozen_encoder))
    stored = _read(path / POLICY, {"weights": nnx.merge_state(*weights), "variables": frozen.variables})
    policy = nnx.merge(frozen.graph, stored["weights"], stored["variables"])
    return LoadedPolicy(policy, config, meta.step, meta, path)


def resolve_checkpoint(path: Path) -> Path:
    """Find the checkpoint folder that `path` names, see `load_policy`."""
    require(path.is_dir(), f"there is no checkpoint or run folder {path}; train one with scripts/train.py")
    if (path / FOLDER).is_dir() or path.name == FOLDER:
        run = path if (path / FOLDER).is_dir() else path.parent
        newest = newest_checkpoint(run)
        if newest is None:
            raise UserError(f"run {run} holds no complete checkpoint; continue it with scripts/train.py --resume")
        return newest
    if not path.name.isdigit() and not (path / META).exists():
        raise ArgumentError(f"{path} is neither a checkpoint nor a run folder with checkpoints in it")
    damage = _damage(path)
    if damage is not None:
        raise UserError(f"checkpoint {path} is incomplete ({damage}); choose another one of its run")
    return path


def _damage(path: Path) -> str | None:
    """Name what a checkpoint lacks, or None if it is complete."""
    try:
        files = read_meta(path).files
    except (OSError, ValueError):
        return f"no readable {META}"
    except UserError as error:
        return f"{META}: {error}"
    for name, size in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def _by_name(tree: Any) -> dict[str, jax.Array]:
    """A pytree as one flat mapping from the path of each leaf, so that files do not depend on container classes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@contextmanager
def _storage_path(folder: Path) -> Iterator[Path]:
    """Another path of an existing folder if its own holds characters that Orbax's storage library does not take."""
    if _PLAIN_PATH.fullmatch(str(folder.resolve())):
        yield folder.resolve()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _read(path: Path, template: Any) -> Any:
    """Arrays stored by `_by_name`, in the structure of `template`, on the default device of this process."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device) for name, leaf in _by_name(template).items()
    }
    try:
        stored = _restore(path, target)
    except STORAGE_ERRORS as error:
        raise UserError(f"cannot restore {path}: it does not fit its configuration ({_reason(error)})") from None
    return jax.tree.unflatten(jax.tree.structure(template), [stored[name] for name in target])


def _restore(path: Path, target: dict[str, Any]) -> dict[str, Any]:
    """Arrays of the names, shapes and types of `target`, as NumPy or JAX arrays like its leaves."""
    # Orbax lets all processes of a cluster restore together; here each one reads for itself.
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(process, {process}, f"process_{process}")
    checkpointer = ocp.StandardCheckpointer(multiprocessing_options=alone)
    with _storage_path(path.parent) as folder, checkpointer:
        stored: dict[str, Any] = checkpointer.restore(folder / path.name, target)
    return stored


def _reason(error: Exception) -> str:
    """Reason given by the system, or the first line of Orbax's message, which goes on for pages."""
    system = re.search(r"([^:\n]+) \[os_error_code", str(error))
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return system[1].strip() if system else lines[0][:200] if lines else type(error).__name__
