"""Many scenes of a task as one vector environment of Gymnasium: one batched simulation, whatever the backend.

Scenes are those of `eval.py`: `reset(seed=n)` begins episode n + i of `scene_seed` in sub-environment i. After that a
sub-environment draws its episodes from a generator with that seed, so that a run is determined by its first seeds, and
no sub-environment depends on another.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from imf_jax.config import BackendName, RendererName, VisualName, require
from imf_jax.envs.spaces import ObsType, observation_space, parts_space
from imf_jax.errors import ArgumentError
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.backends.choice import make_backend, resolve_backend
from imf_jax.sim.batching import keep_rows
from imf_jax.sim.robots import Visual
from imf_jax.sim.tasks import Task, get_task

EPISODES = 1 << 32
"""Episodes of a seed: 0 .. EPISODES - 1."""


class SceneVectorEnv(VectorEnv[Any, Any, Any]):
    """B scenes of a task. An action is a command of the robot, see its `RobotSpaces`; a step is a control step.

    An episode is terminated when the task is done or cannot be done any more, or the physics diverged, and truncated
    after `max_episode_steps`. Rewards are those of the task. `info` has `is_success` bool (B,), `stage` int32 (B,),
    `episode` int64 (B,), `ik_error` float32 (B, E) [m]; with `AutoresetMode.SAME_STEP` also `final_obs` and
    `final_info`.

    Args:
        num_envs: scenes B.
        task: the task, or its name on command lines.
        obs_type: what is observed, see `imf_jax.envs.spaces`.
        cameras: those whose pictures are observed; by default the picture camera of the task where pictures are.
        image_size: height and width of all pictures [pixels].
        scene_seed: seed of the scenes, as `--seed` of eval.py.
        max_episode_steps: control steps of an episode; by default those of the task.
        autoreset_mode: when a scene that has ended begins anew.
        render_mode: "rgb_array", or None.
        backend: what simulates; auto: warp on CUDA, else native.
        renderer: what makes the pictures: the Warp ray tracer, or OpenGL where a machine has it.
        visual: look of the robot in them.

    Raises:
        ArgumentError: something is not known, or does not go with the rest.
        UserError: the backend cannot run here, or assets are missing.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium reads that of the class, and declares it for instances)
        "render_modes": ["rgb_array"],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str | Task,
        obs_type: ObsType = "state",
        cameras: Sequence[str] | None = None,
        image_size: int = 256,
        scene_seed: int = 0,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        backend: BackendName = "auto",
        renderer: RendererName = "warp",
        visual: Visual | VisualName = "mesh",
    ) -> None:
        require(num_envs >= 1, f"num_envs {num_envs} must be at least 1")
        require(
            render_mode in (None, "rgb_array"), f"render_mode {render_mode!r} is not known; choose rgb_array or None"
        )
        self._task = get_task(task) if isinstance(task, str) else task
        self.max_episode_steps = self._task.max_steps if max_episode_steps is None else max_episode_steps
        require(self.max_episode_steps >= 1, f"max_episode_steps {max_episode_steps} must be at least 1")
        if cameras is None:
            cameras = () if obs_type == "state" else (self._task.picture_camera,)
        self.cameras = tuple(cameras)
        self.num_envs, self.render_mode, self.scene_seed = num_envs, render_mode, scene_seed
        spaces = observation_space(self._task, obs_type, self.cameras, image_size)
        self.single_observation_space, self._observed = spaces, tuple(spaces)
        self.single_action_space = parts_space(self._task.robot.spaces.action)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = self.metadata | {
            "autoreset_mode": self.autoreset_mode,
            "render_fps": round(1 / self._task.control_dt),
        }
        self.backend = make_backend(
            resolve_backend(backend), self._task, image_size=image_size, renderer=renderer, visual=visual
        )
        self._draws = [np.random.default_rng() for _ in range(num_envs)]
        self._episodes = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)
        self._scenes: tuple[SimState, StepOutput] | None = None

    @property
    def task(self) -> str:
        """Name of the task."""
        return self._task.name

    @property
    def task_description(self) -> str:
        """What is to be done, in words, for policies that read them."""
        return self._task.name.replace("-", " ")

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: episode of the first scene, of which the others have the following ones; or one for each, where None
                draws it.
            options: `reset_mask`, bool (B,), the scenes that begin anew; by default all.

        Raises:
            ArgumentError: a seed is no episode, or the mask does not fit.
        """
        mask = _reset_mask(options, self.num_envs)
        if not mask.all() and self._scenes is None:
            raise ArgumentError("reset_mask leaves out scenes that have never begun; reset all of them first")
        seeds = _seeds(seed, self.num_envs)
        require(len(seeds) == self.num_envs, f"seed has {len(seeds)} entries for {self.num_envs} environments")
        for i in np.flatnonzero(mask).tolist():
            number = seeds[i]
            if number is not None:
                require(0 <= number < EPISODES, f"seed {number} must be in [0, 2^32): it is the number of an episode")
                self._draws[i] = np.random.default_rng(number)
            self._episodes[i] = self._draw(i) if number is None else number
        self._begin(mask)
        return self._observe(), self._info(mask)

    def step(self, actions: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance all scenes by a control step; see the class.

        Args:
            actions: float (B, A).

        Returns:
            observations, rewards float64 (B,), terminations and truncations bool (B,), info.

        Raises:
            ArgumentError: actions of another shape, or not finite.
            gymnasium.error.ResetNeeded: no episode has begun, or without autoreset one has ended.
        """
        if self._scenes is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        actions = np.asarray(actions, np.float32)
        shape = self.num_envs, self._task.robot.spaces.action_dim
        require(actions.shape == shape, f"actions have shape {actions.shape}, expected {shape}")
        again = self._ended
        if self.autoreset_mode is AutoresetMode.DISABLED and again.any():
            which = ", ".join(map(str, np.flatnonzero(again)))
            raise gymnasium.error.ResetNeeded(f"the episodes of the environments {which} have ended; reset them first")
        finite = np.isfinite(actions).all(axis=1) | again
        require(bool(finite.all()), f"the action of environment {int(np.argmin(finite))} is not finite")
        actions = np.where(again[:, None], 0.0, actions)  # such a scene begins anew: whatever it does is dropped
        state, output = self.backend.step(self._scenes[0], _usable(actions, again, self._task))
        self._scenes = state, jax.tree.map(np.asarray, output)
        reward, terminated, truncated = self._outcome()
        if again.any():  # AutoresetMode.NEXT_STEP
            self._next_episodes(again)
            reward, terminated, truncated = (np.where(again, 0, values) for values in (reward, terminated, truncated))
        terminated, truncated = terminated.astype(bool), truncated.astype(bool)
        ended = terminated | truncated
        info: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            final = self._observe()
            rows = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(ended):
                rows[i] = jax.tree.map(lambda leaf, i=i: leaf[i], final)
            info = {"final_obs": rows, "final_info": self._info(ended), "_final_obs": ended, "_final_info": ended}
            self._next_episodes(ended)
        else:
            self._ended = ended
        return self._observe(), reward, terminated, truncated, info | self._info(np.ones(self.num_envs, bool))

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Picture of each scene by the picture camera of the task, uint8 (H, W, 3); None without a render mode."""
        if self.render_mode is None:
            return None
        if self._scenes is None:
            raise gymnasium.error.ResetNeeded("call reset before render")
        return tuple(self.backend.render(self._scenes[1].qpos, (self._task.picture_camera,))[:, 0])

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Result of a method of each sub-environment, or its attribute: what `AsyncVectorEnv` has, and LeRobot asks."""
        if name == "render":
            return self.render() or (None,) * self.num_envs
        value = self.max_episode_steps if name == "_max_episode_steps" else getattr(self, name)
        return (value(*args, **kwargs) if callable(value) else value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of each sub-environment."""
        return self.call(name)

    def _draw(self, i: int) -> int:
        return int(self._draws[i].integers(EPISODES))

    def _next_episodes(self, mask: np.ndarray) -> None:
        for i in np.flatnonzero(mask).tolist():
            self._episodes[i] = self._draw(i)
        self._begin(mask)

    def _begin(self, mask: np.ndarray) -> None:
        """Begin the episodes of the scenes of `mask`, bool (B,), and leave the others as they are."""
        keys = scene_keys(self.scene_seed, self._episodes.astype(np.uint32))
        if self._scenes is None or mask.all():
            state, output = self.backend.reset(keys)
            self._scenes = state, jax.tree.map(np.asarray, output)
        elif self.backend.compiled:  # all begin, so that nothing is compiled for another number of scenes
            state, output = self.backend.reset(keys)
            self._scenes = (
                keep_rows(jnp.asarray(mask), state, self._scenes[0]),
                _put_rows(self._scenes[1], mask, output, mask),
            )
        else:
            begun = self.backend.reset(keys[np.flatnonzero(mask)])
            self._scenes = _put_rows(self._scenes, mask, begun, slice(None))
        self._ended = self._ended & ~mask

    def _observe(self) -> dict[str, Any]:
        assert self._scenes is not None
        output = self._scenes[1]
        observation: dict[str, Any] = {}
        for name in self._observed:
            if name == "pixels":
                pictures = self.backend.render(output.qpos, self.cameras)
                observation[name] = {camera: pictures[:, i].copy() for i, camera in enumerate(self.cameras)}
            else:
                values = output.state if name == "agent_pos" else output.env_state
                observation[name] = np.array(values, np.float32)
        return observation

    def _outcome(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self._scenes is not None
        state, output = self._scenes
        terminated = np.asarray(output.success | output.failure | ~output.finite)
        truncated = (np.asarray(state.step) >= self.max_episode_steps) & ~terminated
        return np.asarray(output.reward, np.float64), terminated, truncated

    def _info(self, mask: np.ndarray) -> dict[str, Any]:
        """Information about the scenes of `mask`, bool (B,), as Gymnasium joins that of sub-environments."""
        assert self._scenes is not None
        output = self._scenes[1]
        values = {
            "is_success": output.success,
            "stage": output.stage,
            "ik_error": output.ik_error,
            "episode": self._episodes,
        }
        info: dict[str, Any] = {}
        for name, leaf in values.items():
            info[name] = np.where(mask.reshape(-1, *([1] * (leaf.ndim - 1))), leaf, np.zeros_like(leaf))
            info[f"_{name}"] = mask.copy()
        return info


def _seeds(seed: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    """The seed of each of the environments, as Gymnasium reads one number for all of them."""
    if seed is None:
        return [None] * count
    return [int(seed) + i for i in range(count)] if isinstance(seed, int | np.integer) else list(seed)


def _reset_mask(options: dict[str, Any] | None, count: int) -> np.ndarray:
    if not options or "reset_mask" not in options:
        return np.ones(count, bool)
    mask = options["reset_mask"]
    fits = isinstance(mask, np.ndarray) and mask.shape == (count,) and mask.dtype == bool
    require(fits and mask.any(), f"reset_mask must be a bool array of shape ({count},) with at least one True")
    return mask.copy()


def _usable(actions: np.ndarray, again: np.ndarray, task: Task) -> np.ndarray:
    """Actions in which those of scenes that begin anew have quaternions of no rotation."""
    for place in task.robot.spaces.quaternions:
        actions[again, place.start] = 1.0
    return actions


def _put_rows(old: Any, mask: np.ndarray, new: Any, rows: Any) -> Any:
    """Copy of the pytree `old` with `rows` of `new` where `mask` is true."""

    def put(a: Any, b: Any) -> np.ndarray:
        copy = np.array(a)
        copy[mask] = np.asarray(b)[rows]
        return copy

    return jax.tree.map(put, old, new)
