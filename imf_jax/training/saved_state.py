"""Save and restore the whole state of a training run: checkpoints, see `imf_jax.checkpoints` for their layout.

A checkpoint is written beside its place and then renamed, after all of it was read back and has reached the disk.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from imf_jax.checkpoints import (
    CONFIG,
    FOLDER,
    META,
    POLICY,
    STORAGE_ERRORS,
    TRAINING,
    CheckpointMeta,
    _by_name,
    _read,
    _reason,
    _restore,
    _storage_path,
    checkpoint_path,
    complete_checkpoints,
    read_meta,
)
from imf_jax.config import PretrainConfig, TrainConfig, to_dict
from imf_jax.errors import UserError
from imf_jax.files import atomic_write, partial_path, remove_partials, write_json
from imf_jax.models.policy import FrozenParts
from imf_jax.training.state import TrainState, acting_weights


def save_checkpoint(
    run: Path, state: TrainState, frozen: FrozenParts, config: TrainConfig | PretrainConfig, meta: CheckpointMeta
) -> Path:
    """Write a checkpoint, replacing one of the same step.

    Args:
        run: the run folder.
        state: the training state.
        frozen: the rest of the policy.
        config: stored beside it.
        meta: `files` is filled in here.

    Raises:
        UserError: it cannot be written; nothing is left behind.
    """
    path = checkpoint_path(run, meta.step)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as aside:
            aside.mkdir()
            weights, training = _split(state, frozen)
            for name, tree in ((POLICY, weights), (TRAINING, training)):
                arrays = _by_name(tree)
                with _storage_path(aside) as folder, ocp.StandardCheckpointer() as checkpointer:
                    checkpointer.save(folder / name, arrays)
                    checkpointer.wait_until_finished()
                # Read it back, into main memory, while the state is still there to be saved again.
                _restore(aside / name, {key: np.empty(leaf.shape, leaf.dtype) for key, leaf in arrays.items()})
            write_json(aside / CONFIG, to_dict(config))
            entries = sorted(aside.rglob("*"))
            files = {str(entry.relative_to(aside)): entry.stat().st_size for entry in entries if entry.is_file()}
            write_json(aside / META, dataclasses.asdict(dataclasses.replace(meta, files=files)))
    except STORAGE_ERRORS as error:
        raise UserError(f"cannot write checkpoint {path} ({_reason(error)}); free space and --resume") from None
    return path


def best_checkpoint(run: Path) -> tuple[Path, CheckpointMeta] | None:
    """Find the checkpoint with the highest validation success or the lowest held-out error; None if there is none.

    Of equals it is the later one, but where none ever succeeded the one with the highest mean return. Without any
    validated checkpoint it is the newest.
    Episodes end with success, so among policies that succeed a higher return only means a slower one.
    """
    checkpoints = [(path, read_meta(path)) for path in complete_checkpoints(run)]

    def rank(checkpoint: tuple[Path, CheckpointMeta]) -> tuple[bool, float, float, int]:
        meta = checkpoint[1]
        figures = meta.validation or {}
        success = figures.get("success", 0.0)
        otherwise = figures.get("return", -figures.get("action_error", 0.0))
        return meta.validation is not None, success, 0.0 if success else otherwise, meta.step

    return max(checkpoints, key=rank, default=None)


def prune(run: Path, keep: int) -> None:
    """Delete all complete checkpoints but the newest `keep` and the best one, and leftovers of killed writers."""
    folder = run / FOLDER
    if not folder.is_dir():
        return
    best = best_checkpoint(run)
    for path in complete_checkpoints(run)[:-keep]:
        if best is None or path != best[0]:
            # A deletion that is cut short must not leave something that looks like a checkpoint.
            os.replace(path, partial_path(path))
    remove_partials(folder)


def restore_state(path: Path, state: TrainState, frozen: FrozenParts) -> TrainState:
    """Restore the training state of a checkpoint.

    Args:
        path: a complete checkpoint.
        state: a state of the same configuration; it gives the structure.
        frozen: the rest of its policy.

    Raises:
        UserError: the checkpoint does not fit.
    """
    policy, training = _split(state, frozen)
    acting = _read(path / POLICY, policy)["weights"]
    training = _read(path / TRAINING, training)
    average = None if state.average is None else acting
    params, statistics = nnx.split_state(training.get("params", acting), nnx.Param, nnx.BatchStat)
    return TrainState(training["step"], params, statistics, training["optimizer"], average, training["sums"])


def _split(state: TrainState, frozen: FrozenParts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a state into the parts for `policy/` and for `training/`; nothing is stored twice."""
    training = {"step": state.step, "optimizer": state.optimizer, "sums": state.sums}
    if state.average is not None:
        training["params"] = nnx.merge_state(state.params, state.statistics)
    return {"weights": acting_weights(state), "variables": frozen.variables}, training
