"""Model of two Diana 7 arms with parallel-jaw grippers, built with `mujoco.MjSpec`.

Both bases stand at x = 0 on the table and face +x. The tool of an arm points along -z of its `link7`, so the identity
orientation of link7 points the gripper down.

Arm links, meshes and inertias come from the `robopal` package and are read from where it is installed. Only capsules
and boxes collide.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from imf_jax.sim.assets import asset_folder, require_content
from imf_jax.sim.robots.base import Visual
from imf_jax.sim.scene import COLLISION, VISIBLE, set_options

SIDES = ("left", "right")

BASE_Y = {"left": 0.4, "right": -0.4}
"""Position of the arm bases along y [m]; both stand at x = 0 on the table and face +x."""

READY = np.array([0.0, -0.05, 0.0, 2.45, 0.0, -0.6, 0.0])
"""Joint angles [rad] an episode starts near, gripper pointing down at (.46, base y, .32) [m]; inverse kinematics
prefers postures close to it."""

TORQUE_LIMIT = 80.0
"""Joint torque limit [N m] of the Diana 7."""

# Position servos, shoulder to wrist. The ratio damping/stiffness is the tracking delay, 30 to 50 ms.
STIFFNESS = (3000.0, 3000.0, 2000.0, 2000.0, 800.0, 600.0, 400.0)  # [N m/rad]
DAMPING = (150.0, 150.0, 90.0, 80.0, 24.0, 18.0, 12.0)  # [N m s/rad]
ARMATURE = 0.1  # reflected rotor inertia [kg m^2], ours

FINGER_TRAVEL = 0.04
"""Travel of one finger [m]; the opening of a gripper is twice that."""

MAX_OPENING = 2 * FINGER_TRAVEL
"""Largest distance between the pads of a gripper [m]."""

FINGER_HALF_SIZE = (0.007, 0.012, 0.045)
FINGER_CENTER_Z = -0.105
FINGERTIP_Z = FINGER_CENTER_Z - FINGER_HALF_SIZE[2]
"""The fingertips in the link7 frame [m]."""

GRASP_Z = FINGERTIP_Z + 0.02
"""Best place to hold an object, in the link7 frame [m]."""

_STEEL = (0.32, 0.34, 0.38, 1.0)
_PAD = (0.12, 0.12, 0.13, 1.0)
_ARM_COLORS = {"left": (0.91, 0.92, 0.94, 1.0), "right": (0.82, 0.86, 0.92, 1.0)}

# Collision capsules in link frames: body, from, to, radius [m]. They enclose the meshes of the parts that can meet.
ARM_CAPSULES = {
    "forearm": ("link5", (0.0, 0.03, 0.05), (0.0, 0.03, 0.33), 0.062),
    "wrist": ("link6", (0.0, 0.0, 0.0), (0.075, 0.0, 0.0), 0.068),
    "hand": ("link7", (0.0, 0.0, 0.01), (0.0, 0.0, -0.05), 0.045),
}

# Stand-ins for the arm meshes: body, kind, position or end points, size.
_ARM_PRIMITIVES = (
    ("base_link", (0.0, 0.0, 0.0), (0.0, 0.0, 0.24), 0.08),
    ("link1", (0.0, -0.06, 0.0), (0.0, 0.03, 0.0), 0.075),
    ("link2", (0.0, 0.0, -0.03), (0.0, -0.09, -0.06), 0.07),
    ("link3", (0.0, -0.04, 0.0), (0.02, 0.0, 0.25), 0.062),
    ("link4", (-0.05, 0.0, -0.04), (0.0, 0.0, -0.04), 0.062),
    ("link5", (0.0, 0.03, 0.0), (0.0, 0.03, 0.33), 0.052),
    ("link6", (0.0, 0.0, 0.0), (0.075, 0.0, 0.0), 0.058),
    ("link7", (0.0, 0.0, 0.005), (0.0, 0.0, 0.02), 0.044),
)


INSTALL = "pip install robopal==0.4.1"

FILES = ("DianaMed.xml", "meshes/base_link.STL", *(f"meshes/link{i + 1}.STL" for i in range(7)))

SHA256 = "7240ffdbc4135d6317b4a6bea082addec3f48cf2145d058605a571e44ac08873"
"""Of the contents of `FILES` in robopal 0.4.1."""


def arm_file() -> Path:
    """Path of the Diana 7 model in the installed `robopal` package (which is found, not imported).

    Raises:
        ArgumentError: the package is not installed, or its model has changed.
    """
    folder = asset_folder("robopal", "assets/models/manipulators/DianaMed", INSTALL)
    require_content(folder, FILES, SHA256, INSTALL)
    return folder / "DianaMed.xml"


def add_arms(spec: mujoco.MjSpec, visual: Visual) -> None:
    """Add both arms, each with a camera on its wrist."""
    for side in SIDES:
        arm = _arm_spec(visual, _ARM_COLORS[side], spec.option.timestep)
        mount = spec.worldbody.add_frame(pos=[0.0, BASE_Y[side], 0.0])
        spec.attach(arm, prefix=f"{side}_", frame=mount)
    # On the wrists beside the fingers, tilted towards the fingertips; both fingers and the object are in view.
    tilt, turn = np.zeros(4), np.array([0.0, 0.0, 0.0, 1.0])
    mujoco.mju_axisAngle2Quat(tilt, np.array([1.0, 0.0, 0.0]), -0.35)
    quat = np.zeros(4)
    mujoco.mju_mulQuat(quat, tilt, turn)
    for side in SIDES:
        name = f"{side[0]}_vis"
        spec.body(f"{side}_link7").add_camera(name=name, pos=[0.0, 0.12, 0.0], quat=quat.tolist(), fovy=75)


def _arm_spec(visual: Visual, color: tuple[float, ...], timestep: float) -> mujoco.MjSpec:
    """One arm with its gripper: meshes from robopal, our servos, collision capsules and fingers."""
    arm = mujoco.MjSpec.from_file(str(arm_file()))
    # The parent's options win on attach; equal ones keep MuJoCo from warning about a conflict.
    set_options(arm, timestep)
    arm.option.enableflags = 0
    for actuator in list(arm.actuators):
        arm.delete(actuator)
    for geom in list(arm.geoms):
        if geom.name == "link7_collision" or visual == "primitive":
            arm.delete(geom)
        else:
            geom.group, geom.rgba, geom.mass = VISIBLE, list(color), 0.0
    if visual == "primitive":
        for mesh in list(arm.meshes):
            arm.delete(mesh)
        for body, start, end, radius in _ARM_PRIMITIVES:
            _add_capsule(arm.body(body), start, end, radius, group=VISIBLE, rgba=list(color))
    for site in list(arm.sites):
        arm.delete(site)
    arm.delete(arm.body("attachment"))

    for i in range(7):
        joint = arm.joint(f"j{i + 1}")
        joint.armature = ARMATURE
        arm.body(f"link{i + 1}").gravcomp = 1.0  # the real controller compensates the arm's own weight
        arm.add_actuator(
            name=f"j{i + 1}",
            target=f"j{i + 1}",
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            gainprm=[STIFFNESS[i]] + [0.0] * 9,
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            biasprm=[0.0, -STIFFNESS[i], -DAMPING[i]] + [0.0] * 7,
            ctrllimited=True,
            ctrlrange=list(joint.range),
            forcelimited=True,
            forcerange=[-TORQUE_LIMIT, TORQUE_LIMIT],
        )
    for name, (body, start, end, radius) in ARM_CAPSULES.items():
        _add_capsule(arm.body(body), start, end, radius, group=COLLISION, name=name)
    _add_gripper(arm)
    return arm


def _add_gripper(arm: mujoco.MjSpec) -> None:
    """A parallel-jaw gripper below link7; the fingers slide along x of link7 and mirror each other."""
    hand = arm.body("link7").add_body(name="gripper", gravcomp=1.0)
    visible = {"group": VISIBLE, "contype": 0, "conaffinity": 0}
    box = mujoco.mjtGeom.mjGEOM_BOX
    hand.add_geom(type=box, size=[0.05, 0.028, 0.028], pos=[0, 0, -0.032], rgba=_STEEL, mass=0.3, **visible)
    for number, direction in ((1, 1.0), (2, -1.0)):
        finger = hand.add_body(name=f"finger{number}", gravcomp=1.0)
        finger.add_joint(
            name=f"finger{number}",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[direction, 0, 0],
            range=[0.0, FINGER_TRAVEL],
            limited=True,
            damping=2.0,
            armature=0.1,
        )
        x = direction * FINGER_HALF_SIZE[0]
        finger.add_geom(
            name=f"finger{number}",
            type=box,
            size=list(FINGER_HALF_SIZE),
            pos=[x, 0, FINGER_CENTER_Z],
            rgba=_PAD,
            mass=0.05,
            **visible,
        )
        arm.add_actuator(
            name=f"finger{number}",
            target=f"finger{number}",
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            gainprm=[2000.0] + [0.0] * 9,
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            biasprm=[0.0, -2000.0, -40.0] + [0.0] * 7,
            ctrllimited=True,
            ctrlrange=[0.0, FINGER_TRAVEL],
            forcelimited=True,
            forcerange=[-20.0, 20.0],
        )
    # Without the coupling a held object could shift sideways: two saturated fingers have no stiffness against it.
    coupling = arm.add_equality(
        name="fingers",
        type=mujoco.mjtEq.mjEQ_JOINT,
        name1="finger2",
        name2="finger1",
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        solref=[0.01, 1.0],
        solimp=[0.95, 0.99, 0.001, 0.5, 2.0],
    )
    coupling.data[:5] = [0.0, 1.0, 0.0, 0.0, 0.0]


def _add_capsule(
    body: mujoco.MjsBody, start: Sequence[float], end: Sequence[float], radius: float, **attributes: Any
) -> None:
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[*start, *end],
        size=[radius, 0, 0],
        contype=0,
        conaffinity=0,
        mass=0.0,
        **attributes,
    )
