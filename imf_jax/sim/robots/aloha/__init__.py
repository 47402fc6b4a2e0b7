"""The two ViperX 300 arms of ALOHA, commanded by joint targets (Zhao et al. 2023)."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from typing_extensions import override

from imf_jax.sim.arrays import Array, array_module
from imf_jax.sim.robots.aloha.model import ARM_JOINTS, FINGER_CLOSE, FINGER_OPEN, SIDES, START_ARM, START_FINGER
from imf_jax.sim.robots.base import BoundRobot, Robot, Visual
from imf_jax.spaces import Part, RobotSpaces


def _parts(side: str, effector: int) -> tuple[Part, ...]:
    names = tuple(f"{side}_{joint}" for joint in ARM_JOINTS)
    return (
        Part(f"{side}_arm", len(names), "joint", "rad", effector, names),
        Part(f"{side}_gripper", 1, "gripper", "", effector, low=(0.0,), high=(1.0,)),
    )


_PARTS = tuple(part for effector, side in enumerate(SIDES) for part in _parts(side, effector))


class AlohaPair(Robot):
    """Two ViperX 300 arms; they are part of the scenes of their tasks.

    Action (14): per arm (left, right) six joint targets [rad] and the gripper, 0 closed to 1 open. State (14): the
    same, as measured.
    """

    spaces = RobotSpaces(
        name="aloha",
        action=_PARTS,
        state=_PARTS,
        effectors=tuple(f"{side}_gripper_link" for side in SIDES),
        effector_names=tuple(f"{side} arm" for side in SIDES),
        action_text="per arm (left, right): 6 joint targets [rad], gripper 0 (closed) to 1 (open)",
        state_text="per arm (left, right): 6 joint angles [rad], gripper 0 (closed) to 1 (open)",
    )
    cameras = tuple(f"{side}_wrist" for side in SIDES)
    fingers = tuple(tuple(f"vx300s_{side}/10_{finger}_gripper_finger" for finger in SIDES) for side in SIDES)

    @override
    def add_to(self, spec: mujoco.MjSpec, visual: Visual) -> None:
        """It is there already."""

    @override
    def bind(self, model: mujoco.MjModel) -> "BoundAlohaPair":
        return BoundAlohaPair(model)


class BoundAlohaPair(BoundRobot):
    """Both arms in a compiled scene: J = 12 joint targets [rad], G = 2 grippers 0..1."""

    def __init__(self, model: mujoco.MjModel) -> None:
        arms = [model.joint(f"vx300s_{side}/{name}") for side in SIDES for name in ARM_JOINTS]
        fingers = [model.joint(f"vx300s_{side}/{finger}_finger") for side in SIDES for finger in SIDES]
        joints = [joint.id for joint in arms + fingers]
        self.qpos = model.jnt_qposadr[joints]
        # The actuators have no names.
        actuator_of = {int(model.actuator_trnid[i, 0]): i for i in range(model.nu)}
        self.ctrl = np.array([actuator_of[joint] for joint in joints])
        self.effectors = np.array([model.body(f"vx300s_{side}/gripper_link").id for side in SIDES])
        self.start_grippers = np.full(2, (START_FINGER - FINGER_CLOSE) / (FINGER_OPEN - FINGER_CLOSE), np.float32)
        self._arm_qpos = self.qpos[: len(arms)].reshape(2, -1)
        self._left_finger_qpos = self.qpos[[len(arms), len(arms) + 2]]
        self._limits = jnp.asarray(model.jnt_range[joints[: len(arms)]], jnp.float32)

    @override
    def sample(self, key: jax.Array) -> jax.Array:
        return jnp.tile(jnp.array(START_ARM, jnp.float32), 2)

    @override
    def positions(self, joints: Array, grippers: Array) -> Array:
        return self.controls(joints, grippers)

    @override
    def controls(self, joints: Array, grippers: Array) -> Array:
        xp = array_module(joints)
        left_finger = FINGER_CLOSE + (FINGER_OPEN - FINGER_CLOSE) * grippers
        fingers = xp.stack([left_finger, -left_finger], axis=-1).reshape(joints.shape[0], 4)
        return xp.concatenate([joints, fingers], axis=1)

    @override
    def targets(self, last: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        arms = action.reshape(-1, 2, len(ARM_JOINTS) + 1)
        usable = jnp.isfinite(arms).all(axis=-1)
        wanted = arms[..., :-1].reshape(action.shape[0], -1)
        moved = jnp.clip(wanted, self._limits[:, 0], self._limits[:, 1])
        joints = jnp.where(jnp.repeat(usable, len(ARM_JOINTS), axis=-1), moved, last)
        grippers = jnp.clip(jnp.nan_to_num(arms[..., -1], nan=1.0), 0.0, 1.0)
        return joints, grippers, jnp.where(usable, 0.0, jnp.inf)

    @override
    def read_state(self, qpos: Array) -> Array:
        xp = array_module(qpos)
        gripper = (qpos[:, self._left_finger_qpos] - FINGER_CLOSE) / (FINGER_OPEN - FINGER_CLOSE)
        state = xp.concatenate([qpos[:, self._arm_qpos], gripper[..., None]], axis=-1)
        return state.reshape(qpos.shape[0], -1).astype(np.float32)


ALOHA_PAIR = AlohaPair()

__all__ = ["ALOHA_PAIR", "AlohaPair", "BoundAlohaPair"]
