"""MJX-JAX and MJX-Warp against C MuJoCo: the same scenes, the same motion until contact, the same outcome after it."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device_tolerance import assert_same, tolerance
from mujoco import mjx

from imf_jax.rollout.expert_planner import ExpertPlanner
from imf_jax.rollout.loop_program import LoopProgram
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.backends.mjx import MjxBackend
from imf_jax.sim.backends.mjx_base import Constants, DeviceBackend
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.backends.warp import WarpBackend
from imf_jax.sim.tasks import get_expert
from imf_jax.sim.tasks.transfer import Transfer

SCENES = 6


@pytest.fixture(scope="module")
def native() -> NativeBackend:
    return NativeBackend("transfer", visual="primitive")


long_on_mjx = pytest.mark.parametrize(
    "backend",
    [pytest.param(MjxBackend, marks=pytest.mark.long, id="mjx"), pytest.param(WarpBackend, id="warp")],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module", params=[MjxBackend, WarpBackend], ids=["mjx", "warp"])
def backend(request: pytest.FixtureRequest) -> DeviceBackend:
    return request.param("transfer", visual="primitive", image_size=32)


@pytest.fixture(scope="module")
def keys() -> jax.Array:
    return jax.random.split(jax.random.key(3), SCENES)


@pytest.fixture(scope="module")
def actions(native: NativeBackend, keys: jax.Array) -> np.ndarray:
    """What the expert commands until it holds the box, float32 (SCENES, K, 16)."""
    expert = get_expert("transfer")
    act = jax.jit(expert.act)
    state, output = native.reset(keys)
    memory = expert.start(output)
    commands = []
    for _ in range(64):
        memory, action = act(memory, output)
        state, output = native.step(state, np.asarray(action))
        commands.append(np.asarray(action))
    return np.stack(commands, axis=1)


@pytest.fixture(scope="module")
def motion(backend: DeviceBackend, keys: jax.Array, actions: np.ndarray) -> tuple[SimState, StepOutput]:
    return backend.run_chunk(backend.reset(keys)[0], actions)


@pytest.mark.parametrize("impl", ["jax", "warp"])
@pytest.mark.parametrize("visual", ["mesh", "primitive"])
def test_the_scene_loads_in_mjx_without_a_warning(impl: str, visual: str) -> None:
    model = NativeBackend("transfer", visual=visual).model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mjx.put_model(model, impl=impl)
    assert [str(warning.message) for warning in caught] == []


def test_scenes_start_as_on_native(backend: DeviceBackend, native: NativeBackend, keys: jax.Array) -> None:
    state, output = backend.reset(keys)
    expected_state, expected = native.reset(jax.random.key_data(keys))
    for name, ours, theirs in zip(StepOutput._fields, output, expected, strict=True):
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_allclose(ours, theirs, atol=tolerance(1e-6, 1e-5), err_msg=name)
    np.testing.assert_array_equal(state.joint_target, expected_state.joint_target)
    np.testing.assert_array_equal(state.step, np.zeros(SCENES))


def test_arms_move_as_on_native(
    backend: DeviceBackend,
    native: NativeBackend,
    keys: jax.Array,
    actions: np.ndarray,
    motion: tuple[SimState, StepOutput],
) -> None:
    final, output = motion
    _, expected = native.run_chunk(native.reset(keys)[0], actions)
    touched = np.maximum.accumulate(expected.stage > 0, axis=1)
    assert (~touched).sum(axis=1).min() > 25
    assert touched[:, -1].all()
    difference = np.abs(output.state - expected.state).max(axis=-1)
    assert difference[~touched].max() < 2e-3
    assert np.abs(output.end_effector - expected.end_effector).max() < 2e-3  # also with the box in hand
    assert np.abs(output.env_state - expected.env_state).max() < 0.02
    assert np.mean(output.stage == expected.stage) > 0.97
    np.testing.assert_allclose(output.ik_error, expected.ik_error, atol=tolerance(1e-5, 1e-4))
    np.testing.assert_array_equal(final.step, np.full(SCENES, actions.shape[1]))
    assert output.finite.all()


@long_on_mjx
def test_interpolated_commands_move_the_arms_as_on_native(
    backend: DeviceBackend,
    native: NativeBackend,
    keys: jax.Array,
    actions: np.ndarray,
    motion: tuple[SimState, StepOutput],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for one in (backend, native):
        monkeypatch.setattr(one, "interpolation", 5)
    _, output = backend.run_chunk(backend.reset(keys)[0], actions[:, :15])
    _, expected = native.run_chunk(native.reset(keys)[0], actions[:, :15])
    difference = np.abs(output.end_effector - expected.end_effector).max()
    assert difference < 1e-3
    assert np.abs(output.end_effector - motion[1].end_effector[:, :15]).max() > 5 * difference


@long_on_mjx
def test_a_scene_does_not_depend_on_the_batch(
    backend: DeviceBackend, keys: jax.Array, actions: np.ndarray, motion: tuple[SimState, StepOutput]
) -> None:
    rows = [4, 1]
    state, _ = backend.reset(keys[np.array(rows)])
    state, first = backend.step(state, actions[rows, 0])
    _, second = backend.step(state, actions[rows, 1])
    expected = jax.tree.map(lambda leaf: leaf[rows, :2], motion[1])
    for name, ours, theirs in zip(StepOutput._fields, zip(first, second, strict=True), expected, strict=True):
        assert_same(np.stack(ours, axis=1), theirs, err_msg=name)


def test_a_diverging_scene_keeps_its_state_and_harms_no_other(
    backend: DeviceBackend, keys: jax.Array, actions: np.ndarray, motion: tuple[SimState, StepOutput]
) -> None:
    state, before = backend.reset(keys)
    qvel = state.physics.qvel.copy()
    qvel[2] = 1e30
    state = state._replace(physics=state.physics._replace(qvel=qvel))
    after, output = backend.step(state, actions[:, 0])
    assert output.finite.tolist() == [True, True, False, True, True, True]
    for leaf, start in zip(jax.tree.leaves(after.physics), jax.tree.leaves(state.physics), strict=True):
        np.testing.assert_array_equal(leaf[2], start[2])
    for name, ours, theirs in zip(StepOutput._fields, output, motion[1], strict=True):
        others = [0, 1, 3, 4, 5]
        assert_same(ours[others], theirs[others, 0], err_msg=name)
    np.testing.assert_array_equal(output.state[2], before.state[2])


@long_on_mjx
def test_steps_can_be_scanned_inside_a_program(backend: DeviceBackend, keys: jax.Array, actions: np.ndarray) -> None:
    @jax.jit
    def program(constants: Constants, keys: jax.Array, actions: jax.Array) -> Any:
        def step(carry: tuple[Any, SimState], action: jax.Array) -> tuple[tuple[Any, SimState], StepOutput]:
            data, state, output = backend.advance(constants, *carry, action)
            return (data, state), output

        data = backend.allocate(constants, SCENES)
        return jax.lax.scan(step, (data, backend.start(constants, data, keys)[0]), actions)

    _, output = jax.eval_shape(program, backend.constants(SCENES), keys, jnp.swapaxes(actions[:, :3], 0, 1))
    assert output.state.shape == (3, SCENES, 16)


@long_on_mjx
def test_programs_hold_no_copy_of_the_scene(backend: DeviceBackend) -> None:
    """Model and blank data are arguments: inside the code, XLA would remake what follows from them in every step."""
    planner = ExpertPlanner("transfer")
    loop = LoopProgram(backend, planner.program, max_steps=40, replans=2, traced=False, devices=jax.local_devices()[:1])
    constants = loop.constants(SCENES)
    keys, running = np.zeros((SCENES, 2), np.uint32), np.ones(SCENES, bool)
    begin = loop.begin.trace(constants, keys, running)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), begin.out_info)
    episodes = np.arange(SCENES, dtype=np.uint32)
    advance = loop.advance.trace(constants, planner.weights, np.uint32(0), episodes, batch)
    for program in (begin, advance):
        lines = program.lower().as_text().splitlines()
        assert sum(len(line) for line in lines if "stablehlo.constant" in line) < 500_000
        assert max(len(line) for line in lines if "stablehlo.constant" in line) < 20_000


@long_on_mjx
def test_pictures_follow_the_poses(
    backend: DeviceBackend, keys: jax.Array, motion: tuple[SimState, StepOutput]
) -> None:
    start = backend.render(backend.reset(keys)[1].qpos, ("front", "r_vis"))
    assert start.shape == (SCENES, 2, 32, 32, 3)
    assert start.dtype == np.uint8
    assert (backend.render(motion[1].qpos[:, -1], ("front", "r_vis")) != start).any(axis=(2, 3, 4)).all()


def test_pictures_inside_a_program_are_those_of_the_host(
    backend: DeviceBackend, motion: tuple[SimState, StepOutput]
) -> None:
    """A stale or shifted frame, or cameras in another order, would differ by far more."""
    cameras, qpos = ("top", "r_vis"), motion[1].qpos[:, -1]

    @jax.jit
    def program(constants: Constants, qpos: jax.Array) -> jax.Array:
        return backend.pictures(constants, backend.allocate(constants, SCENES), qpos, cameras)

    inside = program(backend.constants(SCENES), qpos)
    assert (inside.shape, inside.dtype) == ((SCENES, 2, 32, 32, 3), jnp.uint8)
    difference = np.abs(np.asarray(inside, int) - backend.render(qpos, cameras).astype(int))
    assert difference.mean() < 0.1
    assert np.mean(difference > 4) < 1e-3


def test_a_full_buffer_is_reported(monkeypatch: pytest.MonkeyPatch, keys: jax.Array, actions: np.ndarray) -> None:
    """With room for one constraint the fingers cannot hold: said per step, not silently wrong."""
    monkeypatch.setattr(Transfer, "constraint_rows", 1)
    small = WarpBackend("transfer", visual="primitive")
    _, output = small.reset(keys)
    assert output.overflow.all(), "the box stands on the table: more than one row"


def test_nothing_overflows(motion: tuple[SimState, StepOutput]) -> None:
    assert not motion[1].overflow.any()


@pytest.mark.long
@pytest.mark.parametrize("task", ["aloha-transfer", "aloha-insertion"])
def test_scenes_of_aloha_move_as_on_native_until_something_is_grasped(task: str) -> None:
    native, warp = NativeBackend(task), WarpBackend(task, image_size=32)
    expert = get_expert(task)
    act = jax.jit(expert.act)
    keys = jax.random.key_data(jax.random.split(jax.random.key(3), 4))
    (expected_state, expected), (state, output) = native.reset(keys), warp.reset(keys)
    np.testing.assert_array_equal(output.qpos, expected.qpos)
    memory = expert.start(expected)
    for _ in range(50):
        memory, action = act(memory, expected)
        expected_state, expected = native.step(expected_state, np.asarray(action))
        state, output = warp.step(state, np.asarray(action))
    np.testing.assert_allclose(output.state, expected.state, atol=1e-4)
    np.testing.assert_allclose(output.env_state, expected.env_state, atol=1e-4)
    assert not np.asarray(output.overflow).any()
