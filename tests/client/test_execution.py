"""The executor on a robot executes the actions of the async engine for the same chunks, and survives what is late."""

import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax.client import ChunkExecutor, RobotRunner
from imf_jax.errors import ArgumentError, UserError
from imf_jax.rollout.delay import DelayedProgram, DelayedWeights
from imf_jax.rollout.plan_program import ChunkProgram
from imf_jax.sim.backends.base import StepOutput
from imf_jax.spaces import Part, RobotSpaces

HORIZON, OBS = 8, 2
USABLE = HORIZON - OBS + 1
JOINTS = RobotSpaces(
    "arm", (Part("joint", 1, "joint", "rad"),), (Part("joint", 1, "joint", "rad"),), ("hand",), ("hand",)
)


def random_chunks(plans: int, seed: int = 0) -> np.ndarray:
    """Chunks (plans, HORIZON, 16) with quaternions of any sign."""
    rng = np.random.default_rng(seed)
    chunks = rng.normal(size=(plans, HORIZON, 16)).astype(np.float32)
    for place in SPACES.quaternions:
        chunks[..., place] /= np.linalg.norm(chunks[..., place], axis=-1, keepdims=True)
    return chunks


class Given(ChunkProgram):
    """A policy that plans the given chunks."""

    obs_horizon, pred_horizon, cameras, spaces, keep_chunks = OBS, HORIZON, (), SPACES, False

    def __init__(self, chunks: np.ndarray, delay_training: int = 0) -> None:
        self.chunks, self.delay_training = chunks, delay_training
        self.told: list[tuple[Any, Any]] = []

    def chunk(
        self, weights: Any, observations: Any, seed: Any, episodes: Any, replans: Any, prefix: Any, **others: Any
    ) -> Any:
        self.told.append((prefix, others["delay"]))
        return jnp.asarray(self.chunks[replans])


def at_rest() -> StepOutput:
    """One scene whose hands are at the origin."""
    pose = np.zeros((1, 2, 7), np.float32)
    pose[..., 3] = 1
    blank = dict.fromkeys(StepOutput._fields)
    return StepOutput(**blank)._replace(state=np.zeros((1, 16), np.float32), end_effector=pose)


def engine(chunks: np.ndarray, delay: int, every: int, *, policy: Given | None = None, **options: Any) -> np.ndarray:
    program: Any = DelayedProgram(policy or Given(chunks), every, **options)  # type: ignore[arg-type]
    memory, actions = program.start(at_rest()), []
    for replan in range(len(chunks)):
        weights = DelayedWeights(None, np.int32(delay))
        planned, memory = program.plan(weights, memory, {}, at_rest(), 0, np.zeros(1), np.array([replan]))
        actions.append(np.asarray(planned[0]))
    return np.concatenate(actions)


