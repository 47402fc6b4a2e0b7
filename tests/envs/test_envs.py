"""The scenes as environments of Gymnasium."""

from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import imf_jax.envs
from imf_jax.envs.single import SceneEnv
from imf_jax.envs.vector import SceneVectorEnv
from imf_jax.errors import ArgumentError
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.robots.base import hold
from imf_jax.sim.tasks import get_expert, get_task, task_names


def stay(env: SceneVectorEnv, output: Any) -> np.ndarray:
    """Commands that hold the hands where they are."""
    spaces = get_task(env.task).robot.spaces
    return np.asarray(hold(spaces, output.state, output.end_effector))


@pytest.fixture(scope="module")
def envs() -> Any:
    """Three scenes of 5 control steps."""
    return SceneVectorEnv(3, task="transfer", max_episode_steps=5)


def test_every_task_of_this_package_is_registered() -> None:
    assert set(imf_jax.envs.TASKS) == set(task_names())
    assert all(f"imf_jax/{name}" in gymnasium.registry for name in imf_jax.envs.TASKS)


@pytest.mark.parametrize("task", imf_jax.envs.TASKS)
@pytest.mark.filterwarnings("ignore:.*WARN.*:UserWarning")  # unbounded positions, and no wrapper: both on purpose
def test_gymnasium_finds_nothing_wrong(task: str) -> None:
    if task.startswith("aloha"):
        pytest.importorskip("gym_aloha")
    check_env(SceneEnv(task=task), skip_render_check=True)


def test_scenes_are_those_of_evaluations(envs: SceneVectorEnv) -> None:
    observation, info = envs.reset(seed=7)
    assert info["episode"].tolist() == [7, 8, 9]
    _, output = NativeBackend("transfer").reset(scene_keys(0, [7, 8, 9]))
    np.testing.assert_array_equal(observation["agent_pos"], output.state)
    np.testing.assert_array_equal(observation["environment_state"], output.env_state)
    other, _ = envs.reset(seed=[9, 7, 8])
    np.testing.assert_array_equal(other["agent_pos"], observation["agent_pos"][[2, 0, 1]])
    moved, *_ = SceneVectorEnv(1, task="transfer", scene_seed=1).reset(seed=7)
    assert np.abs(moved["environment_state"][0] - observation["environment_state"][0]).max() > 1e-3


def run(envs: SceneVectorEnv, steps: int) -> list[tuple]:
    envs.reset(seed=0)
    assert envs._scenes is not None
    actions = stay(envs, envs._scenes[1])
    return [envs.step(actions) for _ in range(steps)]


def test_a_scene_that_has_ended_begins_anew_in_the_next_step(envs: SceneVectorEnv) -> None:
    steps = run(envs, 8)
    truncated = [step[3].tolist() for step in steps]
    assert truncated == [[False] * 3] * 4 + [[True] * 3] + [[False] * 3] * 3
    assert steps[4][4]["episode"].tolist() == [0, 1, 2]
    begun = steps[5]
    assert begun[1].tolist() == [0, 0, 0]
    assert len({*begun[4]["episode"].tolist(), 0, 1, 2}) == 6
    again = run(envs, 8)
    assert again[5][4]["episode"].tolist() == begun[4]["episode"].tolist()
    jax.tree.map(np.testing.assert_array_equal, [step[0] for step in again], [step[0] for step in steps])


def test_a_scene_that_has_ended_begins_anew_in_the_same_step() -> None:
    envs = SceneVectorEnv(2, task="transfer", max_episode_steps=2, autoreset_mode="SameStep")
    first, last = run(envs, 2)
    assert "final_obs" not in first[4]
    observation, _, _, truncated, info = last
    assert truncated.tolist() == [True, True]
    assert info["final_info"]["episode"].tolist() == [0, 1]
    assert info["final_info"]["_is_success"].tolist() == [True, True]
    assert set(info["episode"].tolist()).isdisjoint({0, 1})
    final = np.stack([row["agent_pos"] for row in info["final_obs"]])
    assert np.abs(final - observation["agent_pos"]).max() > 0
    np.testing.assert_allclose(final, first[0]["agent_pos"], atol=0.02)


