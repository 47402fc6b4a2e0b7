"""The table scene, built with `mujoco.MjSpec`: table, lights and cameras around a robot and a task's objects.

World frame: x away from the robots, y to their left, z up; the table top is z = 0.

Only capsules, boxes, spheres and one plane collide, in explicit pairs: every backend (C MuJoCo, MJX-JAX, MJX-Warp)
supports those, and a fixed short list of pairs keeps the number of contact slots small.
"""

import math

import mujoco
import numpy as np

from imf_jax.sim.robots.base import Robot

CAMERAS = ("top", "front")
"""Cameras that stand around the table."""

VISIBLE, COLLISION = 0, 3
"""Groups of geoms; only groups 0..2 are rendered."""


def add_table(spec: mujoco.MjSpec, physics_dt: float) -> None:
    """Set the physics options of an empty scene, and add table, lights and cameras.

    Args:
        spec: the scene.
        physics_dt: physics step [s].
    """
    set_options(spec, physics_dt)
    _add_table_and_lights(spec)
    _add_cameras(spec)


def set_options(spec: mujoco.MjSpec, physics_dt: float) -> None:
    """Set the options of physics and pictures; a model that is attached must have the same ones."""
    option = spec.option
    option.timestep = physics_dt
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.iterations = 8
    option.ls_iterations = 12
    spec.compiler.degree = False
    spec.visual.headlight.ambient = [0.32, 0.32, 0.32]
    spec.visual.headlight.diffuse = [0.25, 0.25, 0.25]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    spec.visual.map.znear = 0.001  # in units of the scene's extent of several metres; the wrist camera needs it
    spec.visual.global_.offwidth = 1024
    spec.visual.global_.offheight = 1024


def _add_table_and_lights(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    world.add_light(
        name="sun",
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[0.8, 0.6, 2.5],
        dir=[-0.25, -0.25, -1.0],
        diffuse=[0.62, 0.62, 0.60],
        specular=[0.1, 0.1, 0.1],
        ambient=[0.0, 0.0, 0.0],
    )
    visible = {"group": VISIBLE, "contype": 0, "conaffinity": 0}
    box = mujoco.mjtGeom.mjGEOM_BOX
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[4, 4, 0.1],
        pos=[0, 0, -0.75],
        rgba=[0.44, 0.47, 0.51, 1],
        **visible,
    )
    world.add_geom(name="wall", type=box, size=[0.02, 4, 2], pos=[-1.3, 0, 1.2], rgba=[0.80, 0.83, 0.86, 1], **visible)
    world.add_geom(
        name="table_top", type=box, size=[0.55, 0.8, 0.02], pos=[0.4, 0, -0.02], rgba=[0.70, 0.60, 0.47, 1], **visible
    )
    for x in (-0.1, 0.9):
        for y in (-0.74, 0.74):
            world.add_geom(
                type=box, size=[0.03, 0.03, 0.355], pos=[x, y, -0.395], rgba=[0.30, 0.28, 0.26, 1], **visible
            )
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[1, 1, 0.1],
        pos=[0, 0, 0],
        group=COLLISION,
        contype=0,
        conaffinity=0,
    )


def _look_at(position: tuple[float, ...], target: tuple[float, ...]) -> list[float]:
    """Quaternion (wxyz) of a camera at `position` that looks at `target`; its -z axis is the viewing direction."""
    back = np.subtract(position, target)
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.stack([right, np.cross(back, right), back], axis=1).ravel())
    return quat.tolist()


def _add_cameras(spec: mujoco.MjSpec) -> None:
    front = (1.72, 0.0, 0.85)
    spec.worldbody.add_camera(name="front", pos=front, quat=_look_at(front, (0.30, 0.0, 0.19)), fovy=50)
    half = math.sqrt(0.5)
    # Looking straight down with +x up in the picture, so the left arm is on the left.
    spec.worldbody.add_camera(name="top", pos=[0.42, 0.0, 1.55], quat=[half, 0.0, 0.0, -half], fovy=50)


def add_pairs(spec: mujoco.MjSpec, robot: Robot, objects: dict[str, tuple[str, ...]]) -> None:
    """Add the contact pairs of table, robot and objects.

    Args:
        spec: the scene.
        robot: in the scene.
        objects: per object, the names of its collision geoms.
    """
    slide, torsion, roll = 1.0, 0.02, 0.0001

    def pair(first: str, second: str, condim: int, friction: float = slide) -> None:
        spec.add_pair(
            name=f"{first}|{second}",
            geomname1=first,
            geomname2=second,
            condim=condim,
            friction=[friction, friction, torsion, roll, roll],
            solref=[0.01, 1.0],
            solimp=[0.95, 0.99, 0.001, 0.5, 2.0],
        )

    for geoms in objects.values():
        for geom in geoms:
            pair("table", geom, condim=3, friction=0.8)
            for hand, fingers in enumerate(robot.fingers):
                if robot.palms:
                    pair(robot.palms[hand], geom, condim=1)
                for finger in fingers:
                    pair(finger, geom, condim=4, friction=1.2)
    geoms_of_objects = list(objects.values())
    for i, first in enumerate(geoms_of_objects):
        for other in geoms_of_objects[i + 1 :]:
            for a in first:
                for b in other:
                    pair(a, b, condim=3, friction=0.3)
    for fingers in robot.fingers:
        for finger in fingers:
            pair("table", finger, condim=1)
    for ours, theirs in robot.self_pairs:
        pair(ours, theirs, condim=1)
