"""A robot and a task of your own in one file: a single Panda arm, from the package robopal, pushes a puck away.

Run: python scripts/eval.py --task examples/own_robot.py --expert --episodes 20 --out evals/push
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from imf_jax.sim.arrays import Array
from imf_jax.sim.assets import asset_folder
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.kinematics import SerialArms, forward_kinematics, inverse_kinematics, serial_arms
from imf_jax.sim.robots import BoundRobot, Robot, Visual
from imf_jax.sim.scene import CAMERAS, set_options
from imf_jax.sim.tasks import TableTask, TaskObservation, TaskResult
from imf_jax.spaces import Part, RobotSpaces

JOINTS = [f"panda_joint{i + 1}" for i in range(7)]
READY = np.array([0.0, -0.2, 0.0, -2.6, 0.0, 2.4, 0.785], np.float32)  # [rad], the stick points down
DOWN = (0.0, 1.0, 0.0, 0.0)  # quaternion wxyz of the flange
STICK = 0.12  # length [m]
PUCK = (0.03, 0.04, 0.02)  # half size [m]


class Panda(Robot):
    """One Panda with a stick at its flange. Action and state (7): joint targets, joint angles [rad]."""

    arm = Part("arm", 7, "joint", "rad")
    spaces = RobotSpaces("panda", (arm,), (arm,), effectors=("stick",), effector_names=("stick",))
    fingers = (("panda_stick",),)

    def add_to(self, spec: mujoco.MjSpec, visual: Visual) -> None:
        folder = asset_folder("robopal", "assets/models/manipulators/Panda", "pip install robopal==0.4.1")
        arm = mujoco.MjSpec.from_file(str(folder / "panda.xml"))
        set_options(arm, spec.option.timestep)
        arm.option.impratio = spec.option.impratio
        for motor in list(arm.actuators):  # it has motors; we want position servos
            arm.delete(motor)
        for key in list(arm.keys):
            arm.delete(key)
        stick = arm.body("attachment").add_geom(name="stick", type=mujoco.mjtGeom.mjGEOM_CAPSULE, mass=0.05)
        stick.fromto, stick.size, stick.rgba = [0, 0, 0, 0, 0, STICK], [0.012, 0, 0], [0.9, 0.5, 0.1, 1]
        for geom in list(arm.geoms):  # only what is in a contact pair collides
            geom.contype, geom.conaffinity = 0, 0
        for i in range(7):
            arm.body(f"link{i + 1}").gravcomp = 1.0
            force, stiffness = (80.0, 1500.0) if i < 5 else (12.0, 300.0)
            servo = arm.add_actuator(name=f"joint{i + 1}", target=f"joint{i + 1}", trntype=mujoco.mjtTrn.mjTRN_JOINT)
            servo.set_to_position(kp=stiffness, kv=stiffness / 15)
            servo.forcerange = [-force, force]
        spec.attach(arm, prefix="panda_", frame=spec.worldbody.add_frame(pos=[0.0, 0.0, 0.0]))

    def bind(self, model: mujoco.MjModel) -> "BoundPanda":
        return BoundPanda(model)


class BoundPanda(BoundRobot):
    """The arm in a compiled scene: J = 7 joint targets, no gripper."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.qpos = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self.ctrl = np.array([model.actuator(name).id for name in JOINTS])
        self.effectors = np.array([model.body("panda_attachment").id])
        self.start_grippers = np.zeros(0, np.float32)

    def sample(self, key: jax.Array) -> jax.Array:
        return jnp.asarray(READY)

    def positions(self, joints: Array, grippers: Array) -> Array:
        return joints

    def controls(self, joints: Array, grippers: Array) -> Array:
        return joints

    def targets(self, last: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        usable = jnp.isfinite(action).all(-1, keepdims=True)
        return jnp.where(usable, action, last), action[:, :0], jnp.where(usable, 0.0, jnp.inf)

    def read_state(self, qpos: Array) -> Array:
        return qpos[:, self.qpos]


class PushState(NamedTuple):
    joints: jax.Array  # (B, 7) commanded [rad]
    waited: jax.Array  # (B,)


class PushExpert:
    """Goes behind the puck, down, and forward, at most 8 mm per control step."""

    def start(self, output: StepOutput) -> PushState:
        return PushState(jnp.asarray(output.state), jnp.zeros(len(output.state), jnp.int32))

    def act(self, state: PushState, output: StepOutput) -> tuple[PushState, jax.Array]:
        puck, arm = jnp.asarray(output.env_state)[:, :3], arms()
        hand = forward_kinematics(arm, state.joints[:, None])[0][:, 0]
        behind = puck + jnp.array([-0.07, 0.0, STICK])
        aligned = jnp.linalg.norm((hand - behind)[:, :2] * jnp.array([0.3, 1.0]), axis=-1) < 0.02
        low = aligned & (hand[:, 2] < STICK + 0.03)
        above, through = behind + jnp.array([0.0, 0.0, 0.08]), puck + jnp.array([0.0, 0.0, STICK])
        target = jnp.where(low[:, None], through, jnp.where(aligned[:, None], behind, above))
        way = target - hand
        position = hand + way * jnp.minimum(1.0, 0.008 / jnp.maximum(jnp.linalg.norm(way, axis=-1), 1e-6))[:, None]
        down = jnp.broadcast_to(jnp.array(DOWN), (len(puck), 1, 4))
        joints = inverse_kinematics(arm, state.joints[:, None], position[:, None], down)[0][:, 0]
        return PushState(joints, state.waited + 1), joints

    def anchor(self, state: PushState, command: jax.Array) -> PushState:
        return state._replace(joints=command)


class Push(TableTask):
    """Reward 1 for a touch, 2 when the puck is 60 cm away from the robot, which is success."""

    name, max_steps, env_state_dim = "push", 250, 7
    robot, cameras = Panda(), CAMERAS
    objects, stages = ("puck",), ("touch", "push")
    expert = PushExpert

    def add_objects(self, spec: mujoco.MjSpec) -> dict[str, tuple[str, ...]]:
        body = spec.worldbody.add_body(name="puck", pos=[0.5, 0.0, PUCK[2]])
        body.add_freejoint()
        box = mujoco.mjtGeom.mjGEOM_BOX
        body.add_geom(name="puck", type=box, size=PUCK, mass=0.2, rgba=[0.1, 0.4, 0.8, 1], contype=0, conaffinity=0)
        return {"puck": ("puck",)}

    def sample(self, key: jax.Array) -> jax.Array:
        x, y = jnp.array([0.42, -0.1]) + jnp.array([0.06, 0.2]) * jax.random.uniform(key, (2,))
        return jnp.array([[x, y, PUCK[2], 1, 0, 0, 0]])  # position [m], quaternion wxyz

    def evaluate(self, progress: Any, observation: TaskObservation) -> tuple[Any, TaskResult]:
        touched, pushed = observation.touch[:, 0, 0, 0], observation.objects[:, 0, 0] > 0.6
        stage = touched.astype("int32") * (1 - pushed) + 2 * pushed
        return (), TaskResult(stage.astype("float32"), stage.astype("int32"), pushed, pushed & False)


@cache
def arms() -> SerialArms:
    spec, _ = Push().make_spec("primitive")
    with jax.ensure_compile_time_eval():
        return serial_arms(spec.compile(), [JOINTS], ["panda_attachment"], READY[None])