def test_without_autoreset_the_scenes_that_are_named_begin_anew() -> None:
    envs = SceneVectorEnv(2, task="transfer", max_episode_steps=2, autoreset_mode=AutoresetMode.DISABLED)
    before = run(envs, 2)[-1][0]
    with pytest.raises(gymnasium.error.ResetNeeded, match="of the environments 0, 1 have ended"):
        envs.step(np.zeros((2, 16)))
    observation, info = envs.reset(seed=[5, None], options={"reset_mask": np.array([True, False])})
    assert info["episode"].tolist() == [5, 0]
    assert info["_episode"].tolist() == [True, False]
    np.testing.assert_array_equal(observation["agent_pos"][1], before["agent_pos"][1])
    fresh, _ = envs.reset(seed=5)
    np.testing.assert_array_equal(observation["environment_state"][0], fresh["environment_state"][0])


def test_no_scene_depends_on_another(envs: SceneVectorEnv) -> None:
    together = run(envs, 4)[-1][0]
    alone = run(SceneVectorEnv(1, task="transfer"), 4)[-1][0]
    np.testing.assert_array_equal(alone["agent_pos"][0], together["agent_pos"][0])


def test_an_expert_succeeds_in_it() -> None:
    """Actions, rewards, success and its end are those of the closed loop."""
    env = gymnasium.make("imf_jax/transfer")
    expert = get_expert("transfer")
    act = jax.jit(expert.act)
    env.reset(seed=0)
    scene = env.unwrapped._scene  # type: ignore[attr-defined]
    assert scene._scenes is not None
    memory = expert.start(scene._scenes[1])
    total, info, terminated = 0.0, {}, False
    for _ in range(300):
        memory, action = act(memory, scene._scenes[1])
        _, reward, terminated, truncated, info = env.step(np.asarray(action)[0])
        total += reward
        if terminated or truncated:
            break
    assert terminated
    assert info["is_success"] is True
    assert total > 50


def test_pictures_are_observed_and_rendered() -> None:
    envs = gymnasium.make_vec(
        "imf_jax/transfer",
        num_envs=2,
        obs_type="pixels_agent_pos",
        cameras=("top", "r_vis"),
        image_size=32,
        render_mode="rgb_array",
    )
    observation, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observation)
    assert list(observation["pixels"]) == ["top", "r_vis"]
    pictures = envs.render()
    assert pictures is not None
    assert [picture.shape for picture in pictures] == [(32, 32, 3)] * 2  # type: ignore[union-attr]
    assert np.std(pictures[0]) > 5  # type: ignore[arg-type]
    assert np.abs(observation["pixels"]["top"].astype(int) - observation["pixels"]["r_vis"]).mean() > 5
    assert envs.call("_max_episode_steps") == (get_task("transfer").max_steps,) * 2  # type: ignore[attr-defined]
    assert envs.call("task_description") == ("transfer", "transfer")  # type: ignore[attr-defined]
    assert len(envs.call("render")) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "num_envs 0 must be at least 1"),
        ({"task": "trnsfer"}, "unknown task 'trnsfer'"),
        ({"obs_type": "pixel"}, "obs_type 'pixel' is not known; choose one of: state, pixels_agent_pos, pixels"),
        ({"obs_type": "pixels", "cameras": ("topp",)}, "task 'transfer' has no camera 'topp'; it has "),
        ({"cameras": ("top",)}, "obs_type state shows no pictures, so cameras top would do nothing"),
        ({"obs_type": "pixels", "cameras": ()}, "obs_type pixels needs cameras"),
        ({"render_mode": "human"}, "render_mode 'human' is not known"),
        ({"max_episode_steps": 0}, "max_episode_steps 0 must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        SceneVectorEnv(**({"num_envs": 1, "task": "transfer"} | settings))


def test_actions_and_seeds_that_cannot_be_used_are_refused(envs: SceneVectorEnv) -> None:
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset before step"):
        SceneVectorEnv(1, task="transfer").step(np.zeros((1, 16)))
    envs.reset(seed=0)
    with pytest.raises(ArgumentError, match=r"actions have shape \(2, 16\), expected \(3, 16\)"):
        envs.step(np.zeros((2, 16)))
    actions = np.zeros((3, 16))
    actions[1, 3] = np.nan
    with pytest.raises(ArgumentError, match="the action of environment 1 is not finite"):
        envs.step(actions)
    with pytest.raises(ArgumentError, match="seed -1 must be in"):
        envs.reset(seed=-1)
    with pytest.raises(ArgumentError, match="seed has 2 entries for 3 environments"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ArgumentError, match="reset_mask must be a bool array"):
        envs.reset(options={"reset_mask": np.zeros(3, bool)})
