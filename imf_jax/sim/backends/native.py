"""C MuJoCo on all cores: many scenes at once through `mujoco.batch`, the right backend on a CPU."""

from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import mujoco.batch
import numpy as np

from imf_jax.sim import control
from imf_jax.sim.backends.base import Array, SimState, StepOutput
from imf_jax.sim.blocks import in_blocks
from imf_jax.sim.scene import CAMERAS, PHYSICS_DT, READY, SUBSTEPS, Visual, build_scene
from imf_jax.sim.tasks import Reading, get_task

START_JITTER = 0.02
"""Half width of the uniform spread of the starting joint angles around the ready posture [rad]."""

_DIVERGED = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]


def _divergences(batch: mujoco.batch.Batch, count: int) -> np.ndarray:
    """How often each of the first `count` simulations has diverged so far, (count,)."""
    return batch.warning[:count, _DIVERGED, 1].sum(axis=1)


class NativeBackend:
    """Batched scenes of one task on C MuJoCo threads; see `imf_jax.sim.backends.base.Backend`."""

    name = "native"
    cameras: tuple[str, ...] = CAMERAS
    control_dt = PHYSICS_DT * SUBSTEPS

    def __init__(
        self, task: str, *, threads: int = 0, visual: Visual = "mesh", image_size: int = 256, render_batch: int = 8
    ) -> None:
        """Build the scene of a task.

        Args:
            task: name of the task.
            threads: worker threads, 0 for all cores.
            visual: look of the arms in pictures.
            image_size: height and width of pictures [pixels].
            render_batch: scenes rendered per call.
        """
        # `StepOutput.finite` reports a diverged scene; by default MuJoCo also logs to a file in the working folder.
        mujoco.set_mju_user_warning(lambda message: None)
        self.task = get_task(task)
        self.scene = build_scene(self.task.add_objects, visual)
        self.model = self.scene.model
        self.image_size = image_size
        self._threads = threads
        self._render_batch = render_batch
        self._arms = control.arm_model(self.scene)
        self._targets = jax.jit(self._targets_of_chunk)
        self._sample = jax.jit(jax.vmap(self._sample_scene))
        self._batch: mujoco.batch.Batch | None = None
        self._renderers: dict[tuple[str, ...], Any] = {}
        self._object_qpos = np.array([self.scene.index.object_qpos[name] for name in self.task.objects])
        self._touch = np.stack([self.scene.index.touch_sensor[name] for name in self.task.objects])

    def reset(self, keys: Array) -> tuple[SimState, StepOutput]:
        joints, objects = (np.asarray(part, np.float64) for part in self._sample_padded(keys))
        count = len(joints)
        batch = self._simulations(count)
        ids = np.arange(count)
        batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        index = self.scene.index
        batch.qpos[:count, index.arm_qpos] = joints
        batch.qpos[:count, index.finger_qpos.ravel()] = control.MAX_OPENING / 2
        for i, address in enumerate(self._object_qpos):
            batch.qpos[:count, address : address + 7] = objects[:, i]
        batch.ctrl[:count, index.arm_ctrl] = joints
        batch.ctrl[:count, index.finger_ctrl.ravel()] = control.MAX_OPENING / 2
        batch.forward(ids)
        state = SimState(
            physics=batch.state[:count].copy(),
            joint_target=joints.astype(np.float32),
            task=self.task.start(count, np),
            step=np.zeros(count, np.int32),
        )
        finite = np.ones(count, bool)
        state, output = self._judge(state, self._read(count), finite, np.zeros((count, 2), np.float32))
        return state, output

    def step(self, state: SimState, action: Array) -> tuple[SimState, StepOutput]:
        state, outputs = self.run_chunk(state, np.asarray(action)[:, None])
        return state, jax.tree.map(lambda leaf: leaf[:, 0], outputs)

    def run_chunk(self, state: SimState, actions: Array) -> tuple[SimState, StepOutput]:
        """Advance K control steps: `step` K times, with the inverse kinematics of the whole chunk in one call.

        Args:
            actions: float32 (B, K, 16).

        Returns:
            the state after the last step, and outputs with leading axes (B, K).
        """
        actions = np.asarray(actions, np.float32)
        count, length = actions.shape[:2]
        joints, openings, ik_error = self._targets_padded(state.joint_target, actions)
        batch = self._simulations(count)
        ids = np.arange(count)
        index = self.scene.index
        batch.state[:count] = state.physics
        outputs = []
        for k in range(length):
            before = batch.state[:count].copy()
            batch.ctrl[:count, index.arm_ctrl] = joints[:, k]
            batch.ctrl[:count, index.finger_ctrl.reshape(2, 2)] = 0.5 * openings[:, k, :, None]
            finite = self._advance(batch, ids, before)
            state = SimState(
                physics=batch.state[:count],
                joint_target=np.where(finite[:, None], joints[:, k], state.joint_target),
                task=state.task,
                step=state.step + 1,
            )
            state, output = self._judge(state, self._read(count), finite, ik_error[:, k])
            outputs.append(output)
        state = state._replace(physics=batch.state[:count].copy())
        return state, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *outputs)

    def images(self, state: SimState, cameras: tuple[str, ...]) -> np.ndarray:
        return self.renderer(cameras).render(self.qpos(state))

    def qpos(self, state: SimState) -> np.ndarray:
        """Generalised positions, float64 (B, nq)."""
        start = 1  # the state row begins with the time
        return np.asarray(state.physics)[:, start : start + self.model.nq]

    def renderer(self, cameras: tuple[str, ...], depth: bool = False) -> Any:
        """The Warp renderer of these cameras, built at first use (importing Warp takes seconds)."""
        from imf_jax.sim.rendering.warp_renderer import WarpRenderer

        key = (*cameras, "depth") if depth else cameras
        if key not in self._renderers:
            size = self.image_size
            self._renderers[key] = WarpRenderer(
                self.model, cameras, height=size, width=size, num_worlds=self._render_batch, depth=depth
            )
        return self._renderers[key]

    def _simulations(self, count: int) -> mujoco.batch.Batch:
        """The thread pool's simulations, at least `count` of them; what they hold between calls is meaningless."""
        if self._batch is None or self._batch.nsim < count:
            self._batch = mujoco.batch.Batch(self.model, count, self._threads)
            self._batch.bind("xpos")
            self._batch.bind("xquat")
            self._batch.bind("sensordata")
        return self._batch

    def _advance(self, batch: mujoco.batch.Batch, ids: np.ndarray, before: np.ndarray) -> np.ndarray:
        """One control step of physics; scenes that fail or diverge go back to `before`. Returns finite (B,)."""
        warned = _divergences(batch, len(ids))
        try:
            batch.step(ids, nstep=SUBSTEPS, stage=mujoco.mjtStage.mjSTAGE_POS)
            failed = np.zeros(len(ids), bool)
        except mujoco.batch.SimulationError as error:
            failed = np.isin(ids, error.ids)
        rows = batch.state[: len(ids)]
        # MuJoCo restarts a scene that diverges and only a warning counter tells.
        failed |= _divergences(batch, len(ids)) > warned
        finite = np.isfinite(rows).all(axis=1) & ~failed
        if not finite.all():
            broken = ids[~finite]
            rows[broken] = before[broken]
            batch.forward(broken)
        return finite

    def _read(self, count: int) -> tuple[np.ndarray, Reading, np.ndarray]:
        """Robot state (B, 16), what the task sees, and the poses of link7 (B, 2, 7), from the last call."""
        batch = self._simulations(count)
        index = self.scene.index
        qpos = batch.qpos[:count].astype(np.float32)
        opening = qpos[:, index.finger_qpos].sum(axis=-1)
        robot = np.concatenate([qpos[:, index.arm_qpos].reshape(count, 2, 7), opening[..., None]], axis=-1)
        objects = qpos[:, self._object_qpos[:, None] + np.arange(7)]
        touch = (batch.sensordata[:count][:, self._touch] > 0).any(axis=-1)
        hands = np.concatenate(
            [batch.xpos[:count, index.link7_body], batch.xquat[:count, index.link7_body]], axis=-1
        ).astype(np.float32)
        return robot.reshape(count, 16), Reading(objects, touch, opening), hands

    def _judge(
        self,
        state: SimState,
        read: tuple[np.ndarray, Reading, np.ndarray],
        finite: np.ndarray,
        ik_error: np.ndarray,
    ) -> tuple[SimState, StepOutput]:
        robot, reading, hands = read
        progress, verdict = self.task.evaluate(state.task, reading)
        output = StepOutput(
            state=robot,
            env_state=np.asarray(self.task.env_state(reading)),
            end_effector=hands,
            reward=np.asarray(verdict.reward),
            stage=np.asarray(verdict.stage),
            success=np.asarray(verdict.success),
            failure=np.asarray(verdict.failure),
            finite=finite,
            ik_error=ik_error,
        )
        return state._replace(task=progress), output

    def _sample_scene(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        arms, objects = jax.random.split(key)
        jitter = jax.random.uniform(arms, (14,), jnp.float32, -START_JITTER, START_JITTER)
        return jnp.tile(jnp.asarray(READY, jnp.float32), 2) + jitter, self.task.sample(objects)

    def _sample_padded(self, keys: Array) -> tuple[np.ndarray, np.ndarray]:
        keys = jnp.asarray(keys)
        if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
            keys = jax.random.wrap_key_data(keys)
        return in_blocks(self._sample, keys)

    def _targets_padded(self, joint_target: Array, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        joint_target = np.asarray(joint_target, np.float32)
        return in_blocks(lambda q, a: self._targets(self._arms, q, a), joint_target, actions)

    @staticmethod
    def _targets_of_chunk(
        arms: control.ArmModel, joint_target: jax.Array, actions: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Joint targets (B, K, 14), openings (B, K, 2) and clamped distances (B, K, 2) of a chunk of actions."""

        def one(joints: jax.Array, action: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
            targets = control.action_to_targets(arms, joints, action)
            return targets[0], targets

        _, targets = jax.lax.scan(one, joint_target, jnp.swapaxes(actions, 0, 1))
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), targets)
