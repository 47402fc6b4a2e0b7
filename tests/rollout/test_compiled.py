"""The compiled loop on an analytic backend against the loop of the host, and on Warp against C MuJoCo."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device_tolerance import ON_CPU, assert_same, tolerance
from flax import nnx
from point_world import MAX_STEPS, SIZE, PointBackend, Straight
from transfer_task import SPACES

from imf_jax.benchmark.random_walk import Wanderer
from imf_jax.config import AttnResConfig, PolicyConfig
from imf_jax.errors import ArgumentError
from imf_jax.evaluation.statistics import wilson_interval
from imf_jax.models.policy import Policy
from imf_jax.rollout.compiled import CompiledRollout, replans_per_call
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.expert_planner import ExpertPlanner
from imf_jax.rollout.loop_program import LoopProgram
from imf_jax.rollout.recorders.trajectory import TrajectoryRecorder
from imf_jax.rollout.timing import StageClock
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.choice import make_backend


def planner(**settings: Any) -> Any:
    return SimpleNamespace(program=Straight(**settings), weights=jnp.float32(1e-3))


class HostPlanner:
    """The same program for the loop of the host."""

    rows = 4

    def __init__(self, program: Straight) -> None:
        self.program, self.memory = program, {}
        self.obs_horizon, self.num_action_steps, self.cameras = 2, 4, program.cameras
        self._plan = jax.jit(program.plan)

    def plan(self, observations: Any, output: Any, seed: int, episodes: np.ndarray, replans: np.ndarray) -> np.ndarray:
        # The memory of this planner is the number of the plan.
        actions, _ = self._plan(
            jnp.float32(1e-3), replans, observations, output, np.uint32(seed), episodes.astype(np.uint32), replans
        )
        return np.asarray(actions)


def run(
    episodes: Any = range(10), *, num_envs: int = 4, call_steps: int = 8, **options: Any
) -> dict[int, EpisodeRecord]:
    records: list[EpisodeRecord] = []
    settings = {k: options.pop(k) for k in ("fault", "cameras") if k in options}
    rollout = CompiledRollout(
        PointBackend(), planner(**settings), list(episodes), seed=0, max_steps=MAX_STEPS, num_envs=num_envs,
        on_record=records.append, call_steps=call_steps, **options,
    )  # fmt: skip
    result = rollout.run()
    assert result.control_steps == sum(record.steps for record in records)
    assert result.overflow_steps == sum(record.overflow_steps for record in records) > 0
    assert not result.capture_errors
    return {record.episode: record for record in sorted(records, key=lambda record: record.episode)}


def what_happened(records: dict[int, EpisodeRecord]) -> dict[int, EpisodeRecord]:
    return {e: replace(r, env_slot=0, start_step=0, end_step=0, artifacts={}) for e, r in records.items()}


def assert_equal(found: dict[int, EpisodeRecord], expected: dict[int, EpisodeRecord]) -> None:
    assert found.keys() == expected.keys()
    for one, other in zip(what_happened(found).values(), what_happened(expected).values(), strict=True):
        floats = ("return_", "max_reward", "max_ik_error")
        for name in floats:
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5)
        blank = dict.fromkeys(floats, 0.0)
        assert replace(one, **blank) == replace(other, **blank)


@pytest.fixture(scope="module")
def reference() -> dict[int, EpisodeRecord]:
    return run()


class JittedBackend(PointBackend):
    """The same functions for the loop of the host, compiled one by one."""

    def __init__(self) -> None:
        self.reset, self.step = jax.jit(super().reset), jax.jit(super().step)  # type: ignore[method-assign]


def host_run(**settings: Any) -> dict[int, EpisodeRecord]:
    records: list[EpisodeRecord] = []
    Rollout(
        JittedBackend(), HostPlanner(Straight(**settings)), range(10), seed=0, max_steps=MAX_STEPS, num_envs=4,
        on_record=records.append,
    ).run()  # fmt: skip
    return {record.episode: record for record in sorted(records, key=lambda record: record.episode)}


@pytest.mark.parametrize("settings", [{}, {"cameras": ("front", "top")}, {"fault": 99.0}, {"fault": 6.0}])
def test_the_records_are_those_of_the_host_loop(settings: dict[str, Any]) -> None:
    found = run(**settings)
    assert_equal(found, host_run(**settings))
    assert {record.status for record in found.values()} >= {"success", "timeout"}
    assert {record.steps % 4 for record in found.values() if record.status == "success"} != {0}
    if settings.get("fault") == 99.0:
        assert (found[4].status, found[4].error) == ("error", "the physics is not finite after step 9")
    if settings.get("fault") == 6.0:
        assert (found[4].status, found[4].steps) == ("failure", 10)


def test_a_plan_that_is_not_finite_ends_its_scene_alone(reference: dict[int, EpisodeRecord]) -> None:
    found = run(fault=np.nan)
    assert (found[4].status, found[4].steps, found[4].replans) == ("error", 8, 2)
    assert found[4].error == "plan 2 is not finite"
    others = {episode: record for episode, record in found.items() if episode != 4}
    assert_equal(others, {episode: record for episode, record in reference.items() if episode != 4})


@pytest.mark.parametrize("options", [{"num_envs": 1}, {"num_envs": 3}, {"num_envs": 12}, {"call_steps": 100}])
def test_results_do_not_depend_on_the_cut_into_batches_and_calls(
    reference: dict[int, EpisodeRecord], options: dict[str, int]
) -> None:
    assert what_happened(run(**options)) == what_happened(reference)


def test_results_do_not_depend_on_order_and_repeat(reference: dict[int, EpisodeRecord]) -> None:
    assert what_happened(run([3, 9, 0, 6, 1, 8, 2, 7, 5, 4])) == what_happened(reference)
    assert run() == reference


def test_captures_see_exactly_the_episode_and_change_nothing(
    reference: dict[int, EpisodeRecord], tmp_path: Path
) -> None:
    found = run(recorders=[TrajectoryRecorder(tmp_path, SPACES)])
    assert what_happened(found) == what_happened(reference)
    for record in found.values():
        with np.load(tmp_path / record.artifacts["trajectory"]) as file:
            assert len(file["reward"]) == record.steps
            np.testing.assert_array_equal(file["executed_left_link7_pos"], file["raw_action"][:, :3])
            assert file["reward"].sum() == pytest.approx(record.return_, rel=1e-5)


def test_videos_and_times_come_from_the_same_trace(reference: dict[int, EpisodeRecord], tmp_path: Path) -> None:
    pytest.importorskip("av")  # a GPU host that nothing can be installed on may lack it
    from imf_jax.rollout.recorders.video import VideoRecorder
    from imf_jax.video import probe_video

    def render(qpos: np.ndarray) -> np.ndarray:
        return PointBackend().render(qpos, ("front",)).repeat(4, axis=2).repeat(4, axis=3)

    clock = StageClock(staged=False)
    film = VideoRecorder(tmp_path, render, ("front",), 4 * SIZE, 50)
    found = run(recorders=[film, TrajectoryRecorder(tmp_path, SPACES)], clock=clock)
    assert what_happened(found) == what_happened(reference)
    times = clock.raw(0.0)
    assert sum(times["steps"]) == sum(record.steps for record in found.values())
    for record in found.values():
        assert probe_video(tmp_path / record.artifacts["video_front"]).num_frames == record.steps
        with np.load(tmp_path / record.artifacts["trajectory"]) as file:
            assert set(file["call"]) <= set(range(len(times["calls"])))
            assert "inference_ms" not in file.files
            np.testing.assert_array_equal(file["loop_total_ms"], np.array(times["calls"])[file["call"], -1])


def test_one_compilation_serves_all_batches_and_weights() -> None:
    loop = LoopProgram(
        PointBackend(), Straight(), max_steps=MAX_STEPS, replans=2, traced=False, devices=jax.devices()[:1]
    )
    for number in range(3):
        episodes = np.arange(4, dtype=np.uint32) + 4 * number
        keys = np.asarray(jax.random.key_data(scene_keys(0, episodes)))
        batch = loop.begin((), keys, np.ones(4, bool))
        for _ in range(3):
            batch, _ = loop.advance((), jnp.float32(number), np.uint32(0), episodes, batch)
    assert (loop.begin._cache_size(), loop.advance._cache_size()) == (1, 1)


def test_nothing_crosses_to_the_host_inside_the_program() -> None:
    loop = LoopProgram(
        PointBackend(), Straight(cameras=("front",)), max_steps=9, replans=2, traced=True, devices=jax.devices()[:1]
    )
    episodes = np.arange(4, dtype=np.uint32)
    batch = jax.eval_shape(loop.begin, (), jax.ShapeDtypeStruct((4, 2), np.uint32), jax.ShapeDtypeStruct((4,), bool))
    program = str(jax.make_jaxpr(loop.advance)((), jnp.float32(0), np.uint32(0), episodes, batch))
    assert "scan" in program
    assert "callback" not in program


def test_the_end_of_an_episode_costs_no_read_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    array, sliced = type(jnp.zeros(1)), []
    take = array.__getitem__
    monkeypatch.setattr(array, "__getitem__", lambda self, index: sliced.append(index) or take(self, index))
    assert len(run()) == 10
    assert len(sliced) < 5


def test_interrupted_batches_keep_what_is_finished() -> None:
    records: list[EpisodeRecord] = []
    asked = iter([False] * 4 + [True] * 99)
    result = CompiledRollout(
        PointBackend(), planner(), range(10), seed=0, max_steps=MAX_STEPS, num_envs=4, call_steps=8,
        on_record=records.append, should_stop=lambda: next(asked),
    ).run()  # fmt: skip
    assert result.interrupted
    assert 0 < len(records) < 10


SHARDED = """
import json, sys
sys.path[:0] = ["tests", "tests/rollout"]
import jax
from imf_jax.cli import keep_compiled_code
keep_compiled_code()
from test_compiled import run, what_happened
assert len(jax.devices()) == 8
from imf_jax.rollout import compiled
compiled.tail_rows = lambda num_envs, max_steps, devices: num_envs // 2
options = {"episodes": range(40), "call_steps": 4}
found = {
    count: what_happened(run(num_envs=envs, devices=jax.devices()[:count], **options))
    for count, envs in ((8, 16), (1, 2))
}
print(json.dumps({count: [r.to_json() for r in records.values()] for count, records in found.items()}))
"""


def test_eight_devices_give_the_same_records_as_one(reference: dict[int, EpisodeRecord]) -> None:
    """Rows are refilled, and the tail is gathered from all devices."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["8"] == found["1"]
    if ON_CPU:  # both sides run there
        assert found["8"][:10] == [record.to_json() for record in what_happened(reference).values()]


