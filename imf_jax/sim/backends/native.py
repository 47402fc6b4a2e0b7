"""C MuJoCo on all cores: many scenes at once through `mujoco.batch`, the right backend on a CPU."""

from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import mujoco
import mujoco.batch
import numpy as np

from imf_jax import seeds
from imf_jax.config import RendererName, VisualName
from imf_jax.sim.arrays import Array
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.backends.task_scene import TaskScene, require_interpolation
from imf_jax.sim.batching import in_blocks
from imf_jax.sim.perturbations.base import SceneChanges, scaled
from imf_jax.sim.robots import Visual
from imf_jax.sim.tasks import Task

_DIVERGED = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]
_OVERFLOW = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_CONTACTFULL,
        mujoco.mjtWarning.mjWARN_CNSTRFULL,
    )
]


class NativeBackend:
    """Batched scenes of one task on C MuJoCo threads; see `imf_jax.sim.backends.base.Backend`."""

    name = "native"
    compiled = False

    def __init__(
        self,
        task: str | Task,
        *,
        threads: int = 0,
        visual: Visual | VisualName = "mesh",
        image_size: int = 256,
        renderer: RendererName = "warp",
        interpolation: int = 1,
        perturb: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Build the scene of a task.

        Args:
            task: the task, or its name.
            threads: worker threads, 0 for all cores.
            visual: look of the robot in pictures, see `TaskScene`.
            image_size: height and width of pictures [pixels].
            renderer: what makes the pictures.
            interpolation: servo commands per control step, see `TaskScene.commands`.
            perturb: perturbations of the scenes, see `TaskScene`.
        """
        # `StepOutput.finite` reports a diverged scene; by default MuJoCo also logs to a file in the working folder.
        mujoco.set_mju_user_warning(lambda message: None)
        self._parts = TaskScene(task, visual, image_size, renderer, perturb)
        self.task, self.model = self._parts.task, self._parts.model
        self.cameras, self.control_dt = self.task.cameras, self.task.control_dt
        self.renderer, self.visual, self.image_size, self.interpolation = renderer, visual, image_size, interpolation
        require_interpolation(self.task, interpolation)
        self._threads, self._effectors = threads, self._parts.robot.effectors
        # Beside C MuJoCo the small programs belong on the CPU too, also where JAX's default device is a GPU.
        self._device = _cpu()
        self._targets = jax.jit(self._parts.targets)
        self._sample = jax.jit(jax.vmap(lambda key: self._parts.sample_perturbed(seeds.typed_keys(key))))
        self._batch: mujoco.batch.Batch | None = None

    def reset(self, keys: Array) -> tuple[SimState, StepOutput]:
        """Start B scenes; see `Backend`."""
        with jax.default_device(self._device):
            joints, objects, changes = in_blocks(self._sample, _key_data(keys))
        count = len(joints)
        batch = self._simulations(count, changes)
        ids = np.arange(count)
        batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        batch.qpos[:count] = self._parts.start_qpos(joints, objects)
        batch.ctrl[:count] = self._parts.controls(joints, self._parts.start_grippers(joints))
        batch.forward(ids)
        state = SimState(
            physics=batch.state[:count].copy(),
            joint_target=joints,
            task=self.task.start(count, np),
            step=np.zeros(count, np.int32),
            changes=changes,
        )
        return self._conclude(
            state,
            batch,
            np.ones(count, bool),
            np.zeros(count, bool),
            np.zeros((count, len(self._effectors)), np.float32),
        )

    def step(self, state: SimState, action: Array) -> tuple[SimState, StepOutput]:
        """Advance one control step; see `Backend`."""
        state, outputs = self.run_chunk(state, np.asarray(action)[:, None])
        return state, jax.tree.map(lambda leaf: leaf[:, 0], outputs)

    def run_chunk(self, state: SimState, actions: Array) -> tuple[SimState, StepOutput]:
        """Advance K control steps: `step` K times, with the inverse kinematics of the whole chunk in one call.

        Args:
            state: of B scenes.
            actions: float32 (B, K, A).

        Returns:
            the state after the last step, and outputs with leading axes (B, K).
        """
        actions = np.asarray(actions, np.float32)
        count, length = actions.shape[:2]
        with jax.default_device(self._device):
            joints, grippers, ik_error = in_blocks(self._targets, np.asarray(state.joint_target, np.float32), actions)
        batch = self._simulations(count, state.changes)
        ids = np.arange(count)
        batch.state[:count] = state.physics
        outputs = []
        for k in range(length):
            before = batch.state[:count].copy()
            if state.changes and state.changes.kick:
                kicked = np.flatnonzero(state.step == state.changes.kick.step)
                batch.qvel[kicked] += state.changes.kick.velocity[kicked]
            commands = self._parts.commands(state.joint_target, joints[:, k], grippers[:, k], self.interpolation)
            finite, overflow = self._advance(batch, ids, before, commands)
            state = state._replace(
                physics=batch.state[:count],
                joint_target=np.where(finite[:, None], joints[:, k], state.joint_target),
                step=state.step + 1,
            )
            state, output = self._conclude(state, batch, finite, overflow, ik_error[:, k])
            outputs.append(output)
        state = state._replace(physics=batch.state[:count].copy())
        return state, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *outputs)

    def render(self, qpos: Array, cameras: tuple[str, ...]) -> np.ndarray:
        """Pictures of scenes at `qpos`; see `Backend`."""
        return self._parts.renderer(cameras).render(np.asarray(qpos))

    def bytes_per_scene(self, cameras: tuple[str, ...]) -> int:
        """About how much memory [bytes] one more scene needs: its state, before and after, and its pictures."""
        state = 8 * mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION)
        return 16 * state + 2 * len(cameras) * 3 * self.image_size**2

    def _simulations(self, count: int, changes: SceneChanges | tuple[()]) -> mujoco.batch.Batch:
        """The thread pool's simulations, at least `count` of them, with the models of these scenes.

        What they hold between calls is meaningless.
        """
        if self._batch is None or self._batch.nsim < count:
            self._batch = mujoco.batch.Batch(self.model, count, self._threads)
            self._batch.bind("xpos")
            self._batch.bind("xquat")
            self._batch.bind("sensordata")
        for name, factors in changes.factors.items() if changes else ():
            nominal = getattr(self.model, name)
            if nominal.size:
                field = self._batch.expand(name)
                field[:count] = scaled(nominal[: field.shape[1]], factors)
        return self._batch

    def _advance(
        self, batch: mujoco.batch.Batch, ids: np.ndarray, before: np.ndarray, commands: list[Array]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One control step of physics; scenes that fail or diverge go back to `before`. Returns finite, overflow."""
        warned = batch.warning[: len(ids), :, 1].copy()
        failed = np.zeros(len(ids), bool)
        for ctrl in commands:
            batch.ctrl[: len(ids)] = ctrl
            try:
                batch.step(ids, nstep=self.task.substeps // len(commands), stage=mujoco.mjtStage.mjSTAGE_POS)
            except mujoco.batch.SimulationError as error:
                failed |= np.isin(ids, error.ids)
        rows = batch.state[: len(ids)]
        # MuJoCo restarts a scene that diverges and only a warning counter tells.
        newly = batch.warning[: len(ids), :, 1] > warned
        failed |= newly[:, _DIVERGED].any(axis=1)
        overflow = newly[:, _OVERFLOW].any(axis=1)
        finite = np.isfinite(rows).all(axis=1) & ~failed
        if not finite.all():
            broken = ids[~finite]
            rows[broken] = before[broken]
            batch.forward(broken)
        return finite, overflow

    def _conclude(
        self,
        state: SimState,
        batch: mujoco.batch.Batch,
        finite: np.ndarray,
        overflow: np.ndarray,
        ik_error: np.ndarray,
    ) -> tuple[SimState, StepOutput]:
        """Read the scenes after a call and let the task evaluate them."""
        count, bodies = len(finite), self._effectors
        hands = np.concatenate([batch.xpos[:count, bodies], batch.xquat[:count, bodies]], axis=-1).astype(np.float32)
        qpos = batch.qpos[:count].astype(np.float32)
        robot, observation = self._parts.read(qpos, batch.sensordata[:count])
        return self._parts.evaluate(
            state, robot, observation, hands=hands, finite=finite, ik_error=ik_error, qpos=qpos, overflow=overflow
        )


def _cpu() -> jax.Device | None:
    """JAX's CPU; None where JAX is configured to use an accelerator only."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _key_data(keys: Array) -> np.ndarray:
    """Typed keys (B,) or key data (B, 2) as key data, uint32."""
    typed = isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    return np.asarray(seeds.key_data(keys) if typed else keys)
