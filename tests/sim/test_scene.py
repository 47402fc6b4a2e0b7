"""The compiled scene: what is in it, and that the MJX implementations take it."""

import warnings

import mujoco
import numpy as np
import pytest
from mujoco import mjx

from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.robots import Visual
from imf_jax.sim.robots.diana.model import BASE_Y, READY, SIDES, TORQUE_LIMIT

HOME = np.array([0.0, -np.pi / 4, 0.0, np.pi / 2, 0.0, np.pi / 4, 0.0])


@pytest.fixture(scope="module")
def scene() -> TaskScene:
    return TaskScene("transfer", "primitive")


def test_home_puts_link7_where_the_maker_says(scene: TaskScene) -> None:
    data = mujoco.MjData(scene.model)
    data.qpos[scene.robot.qpos[:14]] = np.tile(HOME, 2)
    mujoco.mj_kinematics(scene.model, data)
    for side, body in zip(SIDES, scene.robot.effectors, strict=True):
        base = np.array([0.0, BASE_Y[side], 0.0])
        np.testing.assert_allclose(data.xpos[body] - base, [0.836, 0.005, 0.369], atol=1e-3)


def test_arms_keep_the_masses_and_limits_of_the_maker(scene: TaskScene) -> None:
    model = scene.model
    masses = [2.727, 3.182, 3.936, 1.585, 1.927, 1.730]
    for side in SIDES:
        np.testing.assert_allclose([model.body(f"{side}_link{i + 1}").mass[0] for i in range(6)], masses, atol=1e-3)
        np.testing.assert_allclose(model.joint(f"{side}_j4").range, [0.0, 3.05])
    np.testing.assert_allclose(model.actuator_forcerange[scene.robot.ctrl[:14]], [[-TORQUE_LIMIT, TORQUE_LIMIT]] * 14)


def test_cameras_are_named_and_complete(scene: TaskScene) -> None:
    assert {scene.model.camera(i).name for i in range(scene.model.ncam)} == {"r_vis", "l_vis", "top", "front"}


def test_both_wrists_carry_the_same_camera(scene: TaskScene) -> None:
    right, left = (scene.model.camera(name) for name in ("r_vis", "l_vis"))
    assert [scene.model.body(camera.bodyid[0]).name for camera in (right, left)] == ["right_link7", "left_link7"]
    np.testing.assert_array_equal(right.pos, left.pos)
    np.testing.assert_array_equal(right.quat, left.quat)


def test_only_listed_pairs_of_simple_shapes_collide(scene: TaskScene) -> None:
    model = scene.model
    assert not model.geom_contype.any()
    assert not model.geom_conaffinity.any()
    simple = {mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_PLANE}
    paired = np.concatenate([model.pair_geom1, model.pair_geom2])
    assert {mujoco.mjtGeom(kind) for kind in model.geom_type[paired]} <= simple


@pytest.mark.parametrize("visual", ["mesh", "primitive"])
def test_the_look_does_not_change_the_physics(scene: TaskScene, visual: Visual) -> None:
    model = TaskScene("transfer", visual).model
    np.testing.assert_array_equal(model.body_mass, scene.model.body_mass)
    np.testing.assert_array_equal(model.body_inertia, scene.model.body_inertia)
    assert bool(model.nmesh) == (visual == "mesh")


def test_arms_stand_still_and_the_box_rests(scene: TaskScene) -> None:
    model, arms = scene.model, scene.robot.qpos[:14]
    data = mujoco.MjData(model)
    data.qpos[arms] = data.ctrl[scene.robot.ctrl[:14]] = np.tile(READY, 2)
    box = model.joint("box_joint").qposadr[0]
    start = data.qpos[box : box + 7].copy()
    for _ in range(250):
        mujoco.mj_step(model, data)
    np.testing.assert_allclose(data.qpos[arms], np.tile(READY, 2), atol=1e-3)
    np.testing.assert_allclose(data.qpos[box : box + 7], start, atol=1e-3)


@pytest.mark.parametrize("implementation", ["jax", "warp"])
def test_mjx_takes_the_scene_without_a_warning(scene: TaskScene, implementation: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = mjx.put_model(scene.model, impl=implementation)
        data = mjx.make_data(scene.model, impl=implementation)
    assert model.nq == scene.model.nq
    assert data.qpos.shape == (scene.model.nq,)