@pytest.mark.parametrize(("max_steps", "chunk", "executed"), [(700, 8, 704), (700, 1, 700), (250, 8, 256), (16, 8, 16)])
def test_little_runs_past_the_end_of_an_episode(max_steps: int, chunk: int, executed: int) -> None:
    steps = replans_per_call(max_steps, chunk, 40) * chunk
    assert -(-max_steps // steps) * steps == executed
    assert steps <= 64


def test_devices_must_divide_the_scenes() -> None:
    with pytest.raises(ArgumentError, match="3 scenes cannot be shared by 2 devices"):
        run(num_envs=3, devices=[jax.devices()[0]] * 2)


@pytest.fixture(scope="module")
def warp_run(transfer_backend: Any) -> Callable[..., dict[int, EpisodeRecord]]:
    from imf_jax.sim.backends.warp import WarpBackend

    backend = WarpBackend("transfer", image_size=32)

    def roll(episodes: Any, expert: Any, num_envs: int, max_steps: int, **options: Any) -> dict[int, EpisodeRecord]:
        records: list[EpisodeRecord] = []
        CompiledRollout(
            backend, expert, list(episodes), seed=0, max_steps=max_steps, num_envs=num_envs,
            on_record=records.append, **options,
        ).run()  # fmt: skip
        return {record.episode: record for record in records}

    return roll


def test_the_expert_hands_over_on_warp_as_on_native(warp_run: Any, transfer_backend: Any) -> None:
    """The same scenes, and nearly the same step at which each is done."""
    expected: list[EpisodeRecord] = []
    Rollout(
        transfer_backend, ExpertPlanner("transfer"), range(3), seed=0, max_steps=250, num_envs=3,
        on_record=expected.append,
    ).run()  # fmt: skip
    found = warp_run(range(3), ExpertPlanner("transfer"), 3, 250)
    for record in expected:
        assert found[record.episode].status == record.status == "success"
        assert abs(found[record.episode].steps - record.steps) <= 5
        assert found[record.episode].overflow_steps == 0


def test_the_first_plan_on_warp_is_that_on_native(warp_run: Any, transfer_backend: Any, tmp_path: Path) -> None:
    """Scenes and keys are equal on every backend, so the first actions are too; and a second run gives the same."""
    head = AttnResConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=2)
    host = Wanderer(Policy(PolicyConfig(head=head), SPACES, 7, rngs=nnx.Rngs(0)), plan_batch=4, task="transfer")

    def actions(name: str, roll: Callable[..., Any]) -> list[np.ndarray]:
        roll(recorders=[TrajectoryRecorder(tmp_path / name, SPACES)])
        return [np.load(path)["raw_action"] for path in sorted((tmp_path / name).rglob("*.npz"))]

    def on_native(**options: Any) -> None:
        Rollout(
            transfer_backend, host, range(5), seed=0, max_steps=8, num_envs=5, on_record=lambda record: None, **options
        ).run()

    def on_warp(**options: Any) -> None:
        warp_run(range(5), host, 3, 8, **options)

    expected, found, again = actions("native", on_native), actions("warp", on_warp), actions("again", on_warp)
    assert len(expected) == len(found) == 5
    for ours, theirs, repeated in zip(found, expected, again, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance(1e-5, 5e-3))  # CUDA: TF32 in batches of another size
        assert_same(ours, repeated)
    assert np.ptp(np.stack(expected), axis=0).max() > 0.01


@pytest.mark.long
@pytest.mark.parametrize("name", ["mjx", "warp"])
def test_the_expert_succeeds_as_often_on_every_backend(name: str, transfer_backend: Any) -> None:
    def successes(rollout: type, backend: Any) -> int:
        records: list[EpisodeRecord] = []
        rollout(
            backend, ExpertPlanner("transfer"), range(64), seed=0, max_steps=250, num_envs=64, on_record=records.append
        ).run()
        return sum(record.status == "success" for record in records)

    here = successes(Rollout, transfer_backend)
    there = successes(CompiledRollout, make_backend(name, "transfer", image_size=32, renderer="warp"))
    low, high = wilson_interval(here, 64)
    assert low <= there / 64 <= high
