"""The baseline: one scene at a time on plain C MuJoCo, as systems without batched simulation work.

Every control step: a picture of every camera if the policy sees, inverse kinematics of one action, `mj_step` for each
physics step, reading and result. Every `num_action_steps` control steps: one call of the policy with one row. Scene,
inverse kinematics, servo commands, policy and renderer are those of the batched loop; only the order of the work and
the batch size differ. Inverse kinematics stays on the CPU also where the policy runs on a GPU.
"""

import time
from collections import deque
from typing import Any

import jax
import numpy as np

from imf_jax.benchmark.components import SEED
from imf_jax.config import PictureStyle, RendererName
from imf_jax.errors import UserError
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.seeds import scene_keys
from imf_jax.sim import mujoco
from imf_jax.sim.backends.task_scene import TaskScene


class SequentialSystem:
    """One scene on C MuJoCo and one policy.

    Args:
        task: name of the task.
        planner: what plans; it must plan one row at a time.
        style: how pictures are drawn.

    Raises:
        UserError: JAX is configured not to use the CPU.
    """

    def __init__(self, task: str, planner: PolicyPlanner, *, style: PictureStyle | None = None) -> None:
        assert planner.rows == 1
        self._planner = planner
        self._host = _cpu()
        style = style or PictureStyle()
        with jax.default_device(self._host):
            self._parts = TaskScene(task, style.visual, planner.image_size, style.renderer)
        self._sample = jax.jit(self._parts.sample)
        self._targets = jax.jit(self._parts.targets)
        self._data = mujoco.MjData(self._parts.model)
        self._camera = self._make_camera(style.renderer) if planner.cameras else None

    def run(self, episode: int, steps: int) -> tuple[float, np.ndarray]:
        """Run an episode for `steps` control steps; time [s] without the reset, and where it led, float64 (nq,)."""
        parts, planner, data = self._parts, self._planner, self._data
        joints = self._reset(episode)
        progress = parts.task.start(1, np)
        history: dict[str, deque[np.ndarray]] = {
            name: deque(maxlen=planner.obs_horizon) for name in ("state", "env_state", "images")
        }
        actions = np.zeros((0, 1, parts.task.robot.spaces.action_dim), np.float32)
        start = time.perf_counter()
        for step in range(steps):
            qpos = data.qpos.astype(np.float32)[None]
            robot, observation = parts.read(qpos, data.sensordata[None])
            progress, _ = parts.task.evaluate(progress, observation)
            bodies = parts.robot.effectors
            hands = np.concatenate([data.xpos[bodies], data.xquat[bodies]], axis=-1).astype(np.float32)[None]
            seen = {"state": np.asarray(robot), "env_state": np.asarray(parts.task.env_state(observation, hands))}
            if self._camera is not None:
                seen["images"] = self._camera.render(qpos)
            for name, value in seen.items():
                history[name].extend([value] * (1 if history[name] else planner.obs_horizon))
            if step % planner.num_action_steps == 0:
                actions = self._plan(history, episode, step // planner.num_action_steps)
            action = actions[step % planner.num_action_steps]
            with jax.default_device(self._host):
                targets, grippers, _ = self._targets(joints, action[None, None])
            joints = np.asarray(targets)[:, 0]
            data.ctrl[:] = parts.controls(joints, np.asarray(grippers)[:, 0])[0]
            for _ in range(parts.task.substeps):
                mujoco.mj_step(parts.model, data)
        return time.perf_counter() - start, data.qpos.copy()

    def _make_camera(self, renderer: RendererName) -> Any:
        """A renderer of single scenes."""
        cameras, size = self._planner.cameras, self._planner.image_size
        if renderer == "warp":
            from imf_jax.sim.rendering.warp_renderer import WarpRenderer

            return WarpRenderer(self._parts.model, cameras, size, size, num_worlds=1)
        return self._parts.renderer(cameras)

    def _reset(self, episode: int) -> np.ndarray:
        """Put the scene where the episode begins; joint targets (1, J)."""
        parts, data = self._parts, self._data
        joints, objects = (np.asarray(value)[None] for value in self._sample(scene_keys(SEED, [episode])[0]))
        mujoco.mj_resetData(parts.model, data)
        data.qpos[:] = parts.start_qpos(joints, objects)[0]
        data.ctrl[:] = parts.controls(joints, parts.start_grippers(joints))[0]
        mujoco.mj_forward(parts.model, data)
        return joints

    def _plan(self, history: dict[str, deque[np.ndarray]], episode: int, replan: int) -> np.ndarray:
        """The next actions (K, A)."""
        observations = {name: np.stack(values, axis=1) for name, values in history.items() if values}
        unread = None  # a policy plans from its observations alone
        return self._planner.plan(observations, unread, SEED, np.array([episode]), np.array([replan]))[0]  # type: ignore[arg-type]


def _cpu() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        raise UserError("the baseline needs the CPU beside the GPU; unset JAX_PLATFORMS, or add cpu to it") from None
