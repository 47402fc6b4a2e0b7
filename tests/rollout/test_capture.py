"""The queue between loop and recorders: ordered, bounded in bytes, and never the end of an episode."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from imf_jax.rollout import capture
from imf_jax.rollout.capture import CaptureQueue
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.recorders.base import ResetBatch, StepBatch
from imf_jax.sim.backends.base import StepOutput

STEP_BYTES = 8000


def record(episode: int) -> EpisodeRecord:
    return EpisodeRecord(episode, 0, 0, "success", 3, 0, 2, 1.0, 1.0, 2, 1)


def output() -> StepOutput:
    return StepOutput(*[np.zeros(1)] * len(StepOutput._fields))


def steps(episode: int) -> StepBatch:
    return StepBatch(np.array([episode]), np.zeros(STEP_BYTES // 8), output(), np.array([1]))


class Slow:
    """A recorder whose work can be held up, and that fails on demand."""

    name = "slow"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.events: list[Any] = []
        self.threads: set[int] = set()
        self.fail_steps_of: int | None = None
        self.fail_end_of: int | None = None
        self.given_up = False

    def note(self, *event: Any) -> None:
        self.gate.wait(20)
        self.threads.add(threading.get_ident())
        self.events.append(event)

    def setup(self, qpos: np.ndarray) -> None:
        self.note("setup")

    def bytes_per_episode(self, max_steps: int) -> int:
        return 0

    def on_reset(self, reset: ResetBatch) -> None:
        self.note("reset", *reset.episodes.tolist())

    def on_steps(self, batch: StepBatch) -> None:
        self.note("steps", *batch.episodes.tolist())
        if self.fail_steps_of in batch.episodes:
            raise OSError("no space left on device")

    def on_ended(self, episodes: Sequence[int]) -> None:
        self.note("ended", *episodes)
        if self.fail_end_of in episodes:
            raise OSError("no picture")

    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        self.note("finish", record.episode)
        return {"slow": f"{record.episode}.bin"}

    def discard(self, episode: int) -> None:
        self.note("discard", episode)

    def close(self) -> None:
        self.note("close")

    def abandon(self) -> None:
        self.given_up = True


def test_events_reach_the_recorder_in_order_and_records_come_with_their_artifacts() -> None:
    recorder, records = Slow(), []
    queue = CaptureQueue([recorder], records.append)
    queue.setup(np.zeros(3))
    queue.reset(ResetBatch(np.array([4, 5]), output()))
    queue.steps(steps(4))
    queue.end(record(4))
    queue.steps(steps(5))
    queue.end(record(5))
    queue.close()
    assert recorder.events == [
        ("setup",), ("reset", 4, 5), ("steps", 4), ("ended", 4), ("finish", 4), ("steps", 5), ("ended", 5),
        ("finish", 5), ("close",),
    ]  # fmt: skip
    assert [(r.episode, r.artifacts) for r in records] == [(4, {"slow": "4.bin"}), (5, {"slow": "5.bin"})]
    assert recorder.threads.isdisjoint({threading.get_ident()}), "the loop itself must not be held up"
    assert queue.errors == []


def test_ends_that_wait_are_told_together_as_many_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "usable_cores", lambda: 2)
    recorder, records = Slow(), []
    recorder.fail_steps_of, recorder.fail_end_of = 3, 6
    recorder.gate.clear()
    queue = CaptureQueue([recorder], records.append)
    queue.steps(steps(3))
    for episode in (1, 2, 3, 4):
        queue.end(record(episode))
    queue.steps(steps(5))
    for episode in (5, 6, 7):
        queue.end(record(episode))
    recorder.gate.set()
    queue.close()
    assert [event[1:] for event in recorder.events if event[0] == "ended"] == [(1, 2), (4,), (5, 6), (7,)]
    assert [r.episode for r in records if r.artifacts] == [1, 2, 4, 7]
    assert [event[1] for event in recorder.events if event[0] == "discard"] == [3, 5, 6]
    assert queue.errors == [
        "episode 3, slow: no space left on device", "episode 5, slow: no picture", "episode 6, slow: no picture",
    ]  # fmt: skip


def test_without_recorders_records_pass_at_once() -> None:
    records: list[EpisodeRecord] = []
    queue = CaptureQueue([], records.append)
    queue.steps(steps(1))
    queue.end(record(1))
    assert [r.episode for r in records] == [1]
    queue.close()


def test_a_full_queue_holds_the_loop_up_and_never_grows_beyond_its_limit() -> None:
    recorder = Slow()
    limit = 5 * STEP_BYTES
    queue = CaptureQueue([recorder], lambda record: None, limit=limit)
    recorder.gate.clear()
    threading.Timer(0.4, recorder.gate.set).start()
    for _ in range(20):
        queue.steps(steps(0))
    assert queue.waited_s > 0.2
    assert STEP_BYTES < queue.peak <= limit
    queue.close()
    assert recorder.events.count(("steps", 0)) == 20, "backpressure loses nothing"


def test_a_failure_costs_the_artifact_of_its_episode_only() -> None:
    recorder, records = Slow(), []
    recorder.fail_steps_of = 7
    queue = CaptureQueue([recorder], records.append)
    for episode in (7, 8):
        queue.steps(steps(episode))
        queue.end(record(episode))
    queue.close()
    assert [(r.episode, r.artifacts) for r in records] == [(7, {}), (8, {"slow": "8.bin"})]
    assert queue.errors == ["episode 7, slow: no space left on device"]
    assert ("discard", 7) in recorder.events
    assert ("finish", 7) not in recorder.events


def test_a_recorder_that_hangs_is_given_up_and_every_record_is_kept_once() -> None:
    recorder, records = Slow(), []
    queue = CaptureQueue([recorder], records.append, limit=3 * STEP_BYTES, patience=0.5, grace=0.1)
    recorder.gate.clear()
    for episode in range(6):
        queue.steps(steps(episode))
        queue.end(record(episode))
    queue.close()
    assert recorder.given_up
    recorder.gate.set()  # it wakes up when all is over
    wait_until(lambda: ("close",) in recorder.events)
    assert sorted(r.episode for r in records) == list(range(6))
    assert all(r.artifacts == {} for r in records)
    assert "made no progress for 0 s" in queue.errors[0] or "made no progress for 1 s" in queue.errors[0]


def test_a_record_that_cannot_be_written_ends_the_rollout() -> None:
    def full(record: EpisodeRecord) -> None:
        raise OSError("no space left on device")

    queue = CaptureQueue([Slow()], full)
    queue.end(record(0))
    with pytest.raises(OSError, match="no space left"):
        queue.close()


def abandoned_at_work(recorder: Slow, grace: float) -> tuple[CaptureQueue, list[EpisodeRecord]]:
    """A queue whose first episode is complete, and whose recorder is at the second one when it is to be abandoned."""
    records: list[EpisodeRecord] = []
    queue = CaptureQueue([recorder], records.append, grace=grace)
    queue.steps(steps(0))
    queue.end(record(0))
    queue.drain()
    recorder.gate.clear()
    queue.steps(steps(1))
    wait_until(lambda: not queue._jobs)
    queue.steps(steps(2))
    queue.end(record(1))
    return queue, records


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_abandoned_captures_end_what_they_do_and_leave_no_record() -> None:
    """Ctrl-C twice: what is not complete is made again when the run is resumed. The recorder is slow."""
    recorder = Slow()
    queue, records = abandoned_at_work(recorder, grace=20)
    threading.Timer(0.3, recorder.gate.set).start()
    queue.abandon()
    last = [("steps", 1), ("discard", 1), ("discard", 2), ("close",)]
    assert recorder.events[-4:] == last, "it was told at once what it missed, and that it is over"
    assert not recorder.given_up
    assert len(recorder.threads) == 1
    queue.close()
    queue.steps(steps(1))
    queue.end(record(1))
    assert recorder.events[-4:] == last
    assert [r.episode for r in records] == [0, 1], "who goes on without captures still gets records"


def test_a_recorder_that_hangs_is_left_alone_and_closed_by_its_own_thread_if_it_comes_back() -> None:
    recorder = Slow()
    queue, records = abandoned_at_work(recorder, grace=0.2)
    started = time.monotonic()
    queue.abandon()
    queue.close()
    assert time.monotonic() - started < 2
    assert recorder.given_up
    assert queue.errors == ["captures did not stop within 0 s and were given up"]
    assert ("steps", 1) not in recorder.events
    recorder.gate.set()
    wait_until(lambda: ("close",) in recorder.events)
    assert recorder.events[-4:] == [("steps", 1), ("discard", 1), ("discard", 2), ("close",)]
    assert len(recorder.threads) == 1
    assert [r.episode for r in records] == [0]


def test_a_wait_for_abandoned_captures_that_is_interrupted_gives_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(limit: float) -> None:
        raise KeyboardInterrupt

    recorder = Slow()
    queue, _ = abandoned_at_work(recorder, grace=20)
    monkeypatch.setattr(queue._thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.abandon()
    assert recorder.given_up
    recorder.gate.set()


@pytest.mark.parametrize("abandoned", [False, True])
def test_a_recorder_that_fails_is_closed_like_any_other(abandoned: bool) -> None:
    class Failing(Slow):
        def on_steps(self, batch: StepBatch) -> None:
            raise OSError("no space left on device")

        def close(self) -> None:
            super().close()
            raise OSError("it cannot even be closed")

    failing, sound = Failing(), Slow()
    queue = CaptureQueue([failing, sound], lambda record: None)
    queue.steps(steps(1))
    queue.drain()
    queue.abandon() if abandoned else queue.close()
    assert failing.events == [("discard", 1), ("close",)], "nothing of an episode with a gap is kept"
    assert sound.events == [("steps", 1), ("close",)]
    assert queue.errors == ["episode 1, slow: no space left on device", "the end, slow: it cannot even be closed"]
    assert not failing.given_up


def test_recorders_are_closed_when_a_record_cannot_be_written() -> None:
    def full(record: EpisodeRecord) -> None:
        raise OSError("no space left on device")

    recorder = Slow()
    queue = CaptureQueue([recorder], full)
    queue.end(record(0))
    wait_until(lambda: queue._failure is not None)
    assert ("close",) not in recorder.events, "the loop may still hand something over"
    with pytest.raises(OSError, match="no space left"):
        queue.steps(steps(1))
    queue.abandon()
    assert recorder.events == [("ended", 0), ("finish", 0), ("discard", 1), ("close",)]


def test_who_waits_hears_what_is_left() -> None:
    recorder, left = Slow(), []
    queue = CaptureQueue([recorder], lambda record: None)
    recorder.gate.clear()
    queue.end(record(3))
    threading.Timer(0.5, recorder.gate.set).start()
    queue.close(left.append)
    assert left[0] == 1
