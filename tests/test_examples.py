"""The examples run and show what they promise."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from imf_jax.config import CaptureConfig
from imf_jax.evaluation.evaluate import EvaluationSettings, evaluate
from imf_jax.evaluation.folder import read_records
from imf_jax.evaluation.setup import EvaluatedPolicy, Setup
from imf_jax.files import read_json
from imf_jax.sim.tasks.transfer import Transfer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name: str) -> dict[str, Any]:
    """What the script of that name defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_no_example_is_left_out() -> None:
    for path in EXAMPLES.rglob("*.py"):
        assert f"test_{path.stem}" in globals()
        most = 150 if path.stem == "own_robot" else 60
        assert len(path.read_text().splitlines()) < most, f"{path.name} is no short example any more"


def test_env() -> None:
    """The batched environment has what LeRobot asks of one."""
    envs = example("envhub/env")["make_env"](2)
    observation, _ = envs.reset(seed=[0, 1])
    assert {name: picture.shape for name, picture in observation["pixels"].items()} == {
        "top": (2, 128, 128, 3), "front": (2, 128, 128, 3)
    }  # fmt: skip
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.call("_max_episode_steps")[0] == Transfer.max_steps
    assert envs.call("task_description") == ("transfer", "transfer")
    assert np.stack(envs.call("render")).shape == (2, 128, 128, 3)


def test_own_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Transfer, "max_steps", 60)
    summary = example("own_policy")["main"](tmp_path / "own", episodes=3)
    assert [record.status for record in summary.records] == ["timeout"] * 3
    assert [record.max_reward for record in summary.records] == [1.0] * 3, "it touches the box and does not lift it"


def test_own_task(script: Callable[..., Any], tmp_path: Path) -> None:
    """Known by its file alone; the folder and the report have the name that it gives itself."""
    run = script("eval.py", "--expert", "--task", EXAMPLES / "own_task.py", "--episodes", 3)
    assert run.code == 0, run.err
    (out,) = (tmp_path / "evals").iterdir()
    assert out.name.endswith("expert_lift-stick_seed0")
    assert read_json(out / "manifest.json")["task"] == "lift-stick"
    assert [stage["n_reached"] for stage in read_json(out / "metrics.json")["stages"]] == [3, 3]
    assert {record.status for record in read_records(out)[0]} == {"success"}


def test_own_robot(script: Callable[..., Any], tmp_path: Path) -> None:
    """A single arm, from demonstrations under noise to a checkpoint that is for its robot only."""
    task = ("--task", EXAMPLES / "own_robot.py")
    run = script("collect.py", *task, "--episodes", 3, "--out", tmp_path / "demos")
    assert run.code == 0, run.err
    assert "in 3 of 3 scenes" in run.out
    options = ("--max-steps", 1, "--save-every", 1, "--validation.num-episodes", 0)
    run = script("train.py", "debug", *task, "--data", tmp_path / "demos", "--out", tmp_path / "run", *options)
    assert run.code == 0, run.err
    evaluate_it = ("eval.py", "--checkpoint", tmp_path / "run", "--episodes", 2)
    assert script(*evaluate_it, *task).code == 0
    assert "name it, if you trust it" in script(*evaluate_it).err
    assert "for robot 'panda'" in script(*evaluate_it, "--task", "transfer").err


def test_read_results(
    point_backend: Any, straight_planner: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = EvaluationSettings(episodes=6, num_envs=3, capture=CaptureConfig(save_trajectory=True))
    folders = [tmp_path / name for name in ("first", "second")]
    summaries = [
        evaluate(
            Setup(EvaluatedPolicy(straight_planner(faults), "point", folder.name), point_backend), settings, folder
        )
        for folder, faults in zip(folders, (None, {1: 6.0}), strict=True)
    ]
    script = example("read_results")
    table = script["main"](*folders)
    assert table["status"].tolist() == [record.status for summary in summaries for record in summary.records]
    assert set(table["folder"]) == set(map(str, folders))
    assert "failure" in capsys.readouterr().out, "the faulty policy lost the object once"
    path = script["path_table"](folders[0] / "episodes/ep_000000/trajectory.npz")
    assert len(path) == summaries[0].records[0].steps
    assert path["left_x"].iloc[-1] > path["left_x"].iloc[0]
