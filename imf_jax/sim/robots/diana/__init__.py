"""Two Diana 7 arms with grippers, commanded by the poses of their hands."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from typing_extensions import override

from imf_jax import seeds
from imf_jax.sim.arrays import array_module
from imf_jax.sim.robots.base import Array, BoundRobot, Robot, Visual
from imf_jax.sim.robots.diana import control
from imf_jax.sim.robots.diana.model import ARM_CAPSULES, MAX_OPENING, READY, SIDES, add_arms
from imf_jax.spaces import Part, RobotSpaces

START_JITTER = 0.02
"""Half width of the uniform spread of the starting joint angles around the ready posture [rad]."""

_JOINTS = 7


def _action(side: str, effector: int) -> tuple[Part, ...]:
    return (
        Part(f"{side}_position", 3, "position", "m", effector, tuple(f"{side}_{axis}" for axis in "xyz")),
        Part(f"{side}_quaternion", 4, "quaternion", "", effector, tuple(f"{side}_q{axis}" for axis in "wxyz")),
        Part(f"{side}_gripper", 1, "gripper", "m", effector, low=(0.0,), high=(MAX_OPENING,)),
    )


def _state(side: str, effector: int) -> tuple[Part, ...]:
    names = tuple(f"{side}_joint{i + 1}" for i in range(_JOINTS))
    return (
        Part(f"{side}_arm", _JOINTS, "joint", "rad", effector, names),
        Part(f"{side}_gripper", 1, "gripper", "m", effector, low=(0.0,), high=(MAX_OPENING,)),
    )


class DianaPair(Robot):
    """Two Diana 7 arms.

    Action (16): per arm (left, right) position xyz [m], quaternion wxyz and gripper opening [m]; link7 in the world
    frame. State (16): per arm 7 joint angles [rad] and gripper opening [m].
    """

    spaces = RobotSpaces(
        name="two_diana7",
        action=tuple(part for effector, side in enumerate(SIDES) for part in _action(side, effector)),
        state=tuple(part for effector, side in enumerate(SIDES) for part in _state(side, effector)),
        effectors=tuple(f"{side}_link7" for side in SIDES),
        effector_names=tuple(f"{side} arm" for side in SIDES),
        action_text=(
            "per arm (left, right): position xyz [m], quaternion wxyz, gripper opening [m]; link7 in the world frame"
        ),
        state_text="per arm (left, right): 7 joint angles [rad], gripper opening [m]",
    )
    cameras = ("r_vis", "l_vis")
    fingers = tuple(tuple(f"{side}_finger{number}" for number in (1, 2)) for side in SIDES)
    palms = tuple(f"{side}_hand" for side in SIDES)
    self_pairs = tuple((f"left_{ours}", f"right_{theirs}") for ours in ARM_CAPSULES for theirs in ARM_CAPSULES)

    @override
    def add_to(self, spec: mujoco.MjSpec, visual: Visual) -> None:
        add_arms(spec, visual)

    @override
    def bind(self, model: mujoco.MjModel) -> "BoundDianaPair":
        return BoundDianaPair(model)


class BoundDianaPair(BoundRobot):
    """Both arms in a compiled scene: J = 14 joint targets [rad], G = 2 gripper openings [m]."""

    def __init__(self, model: mujoco.MjModel) -> None:
        joints = [f"{side}_j{i + 1}" for side in SIDES for i in range(_JOINTS)]
        fingers = [f"{side}_finger{number}" for side in SIDES for number in (1, 2)]
        self.qpos = np.array([model.joint(name).qposadr[0] for name in joints + fingers])
        self.ctrl = np.array([model.actuator(name).id for name in joints + fingers])
        self.effectors = np.array([model.body(f"{side}_link7").id for side in SIDES])
        self.start_grippers = np.full(2, MAX_OPENING, np.float32)
        self.arms = control.arm_model(model)
        self._arm_qpos, self._finger_qpos = self.qpos[: len(joints)], self.qpos[len(joints) :].reshape(2, 2)

    @override
    def sample(self, key: jax.Array) -> jax.Array:
        jitter = seeds.uniform(key, (14,), -START_JITTER, START_JITTER)
        return jnp.tile(jnp.asarray(READY, jnp.float32), 2) + jitter

    @override
    def positions(self, joints: Array, grippers: Array) -> Array:
        return self.controls(joints, grippers)

    @override
    def controls(self, joints: Array, grippers: Array) -> Array:
        xp = array_module(joints)
        fingers = 0.5 * xp.repeat(grippers, 2, axis=1)
        return xp.concatenate([joints, fingers], axis=1)

    @override
    def targets(self, last: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return control.action_to_targets(self.arms, last, action)

    @override
    def read_state(self, qpos: Array) -> Array:
        xp = array_module(qpos)
        opening = qpos[:, self._finger_qpos].sum(axis=-1)
        state = xp.concatenate([qpos[:, self._arm_qpos].reshape(-1, 2, _JOINTS), opening[..., None]], axis=-1)
        return state.reshape(-1, 2 * (_JOINTS + 1))


DIANA_PAIR = DianaPair()

__all__ = ["DIANA_PAIR", "BoundDianaPair", "DianaPair"]
