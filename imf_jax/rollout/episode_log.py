"""Log of finished episodes: makes the record of each from the figures of a loop, and counts them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from imf_jax.rollout.capture import QUEUE_BYTES, CaptureQueue
from imf_jax.rollout.episode import EpisodeRecord, Status
from imf_jax.rollout.recorders.base import Recorder

LARGEST_ERROR = float(np.finfo(np.float32).max)
"""Largest distance in a record [m]: commands that run away, as extrapolated ones can, overflow to infinity."""


@dataclass(frozen=True)
class RolloutProgress:
    """Progress of a rollout.

    Attributes:
        episodes: finished episodes.
        successes: those that succeeded.
        control_steps: control steps so far, running episodes included.
        loop_s: time [s] since the start of the loop, without waiting for captures.
        share: share of the work in 0..1; a running episode counts by its steps.
        unwritten: finished episodes whose captures are still being made; counted when nothing else is left to do.
    """

    episodes: int
    successes: int
    control_steps: int
    loop_s: float
    share: float
    unwritten: int = 0


@dataclass
class RolloutResult:
    """Result of a rollout besides its records.

    Attributes:
        warmup_s: time [s] before the loop, most of it compilation; not part of `wall_s`.
        wall_s: time [s] of the closed loop, without `capture_s`.
        capture_s: time [s] for which the loop, or its end, waited for captures.
        control_steps: control steps of all finished episodes.
        scene_steps: control steps that were simulated over all scenes, those of scenes without a running episode too.
        live_scene_steps: those of them that belong to an episode, finished or not.
        frames_rendered: pictures made for plans, over all cameras, without those of the warm-up.
        overflow_steps: control steps in which a scene had more contacts or constraints than its buffers hold.
        interrupted: it was asked to stop before the last episode ended; running episodes left no record.
        capture_errors: one line for each artifact that could not be written.
    """

    warmup_s: float = 0.0
    wall_s: float = 0.0
    capture_s: float = 0.0
    control_steps: int = 0
    scene_steps: int = 0
    live_scene_steps: int = 0
    frames_rendered: int = 0
    overflow_steps: int = 0
    interrupted: bool = False
    capture_errors: list[str] = field(default_factory=list)

    @property
    def useful_share(self) -> float | None:
        """Share of the simulated control steps that belong to an episode; None if nothing was simulated."""
        return self.live_scene_steps / self.scene_steps if self.scene_steps else None


class EpisodeLog:
    """Log of one rollout.

    Args:
        total: episodes asked for.
        seed: seed of the scenes.
        max_steps: control steps after which an episode is a timeout.
        num_envs: scenes simulated at once.
        on_record: receives each record when its episode has ended and its artifacts are written.
        recorders: captures to feed.
        queue_bytes: largest size of the captures' queue [bytes].

    Attributes:
        captures: queue of the recorders.
        result: the figures so far.
    """

    def __init__(
        self,
        total: int,
        *,
        seed: int,
        max_steps: int,
        num_envs: int,
        on_record: Callable[[EpisodeRecord], None],
        recorders: Sequence[Recorder] = (),
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.captures = CaptureQueue(recorders, on_record, limit=queue_bytes)
        self.result = RolloutResult()
        self._total, self._seed, self._max_steps = total, seed, max_steps
        self._slot_clock = np.zeros(num_envs, np.int64)
        self._finished = self._successes = 0
        self._created = time.perf_counter()
        self._started = self._waited_before = 0.0

    def start(self) -> None:
        """Start the clock of the loop: the warm-up has ended."""
        self._started = time.perf_counter()
        self._waited_before = self.captures.waited_s
        self.result.warmup_s = self._started - self._created

    def abandon(self) -> None:
        """Drop captures that are not complete: the loop was stopped or has failed."""
        self.captures.abandon()

    def close(self, on_progress: Callable[[RolloutProgress], None] | None = None) -> None:
        """Wait for the captures and finish the result: the loop has ended."""

        def waiting(episodes: int) -> None:
            if on_progress:
                on_progress(replace(at_the_end, unwritten=episodes))

        at_the_end = self.progress(0)
        self.result.wall_s = self.loop_seconds()
        try:
            self.captures.close(waiting)
        finally:
            self.result.capture_s = self.captures.waited_s - self._waited_before
            self.result.capture_errors = list(self.captures.errors)
            self.result.interrupted = self._finished < self._total

    def loop_seconds(self) -> float:
        """Time of the loop so far [s], without waiting for captures."""
        waited = self.captures.waited_s - self._waited_before
        return time.perf_counter() - self._started - waited

    def progress(self, running: int) -> RolloutProgress:
        """Progress of the rollout, when episodes that go on have made `running` steps."""
        steps = self.result.control_steps + running
        share = (self._finished + running / self._max_steps) / self._total
        return RolloutProgress(self._finished, self._successes, steps, self.loop_seconds(), min(share, 1.0))

    def simulated(self, scene_steps: int, *, live: int) -> None:
        """Count simulated control steps over all scenes, `live` of which belong to an episode."""
        self.result.scene_steps += scene_steps
        self.result.live_scene_steps += live

    def end(
        self,
        *,
        episode: int,
        slot: int,
        status: Status,
        error: str | None,
        steps: int,
        total_reward: float,
        max_reward: float,
        max_stage: int,
        replans: int,
        max_ik_error: float,
        overflow_steps: int,
    ) -> None:
        """Record the end of an episode; see `EpisodeRecord`. Its slot is free from now on."""
        start = int(self._slot_clock[slot])
        record = EpisodeRecord(
            episode=episode,
            seed=self._seed,
            env_slot=slot,
            status=status,
            steps=steps,
            start_step=start,
            end_step=start + steps - 1,
            return_=total_reward,
            max_reward=max_reward if steps else 0.0,
            max_stage=max_stage if steps and max_stage != max_reward else None,
            success_step=steps - 1 if status == "success" else None,
            replans=replans,
            max_ik_error=min(max_ik_error, LARGEST_ERROR),
            overflow_steps=overflow_steps,
            error=error,
        )
        self._slot_clock[slot] += steps
        self._finished += 1
        self._successes += status == "success"
        self.result.control_steps += steps
        self.result.overflow_steps += overflow_steps
        self.captures.end(record)
