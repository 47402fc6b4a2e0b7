"""Perturbed planners: what they draw depends on seed, episode and control step only, and both loops agree."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from point_world import MAX_STEPS, PointBackend, Straight
from transfer_task import ARM, SPACES

from imf_jax.config.perturbation import PERTURBATIONS
from imf_jax.errors import ArgumentError
from imf_jax.rollout.compiled import CompiledRollout
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.expert_planner import ExpertPlanner
from imf_jax.rollout.perturbations.base import perturbed_planner
from imf_jax.rollout.perturbations.camera_pose import turn_picture
from imf_jax.rollout.perturbations.dropped_frames import OLDEST
from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.sim.quaternions import multiply

PLANNED = [name for name, kind in PERTURBATIONS.items() if not kind.of_scene]
OF_PICTURES = ("lighting", "camera-pose")


class Seen(NamedTuple):
    """What a plan was given, and what became of its actions."""

    observations: dict[str, np.ndarray]
    actions: np.ndarray


class Echo(PlanProgram):
    """Plans ever higher numbers; its memory is what it has seen last."""

    obs_horizon, num_action_steps, cameras = 2, 3, ("front",)

    def start(self, output: Any) -> dict[str, jax.Array]:
        count = len(output.state)
        return {
            "state": jnp.zeros((count, 2, 3)),
            "images": jnp.zeros((count, 2, 1, 2, 2, 3), jnp.uint8),
        }

    def plan(self, weights: Any, memory: Any, observations: Any, output: Any, *keys: Any) -> tuple[jax.Array, Any]:
        numbers = (keys[2][:, None] * 3 + jnp.arange(3))[..., None] + jnp.zeros(16)
        return numbers.astype(jnp.float32), observations


ECHO = Echo()


def plan(perturb: dict[str, float], episodes: list[int], replan: int, seed: int = 7, memory: Any = None) -> Any:
    """One plan of `ECHO`: what it saw, its actions, and the memory. State and picture tell their control step."""
    planner = perturbed_planner(ProgramPlanner(ECHO, (), 4), perturb, SPACES, {"front": 50.0})
    program, count = planner.program, len(episodes)
    steps = np.maximum(3 * replan + np.arange(1 - program.obs_horizon, 1), 0)
    observations = {
        "state": jnp.broadcast_to(jnp.float32(steps)[:, None], (count, len(steps), 3)),
        "images": jnp.full((count, len(steps), 1, 2, 2, 3), 100, jnp.uint8).at[..., 0, :, :].add(40),
    }
    output = SimpleNamespace(state=jnp.zeros((count, 16)), end_effector=jnp.ones((count, 2, 7)))
    memory = program.start(output) if memory is None else memory
    actions, memory = program.plan(
        planner.weights,
        memory,
        observations,
        output,
        np.uint32(seed),
        np.uint32(episodes),
        np.full(count, replan, np.uint32),
    )
    inner = memory
    while isinstance(inner, tuple):
        inner = inner.inner
    return Seen(jax.tree.map(np.asarray, inner), np.asarray(actions)), memory


def test_level_0_is_the_planner_itself() -> None:
    planner = ProgramPlanner(ECHO, (), 4)
    assert perturbed_planner(planner, dict.fromkeys(PERTURBATIONS, 0.0), SPACES) is planner


@pytest.mark.parametrize("name", PLANNED)
def test_an_episode_does_not_depend_on_the_others(name: str) -> None:
    both, _ = plan({name: 1.0}, [3, 8], 2)
    alone, _ = plan({name: 1.0}, [8], 2)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), both, alone)


def test_observation_noise_belongs_to_the_moment() -> None:
    clean, _ = plan({}, [3], 2)
    (first, _), (next_plan, _) = plan({"observation-noise": 1.0}, [3], 2), plan({"observation-noise": 1.0}, [3], 3)
    noise = first.observations["state"] - clean.observations["state"]
    assert 0.001 < np.abs(noise).mean() < 0.03
    assert (noise[0, 0] != noise[0, 1]).all()
    assert not np.isclose(next_plan.observations["state"] - [[[8.0], [9.0]]], noise, atol=1e-6).any()
    twice, _ = plan({"observation-noise": 2.0}, [3], 2)
    np.testing.assert_allclose(twice.observations["state"] - clean.observations["state"], 2 * noise, atol=1e-5)
    pictures = first.observations["images"]
    assert pictures.dtype == np.uint8
    difference = pictures - clean.observations["images"].astype(float)
    assert 3 < difference.std() < 30
    assert (first.actions == clean.actions).all()


def test_dropped_frames_repeat_older_ones() -> None:
    first, _ = plan({"dropped-frames": 1.0}, list(range(5)), 0)
    assert (first.observations["state"] == 0).all(), "the first one always arrives"
    early, _ = plan({"dropped-frames": 1.0}, [0], 2)
    assert early.observations["state"][0, :, 0].tolist() == [0, 0]
    late, _ = plan({"dropped-frames": 1.0}, [0], 9)
    assert late.observations["state"][0, :, 0].tolist() == [26 - OLDEST, 27 - OLDEST]
    half, _ = plan({"dropped-frames": 0.5}, list(range(400)), 9)
    ages = [26, 27] - half.observations["state"][:, :, 0]
    assert (ages >= 0).all()
    assert ages.max() <= OLDEST
    np.testing.assert_allclose([(ages == age).mean() for age in range(3)], [0.5, 0.25, 0.125], atol=0.05)
    follows = half.observations["state"][:, 1, 0] == 26
    assert (half.observations["state"][follows, 0, 0] == 26).all(), "an observation that was seen is not lost later"


def test_action_noise_leaves_grippers_and_lengths() -> None:
    clean, _ = plan({}, list(range(200)), 1)
    noisy, _ = plan({"action-noise": 1.0}, list(range(200)), 1)
    moved = noisy.actions - clean.actions
    grippers = [place for part, place in SPACES.action_parts if part.kind == "gripper"]
    assert not any(moved[..., place].any() for place in grippers)
    assert moved[..., :3].std() == pytest.approx(0.01, rel=0.1)
    quaternion = noisy.actions[..., 3:7] / np.linalg.norm(clean.actions[..., 3:7], axis=-1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=-1), 1, atol=1e-5)
    back = np.full(4, 0.5, np.float32) * [1, -1, -1, -1]
    turn = multiply(quaternion, np.broadcast_to(np.float32(back), quaternion.shape))
    assert (2 * turn[..., 1:]).std() == pytest.approx(0.03, rel=0.1)
    planner = perturbed_planner(ProgramPlanner(ECHO, (), 4), {"action-noise": 1.0}, ARM)
    keys, steps = jax.random.split(jax.random.key(0), 50), jnp.zeros((50, 2), jnp.int32)
    joints, _ = planner.program.act(keys, steps, jnp.float32(1), jnp.zeros((50, 2, 5)), ())
    assert joints[..., :3].std() == pytest.approx(0.01, rel=0.2)
    assert not joints[..., 3].any()


def test_control_delay_executes_the_same_actions_later() -> None:
    executed, memory = [], None
    for replan in range(4):
        (_, actions), memory = plan({"control-delay": 4.0}, [2], replan, memory=memory)
        executed += actions[0, :, 1].tolist()
    # Before the first action arrives, the hands stay where they are: at y = 1.
    assert executed == [1, 1, 1, 1, 0, 1, 2, 3, 4, 5, 6, 7]


def test_lighting_is_that_of_the_episode() -> None:
    episodes = list(range(200))
    clean, _ = plan({}, episodes, 2)
    (lit, _), (later, _) = plan({"lighting": 1.0}, episodes, 2), plan({"lighting": 1.0}, episodes, 5)
    pictures = lit.observations["images"]
    assert pictures.dtype == np.uint8
    assert (pictures == later.observations["images"]).all()
    assert (pictures[:, 0] == pictures[:, 1]).all()
    assert (lit.observations["state"] == clean.observations["state"]).all()
    contrast = (pictures[:, 0, 0, 0, 0].astype(float) - pictures[:, 0, 0, 1, 0]) / 40  # (episodes, colours)
    assert 1.5**-2 * 1.2**-1 - 0.05 < contrast.min() < 0.6
    assert 1.7 < contrast.max() < 1.5**2 * 1.2 + 0.05
    tint = pictures[..., 0].astype(float) / pictures[..., 1]
    assert 1.2**-2 - 0.05 < tint.min() < 0.9 < 1.1 < tint.max() < 1.2**2 + 0.05


def test_a_turned_camera_sees_what_a_turned_camera_would_see() -> None:
    size, angle, fovy = 64, np.radians(5), 50.0
    focal = size / 2 / np.tan(np.radians(fovy / 2))

    def picture(turn: float) -> np.ndarray:
        """Stripes on a cylinder around the camera, which has turned to its left by `turn` [rad]."""
        u = (np.arange(size) + 0.5 - size / 2) / focal
        shade = 127 + 100 * np.sin(12 * (np.arctan(u) - turn))
        return np.broadcast_to(shade[None, :, None], (size, size, 3)).round().astype(np.uint8)

    left = jnp.array([np.cos(angle / 2), 0, np.sin(angle / 2), 0], jnp.float32)
    tangent = jnp.tan(jnp.radians(fovy) / 2)
    turned = np.asarray(turn_picture(jnp.asarray(picture(0.0))[None], left, tangent))[0].astype(float)
    assert np.abs(turned - picture(angle))[:, 10:].mean() < 1.5, "on its left it looks beyond the border"
    assert np.abs(picture(0.0).astype(float) - picture(angle)).mean() > 20
    same = turn_picture(jnp.asarray(picture(0.3))[None], jnp.array([1.0, 0, 0, 0]), tangent)[0]
    assert np.abs(np.asarray(same, float) - picture(0.3)).max() <= 1


def test_a_camera_keeps_its_pose_for_an_episode() -> None:
    (first, _), (later, _) = plan({"camera-pose": 8.0}, [1, 2], 2), plan({"camera-pose": 8.0}, [1, 2], 5)
    pictures = first.observations["images"]
    assert (pictures == later.observations["images"]).all()
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("name", [name for name in PLANNED if name not in OF_PICTURES])
def test_both_loops_agree(name: str) -> None:
    def records(loop: Any, num_envs: int, episodes: Any = range(6)) -> list[Any]:
        planner = perturbed_planner(ProgramPlanner(Straight(), jnp.float32(1e-3), 4), {name: 1.0}, SPACES)
        found: list[Any] = []
        options = {"seed": 3, "max_steps": MAX_STEPS, "num_envs": num_envs, "on_record": found.append}
        loop(PointBackend(), planner, list(episodes), **options).run()
        found.sort(key=lambda record: record.episode)
        return [(r.episode, r.status, r.steps, r.replans, r.return_) for r in found]

    host, compiled = records(Rollout, 4), records(CompiledRollout, 3)
    assert [row[:4] for row in host] == [row[:4] for row in compiled]
    np.testing.assert_allclose([row[4] for row in host], [row[4] for row in compiled], rtol=1e-4)
    plain: list[Any] = []
    Rollout(
        PointBackend(),
        ProgramPlanner(Straight(), jnp.float32(1e-3), 4),
        list(range(6)),
        seed=3,
        max_steps=MAX_STEPS,
        num_envs=4,
        on_record=plain.append,
    ).run()
    assert sorted(record.return_ for record in plain) != sorted(row[4] for row in host)
    assert records(Rollout, 2, [5, 0, 3]) == [host[0], host[3], host[5]]


def test_an_expert_does_not_observe() -> None:
    for name in OF_PICTURES:
        with pytest.raises(ArgumentError, match=f"--perturb {name} would do nothing: this policy sees no pictures"):
            perturbed_planner(ExpertPlanner("transfer"), {name: 0.5}, SPACES)
    for name in ("observation-noise", "dropped-frames"):
        with pytest.raises(ArgumentError, match=f"--perturb {name} would do nothing: the scripted expert"):
            perturbed_planner(ExpertPlanner("transfer"), {"action-noise": 1.0, name: 0.5}, SPACES)
