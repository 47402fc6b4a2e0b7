"""Speed of an evaluation whose episodes end at different times: the scripted expert, so disturbed that some time out.

A compiled loop gives free rows to the next episodes. Its row stands beside the frozen form, in which episodes start
together and those that have ended wait for the last one. The loop of the host never simulates what has ended.
"""

from dataclasses import dataclass
from typing import Any

import jax

from imf_jax.benchmark.components import SEED
from imf_jax.evaluation.setup import make_rollout
from imf_jax.recording.demonstrator import Demonstrator
from imf_jax.rollout.capacity import require_fit
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.episode_log import RolloutResult
from imf_jax.sim.backends.choice import make_backend
from imf_jax.sim.tasks import get_task

NOISE = 2.0
"""Noise as a multiple of that of demonstrations: three of four episodes of `transfer` succeed."""

EPISODES = 8
"""Episodes per scene that runs at once."""


@dataclass(frozen=True)
class EvaluationFigures:
    """An evaluation; start and compilation do not count.

    Attributes:
        task, backend: what was simulated, and by what.
        batch: scenes at once.
        episodes: episodes of each form.
        success: share of them that succeeded.
        episodes_per_s: episodes [1/s].
        useful_share: share of the simulated control steps that belong to an episode.
        frozen_per_s, frozen_share: the same two of the frozen form; None for the loop of the host, which has none.
        ratio: episodes per second, of the first form / of the frozen one.
    """

    task: str
    backend: str
    batch: int
    episodes: int
    success: float
    episodes_per_s: float
    useful_share: float | None
    frozen_per_s: float | None
    frozen_share: float | None
    ratio: float | None


def measure_evaluation(
    task: str, backend_name: str, *, batch: int, episodes: int | None = None, max_steps: int | None = None
) -> EvaluationFigures:
    """Time an evaluation, of a compiled backend in both forms.

    Args:
        task: name of a task with an expert.
        backend_name: a name made by `imf_jax.sim.backends.choice.resolve_backend`.
        batch: scenes at once.
        episodes: episodes of each form; `EPISODES` times the batch by default.
        max_steps: control steps after which an episode is a timeout; those of the task by default.

    Raises:
        ArgumentError: the task has no expert, or the batch does not fit in memory.
    """
    settings, episodes = get_task(task), episodes or EPISODES * batch
    planner = Demonstrator(
        task,
        position_noise=NOISE * settings.position_noise,
        yaw_noise=NOISE * settings.yaw_noise,
        joint_noise=NOISE * settings.joint_noise,
    )
    backend = make_backend(backend_name, task, image_size=32, renderer="warp")
    devices = jax.local_devices()[:1]
    require_fit(backend, planner, batch, devices if backend.compiled else ())

    def run(**form: Any) -> tuple[list[EpisodeRecord], RolloutResult]:
        records: list[EpisodeRecord] = []
        result = make_rollout(
            backend,
            planner,
            range(episodes),
            devices=devices,
            seed=SEED,
            max_steps=max_steps or settings.max_steps,
            num_envs=batch,
            on_record=records.append,
            **form,
        ).run()
        return records, result

    records, result = run()
    frozen = run(refill=False)[1] if backend.compiled else None
    return EvaluationFigures(
        task=settings.name,
        backend=backend_name,
        batch=batch,
        episodes=episodes,
        success=sum(record.status == "success" for record in records) / episodes,
        episodes_per_s=episodes / result.wall_s,
        useful_share=result.useful_share,
        frozen_per_s=episodes / frozen.wall_s if frozen else None,
        frozen_share=frozen.useful_share if frozen else None,
        ratio=frozen.wall_s / result.wall_s if frozen else None,
    )
