"""Rates with intervals, and summaries."""

from dataclasses import replace

import numpy as np
import pytest

from imf_jax.evaluation import statistics
from imf_jax.evaluation.repeat import repeat_figures
from imf_jax.evaluation.statistics import (
    bootstrap_interval,
    episode_statistics,
    flipped_line,
    ranking_warning,
    stage_statistics,
    success_line,
    summarize,
    wilson_interval,
)
from imf_jax.rollout.episode import EpisodeRecord


def record(episode: int, status: str, return_: float = 1.0, steps: int = 100) -> EpisodeRecord:
    return EpisodeRecord(
        episode=episode, seed=0, env_slot=0, status=status, steps=steps, start_step=0, end_step=steps - 1,
        return_=return_, max_reward=1.0, success_step=steps - 1 if status == "success" else None, replans=1,
    )  # fmt: skip


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (47, 50), (1, 3), (989, 1000)])
def test_wilson_bounds_are_the_rates_that_a_score_test_just_accepts(k: int, n: int) -> None:
    for confidence, z in ((0.95, 1.959964), (0.8, 1.281552)):
        low, high = wilson_interval(k, n, confidence)
        assert 0 <= low <= k / n <= high <= 1
        for bound in {low, high} - {k / n}:
            assert abs(k / n - bound) == pytest.approx(z * np.sqrt(bound * (1 - bound) / n), rel=1e-5)
        assert (low == 0, high == 1) == (k == 0, k == n)


def test_wilson_without_trials_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_summary() -> None:
    values = summarize(list(range(101)))
    low, high = values.pop("mean_ci95")
    assert low < 50 < high
    assert values == {
        "n": 101, "mean": 50, "min": 0, "max": 100, "p05": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95,
    }  # fmt: skip
    assert summarize([]) is None


def test_bootstrap_of_many_values_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).exponential(size=200).tolist()
    half_width = 1.96 * np.std(values) / np.sqrt(200)
    expected = np.mean(values) - half_width, np.mean(values) + half_width
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.03)


def test_bootstrap_depends_on_nothing_but_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).exponential(size=200).tolist()
    interval = bootstrap_interval(values)
    assert bootstrap_interval(values[::-1]) == interval, "the order of episodes has no influence"
    monkeypatch.setattr(statistics, "BATCH_VALUES", 1000)
    assert bootstrap_interval(values) == interval, "nor has how many are drawn at once"


def test_bootstrap_of_samples_that_do_not_vary() -> None:
    assert bootstrap_interval([]) is None
    assert bootstrap_interval([3.0]) is None
    assert bootstrap_interval([3.0] * 7) == (3.0, 3.0)
    assert summarize([3.0])["mean_ci95"] is None


def test_stages_are_counted_as_reached() -> None:
    records = [replace(record(i, "timeout"), max_reward=reward) for i, reward in enumerate([0.0, 1.0, 2.0, 2.0, 3.0])]
    rows = stage_statistics(records, ("touch", "lift", "hold", "release"))
    assert [(row["stage"], row["name"], row["n_reached"]) for row in rows] == [
        (1, "touch", 4), (2, "lift", 3), (3, "hold", 1), (4, "release", 0),
    ]  # fmt: skip
    assert rows[1]["pc_reached"] == pytest.approx(60)
    assert rows[1]["pc_reached_ci95"] == [100 * bound for bound in wilson_interval(3, 5)]
    assert stage_statistics([], ("touch",))[0]["pc_reached"] is None
    assert episode_statistics(records, ("touch",))["stages"] == rows[:1]


@pytest.mark.parametrize(("episodes", "start"), [(1, "1 episode cannot"), (49, "49 episodes cannot"), (50, None)])
def test_few_episodes_are_warned_of(episodes: int, start: str | None) -> None:
    line = ranking_warning(episodes)
    assert line is None if start is None else line.startswith(start)


def test_errors_are_shown_apart() -> None:
    statuses = ["success"] * 3 + ["timeout", "failure", "error"]
    metrics = episode_statistics([record(i, status, return_=float(i)) for i, status in enumerate(statuses)])
    assert (metrics["n_episodes"], metrics["n_success"], metrics["n_failure"]) == (6, 3, 1)
    assert (metrics["n_timeout"], metrics["n_error"]) == (1, 1)
    assert metrics["pc_success"] == pytest.approx(50)
    np.testing.assert_allclose(metrics["pc_success_ci95"], 100 * np.array(wilson_interval(3, 6)))
    assert metrics["completed"]["pc_success"] == pytest.approx(60)
    assert metrics["return"]["max"] == 4, "the return of an errored episode is no result"
    assert success_line(metrics) == "success 3/6 = 50.0 % (95 % interval 18.8-81.2 %), 1 ended in an error"


def test_no_episode_at_all() -> None:
    metrics = episode_statistics([])
    assert metrics["pc_success"] is None
    assert "no episode" in success_line(metrics)


def test_episodes_that_flip_between_runs_are_counted() -> None:
    first = [record(0, "success"), record(1, "success"), record(2, "timeout"), record(3, "success")]
    second = [replace(record(0, "success"), env_slot=3, artifacts={"a": "b"}), record(1, "timeout"), record(2, "error")]
    figures = repeat_figures([first, second])
    assert figures == {
        "n_runs": 2, "n_compared": 3, "n_success": [2, 1], "n_flipped": 1, "flipped": [1], "n_identical": 1,
    }  # fmt: skip
    assert "1 of 3 episodes flipped (1), 1 were equal to the bit" in flipped_line(figures)
