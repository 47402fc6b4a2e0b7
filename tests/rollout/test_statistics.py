"""Rates with intervals, and summaries."""

import numpy as np
import pytest
from scipy.stats import binomtest

from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.statistics import episode_statistics, success_line, summarize, wilson_interval


def record(episode: int, status: str, return_: float = 1.0, steps: int = 100) -> EpisodeRecord:
    return EpisodeRecord(
        episode=episode, seed=0, env_slot=0, status=status, steps=steps, start_step=0, end_step=steps - 1,
        return_=return_, max_reward=1.0, success_step=steps - 1 if status == "success" else None, replans=1,
    )  # fmt: skip


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (47, 50), (1, 3), (989, 1000)])
def test_wilson_matches_scipy(k: int, n: int) -> None:
    for confidence in (0.95, 0.8):
        reference = binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert wilson_interval(k, n, confidence) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_without_trials_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_summary() -> None:
    values = summarize(list(range(101)))
    assert values == {
        "mean": 50, "min": 0, "max": 100, "p05": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95,
    }  # fmt: skip
    assert summarize([]) is None


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
