"""Figures over the episodes of a run."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from imf_jax.rollout.episode import STATUSES, EpisodeRecord

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate: the rates p that a two-sided score test does not reject.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), E. B. Wilson (1927). Unlike the normal approximation it
    is sensible for few trials and for rates of 0 and 1.

    Returns:
        both bounds in 0..1; (0, 1) without trials.
    """
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    scale = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half_width = z / scale * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    # At rates of 0 and 1 the outer bound is exactly the rate; rounding must not move it.
    low = 0.0 if successes == 0 else centre - half_width
    high = 1.0 if successes == trials else centre + half_width
    return low, high


def summarize(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, extremes and quantiles (p05 ... p95) of a sample; None if it is empty."""
    if not values:
        return None
    sample = np.asarray(values, np.float64)
    quantiles = np.quantile(sample, QUANTILES)
    return {
        "mean": float(sample.mean()),
        "min": float(sample.min()),
        "max": float(sample.max()),
        **{f"p{round(100 * q):02d}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
    }


def _percent(successes: int, trials: int) -> dict[str, Any]:
    low, high = wilson_interval(successes, trials)
    return {
        "pc_success": 100 * successes / trials if trials else None,
        "pc_success_ci95": [100 * low, 100 * high],
    }


def episode_statistics(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """The figures of `metrics.json` that follow from the records.

    Returns:
        `n_episodes`, `n_success`, `n_failure`, `n_timeout`, `n_error`; `pc_success` [%] of all episodes, errors
        counting as not successful, with its Wilson interval `pc_success_ci95` [%]; the same of the episodes
        without error under `completed`; `return`, `max_reward` and `steps` summarised over those as well;
        `steps_to_success` over the successful ones; `max_ik_error` [m] over all.
    """
    counts = {status: sum(record.status == status for record in records) for status in STATUSES}
    completed = [record for record in records if record.status != "error"]
    return {
        "n_episodes": len(records),
        **{f"n_{status}": count for status, count in counts.items()},
        **_percent(counts["success"], len(records)),
        "completed": {"n_episodes": len(completed), **_percent(counts["success"], len(completed))},
        "return": summarize([record.return_ for record in completed]),
        "max_reward": summarize([record.max_reward for record in completed]),
        "steps": summarize([record.steps for record in completed]),
        "steps_to_success": summarize([record.steps for record in records if record.status == "success"]),
        "max_ik_error": max((record.max_ik_error for record in records), default=0.0),
    }


def success_line(metrics: dict[str, Any]) -> str:
    """The headline of a run: "success 47/50 = 94.0 % (95 % interval 83.8-97.9 %)", errors named if there are any."""
    if not metrics["n_episodes"]:
        return "success 0/0: no episode was finished"
    low, high = metrics["pc_success_ci95"]
    line = (
        f"success {metrics['n_success']}/{metrics['n_episodes']} = {metrics['pc_success']:.1f} % "
        f"(95 % interval {low:.1f}-{high:.1f} %)"
    )
    return line + (f", {metrics['n_error']} ended in an error" if metrics["n_error"] else "")
