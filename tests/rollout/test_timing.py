"""The stage clock: who gets which time, what the figures count, and that nothing else changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.config import CaptureConfig
from imf_jax.evaluation.evaluate import EvaluationSettings, Summary, evaluate
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy
from imf_jax.evaluation.report.parts import timing_rows
from imf_jax.evaluation.setup import Setup
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.timing import (
    NO_CLOCK,
    STAGES,
    TIMES,
    TIMING,
    TOTAL,
    StageClock,
    merge_timing,
    timing_figures,
    write_timing,
)

FIGURES = {"count", "mean", "std", "min", "max", "p50", "p95"}


class Watch:
    """A clock that shows what it is told, [s]."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("imf_jax.rollout.timing.time.perf_counter", lambda: self.now)

    def let(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def run(tmp_path: Path, chunk_backend: Any, straight_planner: Any) -> Callable[..., Summary]:
    def run(name: str, **settings: Any) -> Summary:
        chosen = EvaluationSettings(episodes=10, num_envs=4, capture=CaptureConfig(**settings))
        return evaluate(
            Setup(EvaluatedPolicy(straight_planner(), "point", "straight", {}), chunk_backend), chosen, tmp_path / name
        )

    return run


def test_time_belongs_to_the_innermost_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    clock = StageClock()
    with clock.stage("env_step_ms"):
        watch.let(50)  # the warm-up
    clock.start(waited_s=3)
    watch.let(1)
    with clock.stage("inference_ms"):
        watch.let(2)
        with clock.stage("preprocess_ms"):
            watch.let(4)
        watch.let(8)
    with clock.stage("env_step_ms"):
        watch.let(16)
    watch.let(32)
    told = clock.end_call(steps=6, waited_s=23)  # 20 s of the rest were waiting
    assert told == {
        "obs_read_ms": 0, "preprocess_ms": 4000, "inference_ms": 10_000, "env_step_ms": 16_000,
        "loop_total_ms": 43_000, "call": 0, "call_steps": 6,
    }  # fmt: skip
    watch.let(5)
    told = clock.end_call(steps=3, waited_s=23)
    assert (told["call"], told["inference_ms"], told["loop_total_ms"]) == (1, 0, 5000), "every call begins at zero"


def test_the_device_has_finished_when_a_stage_ends() -> None:
    asked: list[Any] = []

    class Late:
        def block_until_ready(self) -> None:
            asked.append(self)

    late = Late()
    assert NO_CLOCK.finished(late) is late
    assert asked == [], "without a clock nobody waits"
    assert StageClock().finished({"a": late})["a"] is late
    assert asked == [late]


def measured(calls: list[list[float | None]], steps: list[int], **more: Any) -> dict[str, Any]:
    return {
        "calls": calls,
        "steps": steps,
        "staged": True,
        "resumed": False,
        "warmup_s": 1.0,
        "compile_s": [0.5, 0.0],
    } | more


def test_figures_per_call_and_per_step() -> None:
    calls = [[0.0, 0.0, 0.0, 0.0, total] for total in (10.0, 30.0, 60.0)]
    figures = timing_figures([measured(calls[:2], [10, 10]), measured(calls[2:], [0], warmup_s=2.0)])
    assert [name for name in figures if name.endswith("_ms")] == list(TIMES)
    assert all(figures[name].keys() == FIGURES for name in TIMES)
    assert figures[TOTAL] == {
        "count": 3, "mean": pytest.approx(100 / 3), "std": pytest.approx(np.std([10, 30, 60])),
        "min": 10, "max": 60, "p50": 30, "p95": 60,
    }  # fmt: skip
    more = figures["aggregates"]
    assert (more["calls"], more["control_steps"], more["warmup_s"], more["compile_s"]) == (3, 20, 2.0, 0.5)
    assert more["total_s"][TOTAL] == pytest.approx(0.1)
    # Ten steps took 1 ms each and ten took 3 ms each; the call without steps has none to share.
    assert more["per_episode_step"][TOTAL] == {
        "count": 20, "mean": 2, "std": 1, "min": 1, "max": 3, "p50": 1, "p95": 3,
    }  # fmt: skip
    assert "note" not in figures
    assert "after --resume" in timing_figures([measured(calls, [1, 1, 1], resumed=True)])["note"]


def test_stages_of_one_program_are_null(tmp_path: Path) -> None:
    clock = StageClock(staged=False)
    clock.start(0.0)
    assert clock.end_call(40, 0.0).keys() == {TOTAL, "call", "call_steps"}
    write_timing(tmp_path, clock.raw(1.0), whole=True)
    values = json.loads((tmp_path / TIMING).read_text())
    assert [values[name] for name in STAGES] == [None] * 4
    assert [values["aggregates"]["per_episode_step"][name] for name in STAGES] == [None] * 4
    assert values[TOTAL]["count"] == 1
    assert "cannot be told apart" in values["note"]
    problems: list[str] = []
    rows = timing_rows(tmp_path, problems)
    assert not problems
    assert [row["bar"] is None for row in rows] == [True] * 4 + [False]


def test_processes_of_a_cluster_are_pooled(tmp_path: Path) -> None:
    folders = [tmp_path / "000", tmp_path / "001"]
    for folder, total in zip(folders, (10.0, 20.0), strict=True):
        folder.mkdir()
        write_timing(folder, measured([[1.0, 1.0, 1.0, 1.0, total]], [4]), whole=False)
    merge_timing(folders, tmp_path)
    values = json.loads((tmp_path / TIMING).read_text())
    assert (values[TOTAL]["count"], values[TOTAL]["mean"]) == (2, 15)
    merge_timing([tmp_path / "nothing"], tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_an_evaluation_is_timed_and_its_records_stay_the_same(run: Callable[..., Summary]) -> None:
    plain, timed = run("plain", save_trajectory=True), run("timed", save_trajectory=True, save_timing=True)
    assert timed.records == plain.records
    assert not (plain.folder / TIMING).exists()
    values = json.loads((timed.folder / TIMING).read_text())
    more = values["aggregates"]
    assert {values[name]["count"] for name in TIMES} == {more["calls"]}
    assert more["control_steps"] == timed.metrics["control_steps"]
    assert {more["per_episode_step"][name]["count"] for name in TIMES} == {more["control_steps"]}
    assert sum(more["total_s"][name] for name in STAGES) <= more["total_s"][TOTAL]
    assert 0.5 * timed.metrics["wall_s"] < more["total_s"][TOTAL] <= timed.metrics["wall_s"] + 1e-3
    assert more["warmup_s"] == timed.metrics["warmup_s"]
    assert values["obs_read_ms"]["min"] > 0
    assert values["env_step_ms"]["min"] > 0
    assert "Timing</h2>" in (timed.folder / "report.html").read_text()


def test_raw_times_are_in_the_trajectory(run: Callable[..., Summary]) -> None:
    plain, timed = run("plain", save_trajectory=True), run("timed", save_trajectory=True, save_timing=True)
    values = json.loads((timed.folder / TIMING).read_text())
    calls: dict[int, tuple[float, int]] = {}
    for before, after in zip(plain.records, timed.records, strict=True):
        with (
            np.load(plain.folder / before.artifacts["trajectory"]) as old,
            np.load(timed.folder / after.artifacts["trajectory"]) as new,
        ):
            assert set(new.files) - set(old.files) == {*TIMES, "call", "call_steps"}
            for name in old.files:
                np.testing.assert_array_equal(old[name], new[name])
            assert {len(new[name]) for name in new.files} == {after.steps}
            assert len(np.unique(new["call"])) == after.replans
            calls |= {
                call: (total, steps)
                for call, total, steps in zip(*(new[k].tolist() for k in ("call", TOTAL, "call_steps")), strict=True)
            }
    assert len(calls) == values["aggregates"]["calls"]
    assert sum(total for total, _ in calls.values()) == pytest.approx(1000 * values["aggregates"]["total_s"][TOTAL])
    assert sum(steps for _, steps in calls.values()) == values["aggregates"]["control_steps"]


def test_compilation_is_apart(chunk_backend: Any, straight_planner: Any) -> None:
    class Compiles(type(straight_planner())):  # type: ignore[misc]
        def plan(self, *arguments: Any) -> np.ndarray:
            if not self.seen:
                salt = float(np.random.default_rng().random())  # or the program may come from the cache
                jax.jit(lambda x: jnp.sin(x) * salt)(jnp.ones(3))
            return super().plan(*arguments)

    clock = StageClock()
    Rollout(
        chunk_backend, Compiles(), range(2), seed=0, max_steps=40, num_envs=2, on_record=lambda record: None,
        clock=clock,
    ).run()  # fmt: skip
    before, within = clock.compile_s
    assert before > 0, "the warm-up plans for the first time"
    assert within == 0
