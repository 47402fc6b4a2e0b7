"""Collect demonstrations: the scripted expert drives many scenes at once; successful episodes become files.

What is executed is the expert's command plus smooth noise; what is recorded as `action` is the command without it. The
expert acts on the disturbed scene, so the demonstrations show how to come back (as in DART, Laskey et al. 2017).
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.config import ACTION_DIM, STATE_DIM, CollectConfig, to_dict
from imf_jax.data.episodes import Episode, collected_episodes, write_episodes
from imf_jax.data.statistics import write_statistics
from imf_jax.errors import UserError, one_line
from imf_jax.files import read_failure, write_json
from imf_jax.memory import free_main_memory
from imf_jax.seeds import disturbance_keys, scene_keys, split_seed
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.batching import in_blocks
from imf_jax.sim.experts.transfer import Expert, ExpertState, get_expert
from imf_jax.sim.rendering.camera import camera_ids

NOISE_MEMORY = 0.93
"""Correlation of the noise from one control step to the next: it wanders with a time constant of about 0.3 s."""

SUMMARY_FILE = "collection.json"

PICTURE_SHARE = 0.4
"""Share of the free memory for the pictures of running scenes; each is held twice when its episode is written."""


class Disturbance(NamedTuple):
    """The noise process of B scenes: key (B,), scale (B, 2, 4) and value (B, 2, 4) of position [m] and yaw [rad]."""

    key: jax.Array
    scale: jax.Array
    value: jax.Array


@dataclass(frozen=True)
class CollectionSummary:
    """What a collection did: scenes tried, scenes in which the expert succeeded, control steps, wall time [s]."""

    attempted: int
    succeeded: int
    recorded: int
    control_steps: int
    wall_s: float


class Demonstrator:
    """Runs the expert of a task in batches of scenes."""

    def __init__(self, config: CollectConfig, backend: NativeBackend) -> None:
        self.config = config
        self.backend = backend
        self._start = jax.jit(lambda output, keys: start(get_expert(config.task), output, keys, config))
        self._act = jax.jit(lambda *state: act(get_expert(config.task), *state))

    def run(self, seed: int, episodes: np.ndarray, on_step: Callable[[int], None]) -> list[Episode]:
        """Demonstrate the scenes (seed, episode) at once, until each succeeds, fails or times out.

        Args:
            seed: seed of a split (see `split_seed`).
            episodes: (B,) episode indices.
            on_step: called after every control step with the number of scenes that are finished.

        Returns:
            the B episodes, successful or not.
        """
        count, limit = len(episodes), self.backend.task.max_steps
        state, output = self.backend.reset(scene_keys(seed, episodes))
        keys = np.asarray(jax.random.key_data(disturbance_keys(seed, episodes)))
        expert_state, disturbance = in_blocks(self._start, output, keys)
        widths = {"action": ACTION_DIM, "qpos": STATE_DIM, "env_state": output.env_state.shape[1], "noise": ACTION_DIM}
        columns = {name: np.zeros((count, limit, width), np.float32) for name, width in widths.items()}
        rewards = np.zeros((count, limit), np.float32)
        pictures: list[list[np.ndarray]] = [[] for _ in range(count)]
        length = np.full(count, limit)
        success = np.zeros(count, bool)
        running = np.arange(count)
        for step in range(limit):
            if self.config.cameras:
                for row, picture in zip(running, self.backend.render(output.qpos, self.config.cameras), strict=True):
                    pictures[row].append(picture)
            expert_state, disturbance, action, executed = in_blocks(self._act, expert_state, disturbance, output)
            now = {"qpos": output.state, "env_state": output.env_state, "action": action, "noise": executed - action}
            for name, values in now.items():
                columns[name][running, step] = values
            state, output = self.backend.step(state, executed)
            rewards[running, step] = output.reward
            ended = output.success | output.failure | ~output.finite
            if ended.any():
                success[running] = output.success & output.finite
                length[running[ended]] = step + 1
                running = running[~ended]
                state, output, expert_state, disturbance = jax.tree.map(
                    lambda leaf, keep=~ended: leaf[keep], (state, output, expert_state, disturbance)
                )
            on_step(count - len(running))
            if not len(running):
                break
        return [
            Episode(
                **{name: array[i, : length[i]] for name, array in columns.items()},
                reward=rewards[i, : length[i]],
                seed=seed,
                episode=int(episode),
                task=self.config.task,
                control_hz=1.0 / self.backend.control_dt,
                success=bool(success[i]),
                images={camera: np.stack([p[k] for p in pictures[i]]) for k, camera in enumerate(self.config.cameras)},
            )
            for i, episode in enumerate(episodes)
        ]


def start(
    expert: Expert, output: StepOutput, keys: jax.Array, config: CollectConfig
) -> tuple[ExpertState, Disturbance]:
    """Expert and noise of fresh scenes; `keys` is key data, uint32 (B, 2). Each draws its share of noise."""

    def strength(key: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.wrap_key_data(key), dtype=jnp.float32)

    limits = jnp.array([config.position_noise] * 3 + [config.yaw_noise], jnp.float32)
    scale = jax.vmap(strength)(keys)[:, None, None] * jnp.broadcast_to(limits, (keys.shape[0], 2, 4))
    return expert.start(output), Disturbance(keys, scale, jnp.zeros_like(scale))


def act(
    expert: Expert, expert_state: ExpertState, disturbance: Disturbance, output: StepOutput
) -> tuple[ExpertState, Disturbance, jax.Array, jax.Array]:
    """One control step: the expert's memory, the noise process, the expert's action and the disturbed one (B, 16)."""
    expert_state, action = expert.act(expert_state, output)

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        after, now = jax.random.split(jax.random.wrap_key_data(key))
        return jax.random.key_data(after), jax.random.normal(now, (2, 4), jnp.float32)

    keys, normal = jax.vmap(draw)(disturbance.key)
    fresh = jnp.sqrt(1 - NOISE_MEMORY**2)
    value = NOISE_MEMORY * disturbance.value + fresh * disturbance.scale * normal
    arms = action.reshape(-1, 2, 8)
    half = 0.5 * value[..., 3]
    cos, sin = jnp.cos(half), jnp.sin(half)
    w, z = arms[..., 3], arms[..., 6]  # the expert's hands only turn about z
    disturbed = arms.at[..., :3].add(value[..., :3]).at[..., 3].set(cos * w - sin * z).at[..., 6].set(sin * w + cos * z)
    return expert_state, disturbance._replace(key=keys, value=value), action, disturbed.reshape(-1, ACTION_DIM)


def batches(wanted: int, num_envs: int, known: set[int]) -> Iterator[np.ndarray]:
    """Endless batches of episode indices from 0 that are not known yet; the caller stops when it has enough."""
    episode = 0
    while True:
        batch: list[int] = []
        while len(batch) < min(num_envs, max(wanted, 1)):
            if episode not in known:
                batch.append(episode)
            episode += 1
        yield np.array(batch)


def scenes_at_once(config: CollectConfig, max_steps: int, free: int | None) -> int:
    """`config.num_envs`, or fewer where the pictures of so many running scenes would not fit in memory.

    Args:
        config: of the collection.
        max_steps: control steps that an episode can take.
        free: free memory [bytes]; None if unknown.
    """
    if not config.cameras or free is None:
        return config.num_envs
    of_scene = max_steps * len(config.cameras) * config.image_size**2 * 3
    return max(1, min(config.num_envs, int(PICTURE_SHARE * free / of_scene)))


def collect(config: CollectConfig, report: Callable[[int, str], None]) -> CollectionSummary:
    """Record demonstrations until `config.episodes` successful ones are in the folder, then write their statistics.

    Args:
        report: called with the number of recorded demonstrations and a line about the running batch.

    Raises:
        UserError: the folder holds demonstrations of another task, seed or noise, or the expert hardly ever succeeds.
    """
    folder = Path(config.out)
    backend = NativeBackend(config.task, image_size=config.image_size, renderer=config.renderer)
    if config.cameras:
        camera_ids(backend.model, config.cameras)  # refuses an unknown camera before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder} ({error.strerror}); choose another --out") from error
    seed = split_seed("demonstration", config.seed)
    known, damaged = collected_episodes(folder, task=config.task, seed=seed)
    _check_same_collection(folder, config, bool(known))
    for line in damaged:
        report(len(known), f"recording again: {line}")
    demonstrator = Demonstrator(config, backend)
    began, attempted, succeeded, steps, recorded = time.perf_counter(), 0, 0, 0, len(known)
    if recorded < config.episodes:
        num_envs = scenes_at_once(config, backend.task.max_steps, free_main_memory())
        for batch in batches(config.episodes, num_envs, known):
            episodes = demonstrator.run(seed, batch, partial(_report_batch, report, recorded))
            good = [episode for episode in episodes if episode.success]
            attempted += len(episodes)
            succeeded += len(good)
            steps += sum(len(episode) for episode in episodes)
            recorded += len(write_episodes(folder, good[: config.episodes - recorded]))
            report(recorded, "")
            if recorded >= config.episodes:
                break
            if attempted >= 200 and succeeded < 0.2 * attempted:
                raise UserError(f"the expert succeeded in {succeeded} of {attempted} scenes; lower --position-noise")
    write_statistics(folder)
    return CollectionSummary(attempted, succeeded, recorded, steps, time.perf_counter() - began)


def _report_batch(report: Callable[[int, str], None], recorded: int, finished: int) -> None:
    report(recorded, f"{finished} of this batch finished")


def _check_same_collection(folder: Path, config: CollectConfig, started: bool) -> None:
    """Refuse to mix demonstrations made with other settings; remember the settings of a new collection."""
    path = folder / SUMMARY_FILE
    settings: dict[str, Any] = to_dict(config)
    for name in ("out", "episodes", "num_envs"):
        del settings[name]
    if started and path.is_file():
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            damage = f"is damaged ({one_line(error)}); remove the folder or choose another --out"
            raise read_failure(path, error, damage) from error
        differing = sorted(name for name in settings if before.get(name) != settings[name])
        if differing:
            raise UserError(
                f"{folder} was collected with other settings ({', '.join(differing)}); use the same or another --out"
            )
    write_json(path, settings)
