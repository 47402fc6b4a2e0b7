"""A policy acts on tasks of its own robot only."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from rollout_fixtures import TINY
from transfer_task import SPACES

from imf_jax.checkpoints import META, read_meta, resolve_checkpoint
from imf_jax.config import EvalConfig, LewmEncoderConfig
from imf_jax.conversion.lewm import Args, convert
from imf_jax.errors import ArgumentError
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy, load_evaluated_policy, perturbed, require_robot
from imf_jax.files import read_json, write_json
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.function_planner import FunctionPlanner
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.spaces import RobotSpaces

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lewm"
SIZE = 40
"""Height and width of pictures [pixels]."""


def turned_around() -> RobotSpaces:
    """A robot with the same widths whose right arm comes first."""
    return replace(SPACES, name="pair_right_first", action=SPACES.action[3:] + SPACES.action[:3])


def test_the_robot_of_the_task_is_accepted_under_any_name() -> None:
    require_robot(SPACES, "transfer", "transfer")
    require_robot(replace(SPACES, name="renamed"), "transfer", "transfer")


def test_a_policy_of_another_robot_is_refused() -> None:
    message = (
        "trained for robot 'pair_right_first' on task 'transfer', but --task transfer has robot 'two_diana7'; evaluate"
    )
    with pytest.raises(ArgumentError, match=message):
        require_robot(turned_around(), "transfer", "transfer")


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


def test_the_encoder_of_a_trained_policy_computes_as_the_flag_says(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    convert(Args(FIXTURES / "new.ckpt", tmp_path / "lewm", heads=2))
    run = write_run(tmp_path / "run", sizes=replace(TINY, encoder=LewmEncoderConfig(tmp_path / "lewm", "row", SIZE)))
    images = np.random.default_rng(5).integers(0, 256, (1, 2, 3, SIZE, SIZE, 3), np.uint8)

    def embedding(config: EvalConfig) -> np.ndarray:
        planner = load_evaluated_policy(config).planner
        return np.asarray(nnx.merge(planner.program.graph, planner.weights).conditioning.embed(images))

    as_trained, exact, rounded = (
        embedding(EvalConfig(checkpoint=run, encoder_dtype=dtype)) for dtype in (None, "float32", "bfloat16")
    )
    np.testing.assert_array_equal(as_trained, exact)
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 0.05


def test_a_policy_without_such_an_encoder_refuses_the_flag(
    script: Callable[..., Any], write_run: Callable[..., Path], tmp_path: Path
) -> None:
    done = script("eval.py", "--checkpoint", write_run(tmp_path / "run"), "--encoder-dtype", "bfloat16")
    assert done.code == 2
    assert "--encoder-dtype bfloat16 is for a frozen LEWM encoder, which the policy of run does not have" in done.err
    assert done.err.count("\n") == 1
    with pytest.raises(ArgumentError, match="the scripted expert has no encoder"):
        EvalConfig(expert=True, encoder_dtype="bfloat16")


def test_a_policy_that_sees_is_perturbed_in_its_pictures() -> None:
    backend = NativeBackend("transfer", visual="primitive", image_size=32)
    seen: list[np.ndarray] = []

    def act(observations: dict[str, np.ndarray]) -> np.ndarray:
        seen.append(observations["images"])
        return np.zeros((len(observations["images"]), 16), np.float32)

    policy = EvaluatedPolicy(FunctionPlanner(act, action_dim=16, cameras=("front", "r_vis")), "transfer", "mine")

    def pictures(perturb: dict[str, float]) -> np.ndarray:
        seen.clear()
        planner = perturbed(policy, perturb, backend).planner
        how = {"seed": 0, "max_steps": 2, "num_envs": 2, "on_record": lambda record: None}
        Rollout(backend, planner, [0, 1], **how).run()
        return seen[-1][:2].astype(float)

    plain, lit, turned = (pictures(perturb) for perturb in ({}, {"lighting": 1.0}, {"camera-pose": 1.0}))
    for changed in (lit, turned):
        assert plain.shape == changed.shape == (2, 1, 2, 32, 32, 3)
        assert 1 < np.abs(changed - plain).mean() < 100
    assert perturbed(policy, {"lighting": 0.5, "push": 0.0}, backend).label == "mine, lighting 0.5"
    with pytest.raises(ArgumentError, match="--perturb object-size: pictures would not show it"):
        perturbed(policy, {"object-size": 1.0}, backend)
