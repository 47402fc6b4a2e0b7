"""Captures beside the loop: one host thread feeds the recorders from a queue that is bounded in bytes.

The loop hands over what it has read and goes on. When the queue is full it waits, so memory never grows; a capture
that fails, or that makes the loop wait for too long, costs its artifacts, never an episode.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from imf_jax.cores import usable_cores
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.recorders.base import Recorder, ResetBatch, StepBatch

QUEUE_BYTES = 256 * 2**20
"""Largest size of the data that waits for the recorders [bytes]."""

PATIENCE = 120.0
"""Time without any progress of the recorders after which a waiting loop gives the captures up [s]."""

GRACE = 20.0
"""Time that the recorders have to finish their current job when the rollout is abandoned [s]."""

SCENES_AT_ONCE = 16
"""Scenes that a recorder is given at once, at most: between two turns of rendering it shows that it makes progress."""


class _Job(NamedTuple):
    size: int
    work: Callable[[], None]
    episodes: tuple[int, ...] = ()  # whose events it holds
    is_end: bool = False  # of its one episode


class CaptureQueue:
    """Feeds recorders in the order of events, from a thread of its own; without recorders it is only a passage.

    The thread also closes the recorders when it ends, so that no other thread touches their files. One that hangs is
    left alone, and its recorders are abandoned.

    Args:
        recorders: the captures; closed by `close` and `abandon`.
        on_record: receives each record with its artifacts, when these are complete. Called from one thread at a time,
            in the order in which the episodes ended.
        limit: largest size of the queue [bytes]; a single event above it is let through alone.
        patience: seconds without progress after which a full queue means that the captures are given up.
        grace: seconds that `abandon` waits for the current job of the recorders.

    Attributes:
        errors: one line for each artifact that could not be made.
        waited_s: time [s] for which the loop was held up: the queue was full, or the end had to be waited for.
        peak: largest size that the queue ever had [bytes].
    """

    def __init__(
        self,
        recorders: Sequence[Recorder],
        on_record: Callable[[EpisodeRecord], None],
        *,
        limit: int = QUEUE_BYTES,
        patience: float = PATIENCE,
        grace: float = GRACE,
    ) -> None:
        self._recorders = recorders
        self._on_record = on_record
        self._limit, self._patience, self._grace = limit, patience, grace
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._condition = threading.Condition()
        self._progress = time.monotonic()
        self._given_up = self._closing = self._hanging = False
        self._failure: BaseException | None = None
        self._ended: dict[int, EpisodeRecord] = {}  # episodes whose record waits for its artifacts
        self._lost: dict[tuple[int, int], str] = {}  # (recorder, episode) -> why its artifact cannot be made
        self._missed: set[int] = set()  # episodes of which events were dropped
        self._told_of_end: set[int] = set()  # episodes that are finished next, as the recorders know
        self.errors: list[str] = []
        self.waited_s = 0.0
        self.peak = 0
        self._thread: threading.Thread | None = None
        if recorders:
            self._thread = threading.Thread(target=self._feed, name="captures", daemon=True)
            self._thread.start()

    def setup(self, qpos: np.ndarray) -> None:
        """Let the recorders compile what they need, for a scene at `qpos` (nq,), and wait for them."""
        for recorder in self._recorders:
            self._put(_Job(0, partial(self._attempt, recorder, "setup", partial(recorder.setup, qpos))))
        self.drain()

    def reset(self, batch: ResetBatch) -> None:
        """Queue the start of episodes."""
        self._broadcast("on_reset", batch, batch.episodes)

    def steps(self, batch: StepBatch) -> None:
        """Queue executed control steps."""
        self._broadcast("on_steps", batch, batch.episodes)

    def end(self, record: EpisodeRecord) -> None:
        """Queue the end of an episode; `on_record` receives its record once its artifacts are made."""
        if self._thread is None or self._given_up:
            self._on_record(record)
            return
        with self._condition:
            self._ended[record.episode] = record
        self._put(_Job(0, partial(self._finish, record), (record.episode,), is_end=True))

    def drain(self, on_wait: Callable[[int], None] = lambda episodes: None) -> None:
        """Wait until the queue is empty, or patience has run out.

        Args:
            on_wait: called now and then with the number of episodes whose artifacts are not complete.
        """
        if self._thread is not None:
            self._wait(lambda: not self._jobs and not self._waiting, on_wait)
        self._raise_failure()

    def close(self, on_wait: Callable[[int], None] = lambda episodes: None) -> None:
        """Drain the queue, then close the recorders; once is enough. `on_wait`: see `drain`."""
        if self._closing:
            return
        try:
            self.drain(on_wait)
        except BaseException:
            self.abandon()
            raise
        self._stop(self._grace if self._given_up else self._patience)
        self._raise_failure()

    def abandon(self) -> None:
        """Stop now: drop the queue, and close the recorders after their current job.

        Episodes whose artifacts are not complete leave no record, so that a resumed run makes both.
        """
        with self._condition:
            self._given_up = True
            self._drop_jobs()
            self._ended.clear()
        self._stop(self._grace)

    def _stop(self, limit: float) -> None:
        """Let the thread end and close the recorders; if it has not after `limit` seconds, they are given up."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is None:
            return
        try:
            self._thread.join(limit)
        finally:  # also if the wait was interrupted
            if self._thread.is_alive():
                self._abandon_recorders(f"captures did not stop within {limit:.0f} s and were given up")

    def _abandon_recorders(self, reason: str) -> None:
        """Abandon the recorders, once, because the thread hangs."""
        if not self._hanging:
            self._hanging = True
            self.errors.append(reason)
            for recorder in self._recorders:
                recorder.abandon()

    def _drop_jobs(self) -> None:
        self._miss(episode for job in self._jobs for episode in job.episodes)
        self._jobs.clear()

    def _miss(self, episodes: Iterable[int]) -> None:
        """Note episodes of which the recorders missed something."""
        with self._condition:
            self._missed.update(episodes)

    def _broadcast(self, method: str, batch: Any, episodes: np.ndarray) -> None:
        if self._thread is None or self._given_up:
            return
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
        self._put(_Job(size, partial(self._tell, method, batch, episodes), tuple(episodes.tolist())))

    def _put(self, job: _Job) -> None:
        """Append a job as soon as there is room for it."""
        self._wait(lambda: not self._waiting or self._waiting + job.size <= self._limit)
        with self._condition:
            if self._given_up:
                return
            self._jobs.append(job)
            self._waiting += max(job.size, 1)
            self.peak = max(self.peak, self._waiting)
            self._condition.notify_all()
        self._raise_failure()

    def _wait(self, ready: Callable[[], bool], on_wait: Callable[[int], None] = lambda episodes: None) -> None:
        started = time.perf_counter()
        with self._condition:
            self._progress = max(self._progress, time.monotonic()) if not self._waiting else self._progress
            while not ready() and not self._given_up and self._failure is None:
                self._condition.wait(timeout=0.2)
                on_wait(len(self._ended))
                if time.monotonic() - self._progress > self._patience:
                    self._give_up()
        self.waited_s += time.perf_counter() - started

    def _give_up(self) -> None:
        """Give hanging recorders up: write the records that wait for them, without artifacts."""
        self._given_up = True
        reason = f"captures made no progress for {self._patience:.0f} s and were given up"
        self._abandon_recorders(reason)
        self._drop_jobs()
        ended, self._ended = list(self._ended.values()), {}
        for record in ended:
            self.errors.append(f"episode {record.episode}: {reason}")
            self._on_record(record)

    def _raise_failure(self) -> None:
        """Raise what `on_record` raised (a full disk, say): records are not optional, so it ends the rollout."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self._given_up = True
            raise failure

    def _feed(self) -> None:
        """Work off the queue, in the thread, then close the recorders."""
        try:
            while (job := self._next_job()) is not None:
                if job.is_end:
                    self._tell_of_end(job)
                job.work()
                with self._condition:
                    self._waiting -= max(job.size, 1)
                    self._progress = time.monotonic()
                    self._condition.notify_all()
        except BaseException as error:
            with self._condition:
                self._failure = error
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._closing)
        for number, recorder in enumerate(self._recorders):
            for _, episode in sorted(key for key in self._lost if key[0] == number):
                self._discard(number, episode)
            for episode in sorted(self._missed):
                self._attempt(recorder, f"episode {episode}", partial(recorder.discard, episode))
            self._attempt(recorder, "the end", recorder.close)

    def _next_job(self) -> _Job | None:
        """Wait for the next job; None if there will be none."""
        with self._condition:
            self._condition.wait_for(lambda: self._jobs or self._closing or self._given_up)
            return self._jobs.popleft() if self._jobs else None

    def _tell(self, method: str, batch: Any, episodes: np.ndarray) -> None:
        for first in range(0, len(episodes), SCENES_AT_ONCE):
            rows = slice(first, first + SCENES_AT_ONCE)
            part = batch
            if len(episodes) > SCENES_AT_ONCE:
                part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], batch)
            for number, recorder in enumerate(self._recorders):
                if self._given_up:
                    self._miss(episodes[first:].tolist())
                    return
                self._pass_on(number, partial(getattr(recorder, method), part), episodes[rows].tolist())

    def _tell_of_end(self, job: _Job) -> None:
        """Tell the recorders which episodes are finished next: that of `job`, and those whose end follows at once."""
        if job.episodes[0] in self._told_of_end:
            return
        with self._condition:
            following = itertools.takewhile(lambda waiting: waiting.is_end, self._jobs)
            jobs = [job, *itertools.islice(following, usable_cores() - 1)]
        self._told_of_end = {ended.episodes[0] for ended in jobs}
        for number, recorder in enumerate(self._recorders):
            episodes = [ended.episodes[0] for ended in jobs if (number, ended.episodes[0]) not in self._lost]
            if episodes and not self._given_up:
                self._pass_on(number, partial(recorder.on_ended, episodes), episodes)

    def _pass_on(self, number: int, work: Callable[[], None], episodes: Sequence[int]) -> None:
        """Let a recorder handle events; one that fails loses its artifacts of these episodes."""
        try:
            work()
        except Exception as error:  # whatever a renderer, an encoder or a disk can raise
            for episode in episodes:
                self._lost.setdefault((number, episode), str(error))
        with self._condition:
            self._progress = time.monotonic()

    def _finish(self, record: EpisodeRecord) -> None:
        artifacts: dict[str, str] = {}
        for number, recorder in enumerate(self._recorders):
            what = f"episode {record.episode}"
            if self._given_up:
                self._miss([record.episode])
                return
            if (number, record.episode) in self._lost:
                self._discard(number, record.episode)
            else:
                artifacts |= self._attempt(recorder, what, partial(recorder.finish, record)) or {}
        with self._condition:  # or a queue that is being given up would write the record a second time
            if self._ended.pop(record.episode, None) is None:
                return
            self._on_record(replace(record, artifacts=artifacts))

    def _discard(self, number: int, episode: int) -> None:
        """Let a recorder discard an episode of which it lost something, and say why."""
        recorder, what = self._recorders[number], f"episode {episode}"
        self.errors.append(f"{what}, {recorder.name}: {self._lost.pop((number, episode))}")
        self._attempt(recorder, what, partial(recorder.discard, episode))

    def _attempt(self, recorder: Recorder, what: str, work: Callable[[], Any]) -> Any:
        """Let a recorder work; a capture that fails costs the artifact, never the episode."""
        try:
            return work()
        except Exception as error:
            self.errors.append(f"{what}, {recorder.name}: {error}")
            return None
