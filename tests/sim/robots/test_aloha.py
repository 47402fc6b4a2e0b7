"""The scenes of ALOHA are those of the package gym-aloha: model, start, actions, state, and rewards by contacts."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from imf_jax.errors import ArgumentError
from imf_jax.seeds import scene_keys
from imf_jax.sim import assets
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.robots.aloha import ALOHA_PAIR, model
from imf_jax.sim.tasks import TaskObservation, get_task
from imf_jax.sim.tasks.aloha import HOLD_STEPS

TASKS = ("aloha-transfer", "aloha-insertion")
SAME = (
    "body_mass", "body_inertia", "body_pos", "body_quat", "geom_type", "geom_size", "geom_pos", "geom_quat",
    "geom_contype", "geom_conaffinity", "geom_condim", "geom_friction", "geom_solref", "geom_solimp", "jnt_range",
    "dof_frictionloss", "dof_damping", "dof_armature", "actuator_gainprm", "actuator_biasprm", "actuator_ctrlrange",
    "actuator_forcerange", "actuator_trnid", "cam_pos", "cam_fovy", "mesh_vert", "qpos0",
)  # fmt: skip


@pytest.fixture(scope="module", params=TASKS)
def backend(request) -> NativeBackend:
    return NativeBackend(request.param)


def test_the_model_is_the_one_of_the_package(backend):
    scene = mujoco.MjModel.from_xml_path(str(model.assets() / backend.task.scene))
    for name in SAME:
        np.testing.assert_array_equal(getattr(backend.model, name), getattr(scene, name), err_msg=name)
    option, expected = backend.model.opt, scene.opt
    assert (option.timestep, option.integrator, option.solver, option.cone) == (
        expected.timestep, expected.integrator, expected.solver, expected.cone,
    )  # fmt: skip
    assert (option.iterations, option.impratio, option.tolerance) == (100, expected.impratio, expected.tolerance)
    task = backend.task
    assert (task.physics_dt, task.substeps, round(1 / task.control_dt), task.max_steps) == (0.002, 10, 50, 400)
    assert task.physics_dt == option.timestep


def test_start(backend):
    _, output = backend.reset(scene_keys(0, range(64)))
    expected = [0, -0.96, 1.16, 0, -0.3, 0, 0.02239, -0.02239]
    np.testing.assert_allclose(output.qpos[:, :16], np.tile(expected, (64, 2)), atol=1e-7)
    poses = np.asarray(output.env_state).reshape(64, -1, 7)
    np.testing.assert_array_equal(
        poses[..., 2:], np.broadcast_to([0.05, 1, 0, 0, 0], (64, poses.shape[1], 5)).astype("f")
    )
    for index, (x, y) in enumerate(backend.task.start_ranges):
        assert (poses[:, index, 0] >= x[0]).all()
        assert (poses[:, index, 0] <= x[1]).all()
        assert (poses[:, index, 1] >= y[0]).all()
        assert (poses[:, index, 1] <= y[1]).all()
        assert np.ptp(poses[:, index, 0]) > 0.8 * (x[1] - x[0])  # the whole range
        assert np.ptp(poses[:, index, 1]) > 0.8 * (y[1] - y[0])
    assert len(np.unique(poses[:, 0, 0])) == 64


def test_actions_are_joint_targets_and_grippers_from_0_to_1(backend):
    robot = ALOHA_PAIR.bind(backend.model)
    action = np.array([[0.1, -0.9, 1.0, 0.2, -0.2, 0.3, 0.5, -0.1, -0.8, 0.9, -0.2, 0.1, -0.3, 1.0]], np.float32)
    joints, grippers, error = robot.targets(jnp.zeros((1, 12)), jnp.asarray(action))
    np.testing.assert_array_equal(joints[0], np.delete(action[0], [6, 13]))
    np.testing.assert_array_equal(grippers[0], [0.5, 1.0])
    assert (np.asarray(error) == 0).all()
    fingers = np.asarray(robot.controls(np.asarray(joints), np.asarray(grippers)))[0, 12:]
    half = 0.5 * (0.05800 + 0.01844)  # constants of the package: 1 is open
    np.testing.assert_allclose(fingers, [half, -half, 0.058, -0.058], atol=1e-7)


def test_state_is_what_actions_command(backend):
    state, output = backend.reset(scene_keys(0, [0]))
    action = np.array([[0.1, -0.9, 1.0, 0.2, -0.2, 0.3, 0.5] * 2], np.float32)
    for _ in range(60):
        state, output = backend.step(state, action)
    np.testing.assert_allclose(output.state, action, atol=0.06)  # soft servos against gravity and dry friction
    names = ALOHA_PAIR.spaces.action_names
    assert names[:7] == (
        "left_waist", "left_shoulder", "left_elbow", "left_forearm_roll", "left_wrist_angle", "left_wrist_rotate",
        "left_gripper",
    )  # fmt: skip
    assert len(names) == 14


def test_a_command_that_is_not_finite_keeps_the_arm(backend):
    robot = ALOHA_PAIR.bind(backend.model)
    action = jnp.zeros((1, 14)).at[0, 2].set(jnp.nan)
    joints, grippers, error = robot.targets(jnp.full((1, 12), 0.3), action)
    np.testing.assert_allclose(joints, [[0.3] * 6 + [0.0] * 6], rtol=1e-6)
    assert np.isfinite(grippers).all()
    assert np.isinf(error[0, 0])
    assert error[0, 1] == 0


def observe(touch: list, contacts: list[bool], objects: int, xp=np) -> TaskObservation:
    poses = xp.zeros((1, objects, 7), xp.float32)
    return TaskObservation(poses, xp.asarray([touch]), xp.asarray([contacts]), xp.zeros((1, 14), xp.float32))


NO, LEFT, RIGHT = [False, False], [True, False], [False, True]


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(
    ("stage", "left", "right", "on_table"),
    [
        (0, NO, NO, True),
        (0, NO, NO, False),
        (1, NO, RIGHT, True),
        (0, NO, LEFT, True),  # the other finger of the right hand does not count
        (2, NO, RIGHT, False),
        (3, LEFT, RIGHT, True),
        (3, LEFT, NO, True),
        (2, RIGHT, RIGHT, False),
        (4, LEFT, RIGHT, False),
        (4, LEFT, NO, False),
    ],
)
def test_rewards_of_transfer(stage, left, right, on_table, xp):
    task = get_task("aloha-transfer")
    _, result = task.evaluate(task.start(1, xp), observe([[left, right]], [on_table], 1, xp))
    assert int(result.stage[0]) == float(result.reward[0]) == stage


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(
    ("stage", "peg", "socket", "contacts"),  # contacts: peg-table, socket-table, peg-socket, peg-pin
    [
        (0, NO, LEFT, [True, True, False, False]),
        (1, RIGHT, LEFT, [True, True, False, False]),
        (1, RIGHT, LEFT, [False, True, False, False]),
        (2, RIGHT, LEFT, [False, False, False, False]),
        (3, RIGHT, LEFT, [False, False, True, False]),
        (3, NO, NO, [False, False, True, False]),
        (4, RIGHT, LEFT, [False, False, True, True]),
        (4, NO, NO, [True, True, False, True]),  # as in the package: the pin alone decides
    ],
)
def test_rewards_of_insertion(stage, peg, socket, contacts, xp):
    task = get_task("aloha-insertion")
    touch = [[NO, peg], [socket, NO]]
    _, result = task.evaluate(task.start(1, xp), observe(touch, contacts, 2, xp))
    assert int(result.stage[0]) == float(result.reward[0]) == stage


def test_success_is_the_last_stage_held():
    task = get_task("aloha-transfer")
    done, undone = observe([[LEFT, NO]], [False], 1), observe([[NO, NO]], [False], 1)
    progress = task.start(1, np)
    for observation in (*[done] * (HOLD_STEPS - 1), undone, *[done] * (HOLD_STEPS - 1)):
        progress, result = task.evaluate(progress, observation)
        assert not result.success[0]
    _, result = task.evaluate(progress, done)
    assert result.success[0]


def test_a_missing_package_is_named_with_both_ways_to_install_it(monkeypatch):
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match=r"gym_aloha.*not installed.*imf_jax\[aloha\].*--no-deps gym-aloha==0.1.3"):
        model.assets()


def test_changed_models_are_refused(monkeypatch, tmp_path: Path):
    folder = shutil.copytree(model.assets(), tmp_path / "assets")
    monkeypatch.setattr(model, "asset_folder", lambda *arguments: folder)
    scene = folder / "scene.xml"
    scene.write_text(scene.read_text().replace("0.6", "0.7"))
    with pytest.raises(ArgumentError, match="are not those that this version knows"):
        model.assets()
    scene.unlink()
    with pytest.raises(ArgumentError, match=r"scene\.xml is missing"):
        model.assets()