def robot(chunks: np.ndarray, delay: int, every: int, arrival: Any, **options: Any) -> np.ndarray:
    """Actions of a robot to which chunk n comes `arrival(n)` steps after its observation."""
    executor = ChunkExecutor(SPACES, USABLE, replan_every=every, delay_steps=delay, **options)
    executor.start(held())
    coming: list[tuple[int, int, int]] = []
    actions = []

    def take(step: int) -> None:
        for entry in [entry for entry in coming if entry[0] == step]:
            _, plan, number = entry
            executor.add(plan, chunks[number, OBS - 1 :])
            coming.remove(entry)

    for step in range(len(chunks) * every):
        take(step)
        if executor.plan_due:
            coming.append((step + arrival(step // every), executor.begin_plan(), step // every))
            take(step)
        actions.append(executor.next_action())
    return np.stack(actions)


def held() -> np.ndarray:
    memory = DelayedProgram(Given(random_chunks(1)), 1).start(at_rest())  # type: ignore[arg-type]
    return np.asarray(memory.actions)[0, 0]


@pytest.mark.parametrize("every", [1, 2, 4, USABLE])
@pytest.mark.parametrize("delay", range(USABLE))
def test_the_robot_executes_what_the_engine_executes_to_the_bit(delay: int, every: int) -> None:
    """Also where several plans are under way, and where they come early and out of order."""
    chunks = random_chunks(7)
    expected = engine(chunks, delay, every)
    for arrival in (lambda n: 0, lambda n: delay, lambda n: delay * (n % 2)):
        np.testing.assert_array_equal(robot(chunks, delay, every, arrival), expected)


@pytest.mark.parametrize(
    ("delay", "every", "blend", "on_empty"),
    [(1, 2, 3, "hold"), (0, 4, 3, "hold"), (5, 4, 0, "continue"), (6, 3, 0, "continue")],
)
def test_blends_and_continuations_are_the_engines(delay: int, every: int, blend: int, on_empty: Any) -> None:
    chunks = random_chunks(6, seed=1)
    expected = engine(chunks, delay, every, blend_steps=blend, extrapolate=on_empty == "continue")
    for arrival in (lambda n: 0, lambda n: delay):
        executed = robot(chunks, delay, every, arrival, blend_steps=blend, on_empty=on_empty)
        np.testing.assert_allclose(executed, expected, atol=2e-6)


@pytest.mark.parametrize(("delay", "every"), [(0, 2), (2, 4), (3, 1), (5, 3), (USABLE, 4), (9, USABLE)])
def test_chunks_of_a_policy_that_has_learned_to_be_late(delay: int, every: int) -> None:
    chunks, learned = random_chunks(8, seed=2), 4
    policy = Given(chunks, learned)
    expected = engine(chunks, delay, every, policy=policy)
    assert {int(told[0]) for _, told in policy.told} == {0, min(delay, learned)}
    for arrival in (lambda n: 0, lambda n: delay):
        executed = robot(chunks, delay, every, arrival, delay_training=learned)
        np.testing.assert_array_equal(executed, expected)


def test_a_runner_tells_what_the_engine_tells() -> None:
    """Its commands before the observation and until the takeover; and the step at which a chunk begins."""
    chunks, delay, every = random_chunks(6, seed=3), 2, 4
    policy = Given(chunks)
    actions = engine(chunks, delay, every, policy=policy, prefix=True)
    told: list[dict[str, Any]] = []

    def plan(observation: dict[str, Any]) -> np.ndarray:
        told.append(observation)
        return chunks[len(told) - 1, OBS - 1 :]

    executor = ChunkExecutor(SPACES, USABLE, replan_every=every, delay_steps=delay)
    with RobotRunner([plan], executor, obs_horizon=OBS, prefix=True) as runner:
        runner.start(held())
        for step in range(len(actions)):
            due = executor.plan_due
            taken = runner.act({"state": np.zeros(16)})
            while due and runner._ended.empty():  # every plan comes before the next step
                time.sleep(0.001)
            np.testing.assert_array_equal(taken, actions[step])
    for message, (prefix, _) in zip(told, policy.told, strict=True):
        given = np.asarray(prefix.is_given[0])
        np.testing.assert_array_equal(message["prefix"], np.asarray(prefix.actions[0])[given])
        assert "delay" not in message
    with pytest.raises(ArgumentError, match=r"prefix needs a delay of 1 to replan_every \(4\), not 0"):
        RobotRunner([plan], ChunkExecutor(SPACES, USABLE, replan_every=4), prefix=True)


def test_a_runner_tells_when_the_chunk_of_a_plan_begins() -> None:
    told: list[int] = []

    def plan(observation: dict[str, Any]) -> np.ndarray:
        told.append(observation["delay"])
        return np.ones((4, 1), np.float32)

    executor = ChunkExecutor(JOINTS, 4, replan_every=2, delay_steps=3, delay_training=2)
    with RobotRunner([plan, plan], executor) as runner:
        runner.start(np.array([-1.0]))
        for _ in range(9):
            due = executor.plan_due
            runner.act({"state": np.zeros(1)})
            while due and runner._ended.empty():
                time.sleep(0.001)
    assert told == [0, 2, 2, 2]


def numbered(executor: ChunkExecutor, number: int) -> np.ndarray:
    return 100.0 * number + np.arange(executor.chunk_steps, dtype=np.float32)[:, None]


def test_a_late_chunk_takes_over_when_it_comes_with_its_action_for_that_step() -> None:
    """But the first one, for which the robot has waited, with its first action."""
    executor = ChunkExecutor(JOINTS, 6, replan_every=4, delay_steps=1)
    executor.start(np.array([-1.0]))
    first = executor.begin_plan()
    taken = [float(executor.next_action()[0]) for _ in range(3)]
    executor.add(first, numbered(executor, 0))
    taken += [float(executor.next_action()[0])]
    second = executor.begin_plan()
    taken += [float(executor.next_action()[0]) for _ in range(4)]
    assert taken == [-1, -1, -1, 0, 1, 2, 3, 4]
    third = executor.begin_plan()
    assert executor.add(third, numbered(executor, 2)) is True
    assert executor.next_action()[0] == 5
    assert executor.add(second, numbered(executor, 1)) is True, "an older plan fills the time before the newer one"
    assert executor.next_action()[0] == 201


def test_a_chunk_whose_time_is_over_is_dropped() -> None:
    executor = ChunkExecutor(JOINTS, 4, replan_every=4)
    executor.start(np.array([-1.0]))
    executor.add(executor.begin_plan(), numbered(executor, 0))
    for _ in range(4):
        executor.next_action()
    plan = executor.begin_plan()
    for _ in range(4):
        executor.next_action()
    assert executor.add(plan, numbered(executor, 1)) is False
    assert executor.late == 1
    assert executor.next_action()[0] == 3


def test_nothing_else_is_planned_until_the_first_chunk_takes_over() -> None:
    """However late it comes; after a failure at the next turn."""
    executor = ChunkExecutor(JOINTS, 4, replan_every=2, delay_steps=1)
    executor.start(np.array([-1.0]))
    lost = executor.begin_plan()
    due = []
    for _ in range(4):
        executor.next_action()
        due.append(executor.plan_due)
    assert due == [False] * 4
    executor.drop(lost)
    assert executor.plan_due
    first = executor.begin_plan()
    assert executor.add(lost, numbered(executor, 1)) is False
    for _ in range(7):
        executor.next_action()
    assert executor.add(first, numbered(executor, 0)) is True
    taken = [float(executor.next_action()[0]) for _ in range(5)]
    assert taken == [0, 1, 2, 3, 3]


def test_the_watchdog_stops_at_the_last_command_until_the_next_start() -> None:
    executor = ChunkExecutor(JOINTS, 3, replan_every=2, on_empty="continue", watchdog_steps=4)
    executor.start(np.array([-1.0]))
    executor.add(executor.begin_plan(), numbered(executor, 0))
    taken = [float(executor.next_action()[0]) for _ in range(10)]
    assert taken == [0, 1, 2, 3, 4, 5, 6, 6, 6, 6]
    assert executor.stopped
    assert not executor.plan_due
    executor.start(np.array([7.0]))
    assert executor.next_action()[0] == 7
    assert not executor.stopped


def test_what_is_not_a_chunk_is_refused_and_changes_nothing() -> None:
    executor = ChunkExecutor(JOINTS, 3, replan_every=2)
    executor.start(np.array([-1.0]))
    plan = executor.begin_plan()
    with pytest.raises(ArgumentError, match=r"actions of shape \(2, 1\) came where \(3, 1\) is needed"):
        executor.add(plan, np.zeros((2, 1)))
    with pytest.raises(ArgumentError, match="not finite"):
        executor.add(plan, np.full((3, 1), np.nan))
    with pytest.raises(ArgumentError, match="no plan is due"):
        executor.begin_plan()
    assert executor.next_action()[0] == -1
    with pytest.raises(ArgumentError, match="--delay-steps 3 is beyond the chunk"):
        ChunkExecutor(JOINTS, 3, replan_every=2, delay_steps=3)


def test_a_runner_plans_from_the_last_observations_and_outlives_failures() -> None:
    seen: list[dict[str, Any]] = []

    def plan(observation: dict[str, Any]) -> np.ndarray:
        seen.append(observation)
        if len(seen) == 2:
            raise UserError("the server is gone")
        return np.repeat(observation["state"][-1][None], 4, axis=0)

    with RobotRunner([plan], ChunkExecutor(JOINTS, 4, replan_every=2), obs_horizon=2) as runner:
        runner.start(np.array([-1.0]))
        actions = [float(runner.act({"state": np.array([step]), "prompt": "go"})[0]) for step in range(6)]
    assert actions == [0, 0, 0, 0, 4, 4]
    assert [entry["state"][:, 0].tolist() for entry in seen] == [[0, 0], [1, 2], [3, 4]]
    assert seen[0]["prompt"] == "go"
    assert (runner.failed, runner.last_error, runner.skipped) == (1, "the server is gone", 0)


def test_a_runner_does_not_wait_for_a_plan_that_is_late() -> None:
    from threading import Event

    go_on = Event()

    def plan(observation: dict[str, Any]) -> np.ndarray:
        go_on.wait(10)
        return np.ones((4, 1), np.float32)

    with RobotRunner([plan], ChunkExecutor(JOINTS, 4, replan_every=1, delay_steps=1)) as runner:
        runner.start(np.array([-1.0]))
        assert [float(runner.act({"state": np.zeros(1)})[0]) for _ in range(3)] == [-1, -1, -1]
        assert runner.skipped == 0, "the robot waits for its first chunk"
        go_on.set()
