"""A policy acts on tasks of its own robot only."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transfer_task import SPACES

from imf_jax.checkpoints import META, CheckpointMeta, read_meta, resolve_checkpoint
from imf_jax.errors import ArgumentError
from imf_jax.evaluation.evaluated_policy import require_robot
from imf_jax.files import read_json, write_json
from imf_jax.spaces import RobotSpaces


def turned_around() -> RobotSpaces:
    """A robot with the same widths whose right arm comes first."""
    return replace(SPACES, name="pair_right_first", action=SPACES.action[3:] + SPACES.action[:3])


def meta(spaces: RobotSpaces) -> CheckpointMeta:
    return CheckpointMeta(1, "transfer", 7, "average", "00", None, {}, robot=spaces.to_json())


def test_the_robot_of_the_task_is_accepted_under_any_name() -> None:
    require_robot(meta(SPACES), "transfer")
    require_robot(meta(replace(SPACES, name="renamed")), "transfer")


def test_a_policy_of_another_robot_is_refused() -> None:
    message = (
        "trained for robot 'pair_right_first' on task 'transfer', but --task transfer has robot 'two_diana7'; evaluate"
    )
    with pytest.raises(ArgumentError, match=message):
        require_robot(meta(turned_around()), "transfer")


def test_the_scripts_refuse_it_before_anything_compiles(
    script: Callable[..., Any], write_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    assert read_meta(resolve_checkpoint(run)).spaces == SPACES
    file = resolve_checkpoint(run) / META
    write_json(file, read_json(file) | {"robot": turned_around().to_json()})
    done = script("eval.py", "--checkpoint", run)
    assert done.code == 2
    assert "the policy was trained for robot 'pair_right_first'" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "evals").exists()
