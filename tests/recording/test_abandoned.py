"""A rollout that fails while its strategy writes: what is kept is whole, and a thread that hangs is left alone."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from point_world import MAX_STEPS, PointBackend

from imf_jax.data.lerobot.open_episode import OpenEpisode
from imf_jax.data.lerobot.reader import open_dataset
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.errors import UserError
from imf_jax.recording.base import Strategy, StrategyRecorder
from imf_jax.recording.correction import CorrectedPlanner, InterventionRules
from imf_jax.recording.dagger import DaggerStrategy
from imf_jax.recording.episodic import EpisodicStrategy
from imf_jax.recording.recording import Recording
from imf_jax.recording.sentry import SentryStrategy
from imf_jax.rollout import episode_log
from imf_jax.rollout.capture import CaptureQueue
from imf_jax.rollout.engine import Rollout

pytestmark = pytest.mark.usefixtures("point_expert")

STRATEGIES: dict[str, Callable[[Recording], Any]] = {
    "sentry": partial(SentryStrategy, shard_bytes=2**30),
    "dagger": partial(DaggerStrategy, save="corrections"),
    "episodic": EpisodicStrategy,
}


class Held:
    """Holds up a method from a certain call on, until `gate` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
        self.gate, self.reached = threading.Event(), threading.Event()
        real, calls = getattr(owner, name), []

        def held(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) >= call:
                self.reached.set()
                assert self.gate.wait(20)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, held)


def fail(
    strategy: Strategy, make_planner: Any, held: Held, *, steps: int, then: Callable[[], object] = lambda: None
) -> None:
    """Make control steps under an expert that is always in charge; the loop fails while the strategy is held up."""
    made: list[int] = []

    def stop() -> bool:
        if len(made) == steps:
            assert held.reached.wait(20)
            then()
            raise KeyboardInterrupt
        made.append(1)
        return False

    planner = CorrectedPlanner(make_planner(), "point", InterventionRules(beta=1.0))
    try:
        with pytest.raises(KeyboardInterrupt):
            Rollout(
                PointBackend(), planner, range(20), seed=7, max_steps=MAX_STEPS, num_envs=4,
                on_record=lambda record: None, recorders=[StrategyRecorder(strategy)], should_stop=stop,
            ).run()  # fmt: skip
    finally:
        strategy.finish()


def captures() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "captures"]


@pytest.mark.parametrize(
    ("name", "call", "kept"),
    # Held up in the second step of four scenes; the first step of a correction is a pause, which is not recorded.
    [("sentry", 6, [2] * 4), ("dagger", 2, [1] * 4), ("episodic", 6, [])],
)
@pytest.mark.parametrize("missed", [False, True])
def test_a_slow_strategy_is_waited_for_and_keeps_no_scene_of_which_it_missed_something(
    record: Any, make_planner: Any, monkeypatch: pytest.MonkeyPatch, name: str, call: int, kept: list[int], missed: bool
) -> None:
    recording = record(cameras=True)
    held = Held(monkeypatch, OpenEpisode, "add", call)
    strategy = STRATEGIES[name](recording)
    with recording.writer:
        later = threading.Timer(0.3, held.gate.set)
        fail(strategy, make_planner, held, steps=2 + missed, then=later.start)
        assert captures() == []
    assert strategy.failed is None
    dataset = open_dataset(recording.writer.folder)
    assert [episode.length for episode in dataset.episodes] == ([] if missed else kept)
    for episode in dataset.episodes:
        assert len(list(dataset.pictures(episode, "observation.images.front"))) == episode.length
    assert not (recording.writer.folder / ".open").exists()


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(("place", "steps"), [((OpenEpisode, "add", 2), 3), ((LeRobotWriter, "_commit", 1), 12)])
def test_a_strategy_that_hangs_is_left_alone_and_saves_nothing_even_if_it_comes_back(
    record: Any, make_planner: Any, monkeypatch: pytest.MonkeyPatch, name: str, place: tuple[type, str, int], steps: int
) -> None:
    monkeypatch.setattr(episode_log, "CaptureQueue", partial(CaptureQueue, grace=0.2))
    recording = record(cameras=True)
    held = Held(monkeypatch, *place)
    strategy = STRATEGIES[name](recording)
    with recording.writer:
        fail(strategy, make_planner, held, steps=steps)
        (thread,) = captures()
    assert strategy.wants_to_stop()
    assert "it hung and was given up" in str(strategy.failed)
    again = record(cameras=True, resume=True)  # it is not locked any more, and there is nothing to be mended
    assert (again.writer.num_episodes, again.writer.repaired) == (0, [])
    again.writer.finish()
    held.gate.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(open_dataset(recording.writer.folder).episodes) == 0


def test_whoever_hangs_while_saving_keeps_the_dataset_to_itself(
    record: Any, make_planner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_log, "CaptureQueue", partial(CaptureQueue, grace=0.2))
    monkeypatch.setattr("imf_jax.data.lerobot.writer.SAVING_SECONDS", 0.2)
    recording = record()
    held = Held(monkeypatch, LeRobotWriter, "_write_totals", call=1)
    with recording.writer:
        fail(SentryStrategy(recording, shard_bytes=500), make_planner, held, steps=10)
        (thread,) = captures()
    with pytest.raises(UserError, match="another process is recording into"):
        record(resume=True)
    held.gate.set()
    thread.join(10)
    recording.writer.finish()
    again = record(resume=True)
    assert (again.writer.num_episodes, again.writer.repaired) == (1, [])
    again.writer.finish()


def test_nobody_rolls_out_for_a_strategy_that_hangs(record: Any, make_planner: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(episode_log, "CaptureQueue", partial(CaptureQueue, patience=0.3, grace=0.1))
    recording = record()
    held = Held(monkeypatch, OpenEpisode, "add", call=6)
    strategy = SentryStrategy(recording, shard_bytes=2**30)
    with recording.writer:
        result = Rollout(
            PointBackend(), make_planner(), range(20), seed=7, max_steps=MAX_STEPS, num_envs=4, queue_bytes=1,
            on_record=lambda record: None, recorders=[StrategyRecorder(strategy)], should_stop=strategy.wants_to_stop,
        ).run()  # fmt: skip
        strategy.finish()
    assert result.interrupted
    assert result.capture_errors == ["captures made no progress for 0 s and were given up"]
    assert recording.writer.num_episodes == 0
    held.gate.set()
