"""The native backend: pure, independent of batch size and order, fresh, and robust to diverging scenes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.rendering.opengl_renderer import find_opengl
from imf_jax.sim.robots.diana import DIANA_PAIR, control
from imf_jax.sim.tasks import get_expert

pytestmark = pytest.mark.optimized

HOLD = np.array([0.46, 0.40, 0.32, 1, 0, 0, 0, 0.05, 0.46, -0.40, 0.32, 1, 0, 0, 0, 0.05], np.float32)


def wander(count: int, length: int) -> np.ndarray:
    """Random smooth commands near the ready pose, float32 (count, length, 16), the same for every count."""
    rows = []
    for row in range(count):
        generator = np.random.default_rng(row)
        steps = generator.normal(0, 0.01, (length, 16)) * ([1, 1, 1, 0, 0, 0, 0, 0.2] * 2)
        rows.append(HOLD + np.cumsum(steps, axis=0))
    return np.array(rows, np.float32)


def test_scenes_do_not_depend_on_batch_or_order(transfer_backend: NativeBackend) -> None:
    actions = wander(19, 6)
    state, _ = transfer_backend.reset(scene_keys(0, np.arange(19)))
    whole, outputs = transfer_backend.run_chunk(state, actions)
    for rows in ([3], [18, 3, 7], list(range(18, -1, -1))):
        state, _ = transfer_backend.reset(scene_keys(0, np.array(rows)))
        some, some_outputs = transfer_backend.run_chunk(state, actions[rows])
        np.testing.assert_array_equal(some.physics, whole.physics[rows])
        np.testing.assert_array_equal(some.joint_target, whole.joint_target[rows])
        for one, other in zip(some_outputs, outputs, strict=True):
            np.testing.assert_array_equal(one, other[rows])


def test_a_chunk_equals_its_steps(transfer_backend: NativeBackend) -> None:
    actions = wander(3, 5)
    start, _ = transfer_backend.reset(scene_keys(1, np.arange(3)))
    chunked, outputs = transfer_backend.run_chunk(start, actions)
    state = start
    for k in range(5):
        state, output = transfer_backend.step(state, actions[:, k])
        for one, other in zip(output, outputs, strict=True):
            np.testing.assert_array_equal(one, other[:, k])
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_array_equal(one, other)


def test_step_does_not_modify_its_input(transfer_backend: NativeBackend) -> None:
    state, _ = transfer_backend.reset(scene_keys(0, np.arange(2)))
    before = jax.tree.map(np.copy, state)
    transfer_backend.step(state, np.stack([HOLD, HOLD]))
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_outputs_describe_the_state_after_the_step(transfer_backend: NativeBackend) -> None:
    state, _ = transfer_backend.reset(scene_keys(0, np.arange(2)))
    for _ in range(5):
        state, output = transfer_backend.step(
            state, HOLD + np.array([[0.0] * 16, [0, 0.02, 0.02] + [0.0] * 13], np.float32)
        )
    qpos = output.qpos
    robot = DIANA_PAIR.bind(transfer_backend.model)
    arms = output.state.reshape(2, 2, 8)
    np.testing.assert_array_equal(arms[..., :7].reshape(2, 14), qpos[:, robot.qpos[:14]])
    assert output.qpos.dtype == np.float32
    hands, _, _, _ = control.forward_kinematics(robot.arms, jnp.asarray(arms[..., :7]))
    np.testing.assert_allclose(output.end_effector[..., :3], hands, atol=2e-6)


@pytest.mark.parametrize("poison", [np.nan, 1e13])
def test_a_diverged_scene_harms_no_other(transfer_backend: NativeBackend, poison: float) -> None:
    actions = np.stack([HOLD] * 3)
    start, _ = transfer_backend.reset(scene_keys(0, np.arange(3)))
    healthy, _ = transfer_backend.step(start, actions)
    physics = start.physics.copy()
    nq = transfer_backend.model.nq
    physics[1, 1 + nq : 1 + nq + 3] = poison
    state, output = transfer_backend.step(start._replace(physics=physics), actions)
    assert output.finite.tolist() == [True, False, True]
    np.testing.assert_array_equal(state.physics[[0, 2]], healthy.physics[[0, 2]])


def test_expert_succeeds_and_passes_every_stage(transfer_backend: NativeBackend) -> None:
    expert = get_expert("transfer")
    start, act = jax.jit(expert.start), jax.jit(expert.act)
    state, output = transfer_backend.reset(scene_keys(0, np.arange(16)))
    memory = start(output)
    solved = np.zeros(16, bool)
    seen: list[set[int]] = [set() for _ in range(16)]
    for _ in range(250):
        memory, action = act(memory, output)
        state, output = transfer_backend.step(state, np.asarray(action))
        solved |= output.success
        for stages, stage in zip(seen, output.stage, strict=True):
            stages.add(int(stage))
    assert solved.all()
    assert all(stages >= {0, 1, 2, 3, 4} for stages in seen)


def test_opengl_makes_the_same_pictures_where_it_works(transfer_backend: NativeBackend) -> None:
    if find_opengl() is None:
        pytest.skip("no off-screen OpenGL here: apt-get install libosmesa6, or libegl1 libgl1-mesa-dri")
    _, output = transfer_backend.reset(scene_keys(0, np.arange(2)))
    backend = NativeBackend("transfer", image_size=96, renderer="opengl")
    ours, theirs = (b.render(output.qpos, ("front",)).astype(int) for b in (transfer_backend, backend))
    assert np.abs(ours - theirs).mean() < 2


def test_pictures_follow_the_state(transfer_backend: NativeBackend) -> None:
    _, output = transfer_backend.reset(scene_keys(0, np.arange(3)))
    pictures = transfer_backend.render(output.qpos, ("top", "front"))
    assert pictures.shape == (3, 2, 96, 96, 3)
    assert pictures.dtype == np.uint8
    moved = output.qpos.copy()
    box = transfer_backend.model.joint("box_joint").qposadr[0]
    moved[0, box] += 0.2
    again = transfer_backend.render(moved, ("top", "front"))
    assert (again[0] != pictures[0]).any(axis=-1).sum() > 50
    np.testing.assert_array_equal(again[1:], pictures[1:])
