"""The two-arm scene, built with `mujoco.MjSpec`: Diana 7 arms, grippers, table, cameras, contact pairs, sensors.

World frame: x away from the robots, y to their left, z up; the table top is z = 0 and both arm bases stand on it.
The tool of an arm points along -z of its `link7`, so the identity orientation of link7 points the gripper down.

Only capsules, boxes, spheres and one plane collide, in explicit pairs: every backend (C MuJoCo, MJX-JAX, MJX-Warp)
supports those, and a fixed short list of pairs keeps the number of contact slots small. Arm links, meshes and
inertias come from the `robopal` package and are read from where it is installed.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mujoco
import numpy as np

from imf_jax.errors import UserError

SIDES = ("left", "right")
CAMERAS = ("r_vis", "top", "front")
Visual = Literal["mesh", "primitive"]

PHYSICS_DT = 0.004
"""Physics step [s]."""

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

_VISIBLE, _COLLISION = 0, 3  # geom groups; only groups 0..2 are rendered

# Collision capsules in link frames: body, from, to, radius [m]. They enclose the meshes of the parts that can meet.
_ARM_CAPSULES = {
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


@dataclass(frozen=True)
class SceneIndex:
    """Addresses of the named parts in the flat arrays of the compiled model.

    Attributes:
        arm_qpos: (14,) qpos addresses of the arm joints, left then right.
        finger_qpos: (2, 2) qpos addresses of the fingers per side.
        arm_ctrl: (14,) actuator ids of the arm servos.
        finger_ctrl: (2, 2) actuator ids of the finger servos.
        link7_body: (2,) body ids.
        object_qpos: per object name, the qpos address of its free joint (7 values: xyz, wxyz).
        touch_sensor: per object name, (2, 2) addresses of the contact sensors in sensordata (side, finger).
    """

    arm_qpos: np.ndarray
    finger_qpos: np.ndarray
    arm_ctrl: np.ndarray
    finger_ctrl: np.ndarray
    link7_body: np.ndarray
    object_qpos: dict[str, int]
    touch_sensor: dict[str, np.ndarray]


@dataclass(frozen=True)
class Scene:
    """A compiled scene and the addresses of its parts."""

    model: mujoco.MjModel
    index: SceneIndex


def arm_file() -> Path:
    """Path of the Diana 7 model in the installed `robopal` package (which is found, not imported).

    Raises:
        UserError: if the package is not installed.
    """
    found = importlib.util.find_spec("robopal")
    if found is None or not found.submodule_search_locations:
        raise UserError("the arm model is missing: install the package robopal (pip install robopal==0.4.1)")
    path = Path(found.submodule_search_locations[0]) / "assets/models/manipulators/DianaMed/DianaMed.xml"
    if not path.is_file():
        raise UserError(f"{path} is missing: install robopal==0.4.1, which ships the Diana 7 model")
    return path


def build_scene(add_objects: Callable[[mujoco.MjSpec], dict[str, tuple[str, ...]]], visual: Visual = "mesh") -> Scene:
    """Compile the two arms, the table, the cameras and a task's objects.

    Args:
        add_objects: adds free bodies to the spec and returns, per object name, the names of its collision geoms;
            an object's body carries the object's name and its free joint is `<name>_joint`.
        visual: "mesh" shows the real arm surfaces, "primitive" capsules (smaller, faster to render). Physics is equal.
    """
    spec = mujoco.MjSpec()
    spec.modelname = "two_diana7"
    _set_options(spec)
    _add_table_and_lights(spec)
    for side in SIDES:
        arm = _arm_spec(visual, _ARM_COLORS[side])
        mount = spec.worldbody.add_frame(pos=[0.0, BASE_Y[side], 0.0])
        spec.attach(arm, prefix=f"{side}_", frame=mount)
    _add_cameras(spec)
    objects = add_objects(spec)
    _add_pairs_and_sensors(spec, objects)
    model = spec.compile()
    return Scene(model, _index(model, tuple(objects)))


def _set_options(spec: mujoco.MjSpec) -> None:
    option = spec.option
    option.timestep = PHYSICS_DT
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
    visible = {"group": _VISIBLE, "contype": 0, "conaffinity": 0}
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
        group=_COLLISION,
        contype=0,
        conaffinity=0,
    )


def _arm_spec(visual: Visual, color: tuple[float, ...]) -> mujoco.MjSpec:
    """One arm with its gripper: meshes from robopal, our servos, collision capsules and fingers."""
    arm = mujoco.MjSpec.from_file(str(arm_file()))
    # The parent's options win on attach; equal ones keep MuJoCo from warning about a conflict.
    _set_options(arm)
    arm.option.enableflags = 0
    for actuator in list(arm.actuators):
        arm.delete(actuator)
    for geom in list(arm.geoms):
        if geom.name == "link7_collision" or visual == "primitive":
            arm.delete(geom)
        else:
            geom.group, geom.rgba, geom.mass = _VISIBLE, list(color), 0.0
    if visual == "primitive":
        for mesh in list(arm.meshes):
            arm.delete(mesh)
        for body, start, end, radius in _ARM_PRIMITIVES:
            _add_capsule(arm.body(body), start, end, radius, group=_VISIBLE, rgba=list(color))
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
    for name, (body, start, end, radius) in _ARM_CAPSULES.items():
        _add_capsule(arm.body(body), start, end, radius, group=_COLLISION, name=name)
    _add_gripper(arm)
    return arm


def _add_gripper(arm: mujoco.MjSpec) -> None:
    """A parallel-jaw gripper below link7; the fingers slide along x of link7 and mirror each other."""
    hand = arm.body("link7").add_body(name="gripper", gravcomp=1.0)
    visible = {"group": _VISIBLE, "contype": 0, "conaffinity": 0}
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
    # On the right wrist beside the fingers, tilted towards the fingertips; both fingers and the object are in view.
    tilt, turn = np.zeros(4), np.array([0.0, 0.0, 0.0, 1.0])
    mujoco.mju_axisAngle2Quat(tilt, np.array([1.0, 0.0, 0.0]), -0.35)
    quat = np.zeros(4)
    mujoco.mju_mulQuat(quat, tilt, turn)
    spec.body("right_link7").add_camera(name="r_vis", pos=[0.0, 0.12, 0.0], quat=quat.tolist(), fovy=75)


def _add_pairs_and_sensors(spec: mujoco.MjSpec, objects: dict[str, tuple[str, ...]]) -> None:
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

    fingers = {side: [f"{side}_finger{number}" for number in (1, 2)] for side in SIDES}
    for name, geoms in objects.items():
        for geom in geoms:
            pair("table", geom, condim=3, friction=0.8)
            for side in SIDES:
                pair(f"{side}_hand", geom, condim=1)
                for finger in fingers[side]:
                    pair(finger, geom, condim=4, friction=1.2)
        for side in SIDES:
            for finger in fingers[side]:
                for part, geom in enumerate(geoms):
                    _add_touch_sensor(spec, f"touch|{name}|{finger}|{part}", finger, geom)
    geoms_of_objects = list(objects.values())
    for i, first in enumerate(geoms_of_objects):
        for other in geoms_of_objects[i + 1 :]:
            for a in first:
                for b in other:
                    pair(a, b, condim=3, friction=0.3)
    for side in SIDES:
        for finger in fingers[side]:
            pair("table", finger, condim=1)
    for ours in _ARM_CAPSULES:
        for theirs in _ARM_CAPSULES:
            pair(f"left_{ours}", f"right_{theirs}", condim=1)


def _add_touch_sensor(spec: mujoco.MjSpec, name: str, first: str, second: str) -> None:
    """A sensor that reads the number of contacts between two geoms, 0 if they do not touch."""
    spec.add_sensor(
        name=name,
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=mujoco.mjtObj.mjOBJ_GEOM,
        objname=first,
        reftype=mujoco.mjtObj.mjOBJ_GEOM,
        refname=second,
        intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND), 0, 1],
    )


def _index(model: mujoco.MjModel, objects: tuple[str, ...]) -> SceneIndex:
    joints = [f"{side}_j{i + 1}" for side in SIDES for i in range(7)]
    fingers = [[f"{side}_finger{number}" for number in (1, 2)] for side in SIDES]

    def touch(name: str) -> np.ndarray:
        rows = []
        for side in SIDES:
            for number in (1, 2):
                prefix = f"touch|{name}|{side}_finger{number}|"
                rows.append(
                    [model.sensor_adr[i] for i in range(model.nsensor) if model.sensor(i).name.startswith(prefix)]
                )
        return np.array(rows).reshape(2, 2, -1)

    return SceneIndex(
        arm_qpos=np.array([model.joint(name).qposadr[0] for name in joints]),
        finger_qpos=np.array([[model.joint(name).qposadr[0] for name in pair] for pair in fingers]),
        arm_ctrl=np.array([model.actuator(name).id for name in joints]),
        finger_ctrl=np.array([[model.actuator(name).id for name in pair] for pair in fingers]),
        link7_body=np.array([model.body(f"{side}_link7").id for side in SIDES]),
        object_qpos={name: int(model.joint(f"{name}_joint").qposadr[0]) for name in objects},
        touch_sensor={name: touch(name) for name in objects},
    )
