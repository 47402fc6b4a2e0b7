"""Statistics over the episodes of a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap

from imf_jax.rollout.episode import STATUSES, EpisodeRecord
from imf_jax.rollout.episode_log import RolloutResult

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

RESAMPLES = 2000
"""Bootstrap samples of an interval."""

BATCH_VALUES = 2**20
"""Values that are drawn at once, at most; has no influence on an interval."""

ENOUGH_EPISODES = 50
"""With fewer, even 100 % success leaves an interval of more than 7 percentage points."""


SHOWN_EPISODES = 10
"""Episode numbers named in a message."""


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate: the rates p that a two-sided score test does not reject.

    E. B. Wilson (1927). Unlike the normal approximation it is sensible for few trials and for rates of 0 and 1.

    Returns:
        both bounds in 0..1; (0, 1) without trials.
    """
    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Percentile bootstrap interval of a mean, B. Efron (1979): of means of samples drawn anew, with replacement.

    The draws are always the same, so that the interval is a function of the values.

    Returns:
        both bounds; None for fewer than two values, which say nothing about how they vary.
    """
    if len(values) < 2:
        return None
    # Sorted first: the interval must not depend on the order in which episodes ended.
    sample = np.sort(np.asarray(values, np.float64))
    interval = bootstrap(
        (sample,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_VALUES // len(sample)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def summarize(values: Sequence[float]) -> dict[str, Any] | None:
    """Size `n`, mean with its bootstrap interval `mean_ci95`, extremes and quantiles (p05 ... p95) of a sample.

    Returns:
        None if the sample is empty; `mean_ci95` is None for a single value.
    """
    if not values:
        return None
    sample = np.asarray(values, np.float64)
    quantiles = np.quantile(sample, QUANTILES)
    interval = bootstrap_interval(values)
    return {
        "n": len(sample),
        "mean": float(sample.mean()),
        "mean_ci95": None if interval is None else list(interval),
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


def stage_statistics(records: Sequence[EpisodeRecord], stages: Sequence[str]) -> list[dict[str, Any]]:
    """Count the episodes that reached each stage of a task: with a step whose stage was at least that one.

    Episodes that ended in an error count with the stages they reached before.

    Args:
        records: the episodes.
        stages: names of the stages 1, 2, ...

    Returns:
        per stage `stage` (its number), `name`, `n_episodes`, `n_reached`, `pc_reached` [%] (None without episodes) and
        its Wilson interval `pc_reached_ci95` [%].
    """
    rows = []
    for number, name in enumerate(stages, start=1):
        reached = sum(record.highest_stage >= number for record in records)
        low, high = wilson_interval(reached, len(records))
        rows.append(
            {
                "stage": number,
                "name": name,
                "n_episodes": len(records),
                "n_reached": reached,
                "pc_reached": 100 * reached / len(records) if records else None,
                "pc_reached_ci95": [100 * low, 100 * high],
            }
        )
    return rows


def episode_statistics(records: Sequence[EpisodeRecord], stages: Sequence[str] = ()) -> dict[str, Any]:
    """Compute the figures of `metrics.json` that follow from the records.

    Args:
        records: the episodes.
        stages: names of the task's stages, if it has any.

    Returns:
        `n_episodes`, `n_success`, `n_failure`, `n_timeout`, `n_error`; `pc_success` [%] of all episodes, errors
        counting as not successful, with its Wilson interval `pc_success_ci95` [%]; the same of the episodes
        without error under `completed`; `return`, `max_reward` and `steps` summarised over those as well;
        `steps_to_success` over the successful ones; `max_ik_error` [m] over all; `stages`, see `stage_statistics`.
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
        "stages": stage_statistics(records, stages),
    }


def evaluation_metrics(
    records: Sequence[EpisodeRecord], result: RolloutResult, requested: int, stages: Sequence[str]
) -> dict[str, Any]:
    """Compute the content of `metrics.json`.

    Args:
        records: the episodes.
        result: measurements of the loop.
        requested: number of requested episodes.
        stages: names of the task's stages, if it has any.
    """
    return {
        **episode_statistics(records, stages),
        "n_requested": requested,
        "interrupted": result.interrupted,
        "warmup_s": result.warmup_s,
        "wall_s": result.wall_s,
        "capture_s": result.capture_s,
        "control_steps": sum(record.steps for record in records),
        "control_steps_per_s": result.control_steps / result.wall_s if result.wall_s else 0.0,
        "scene_steps": result.scene_steps,
        "live_scene_steps": result.live_scene_steps,
        "useful_share": result.useful_share,
        "frames_rendered": result.frames_rendered,
        "overflow_steps": sum(record.overflow_steps for record in records),
        "capture_errors": result.capture_errors,
    }


def success_line(metrics: dict[str, Any]) -> str:
    """Headline of a run: "success 47/50 = 94.0 % (95 % interval 83.8-97.9 %)", errors named if there are any."""
    if not metrics["n_episodes"]:
        return "success 0/0: no episode was finished"
    low, high = metrics["pc_success_ci95"]
    line = (
        f"success {metrics['n_success']}/{metrics['n_episodes']} = {metrics['pc_success']:.1f} % "
        f"(95 % interval {low:.1f}-{high:.1f} %)"
    )
    return line + (f", {metrics['n_error']} ended in an error" if metrics["n_error"] else "")


def reached_line(metrics: dict[str, Any]) -> str | None:
    """Episodes that reached the last stage at any time, where they are not those that succeeded.

    This is what published success rates of some tasks count.
    """
    if not metrics["stages"] or metrics["stages"][-1]["n_reached"] == metrics["n_success"]:
        return None
    last = metrics["stages"][-1]
    low, high = last["pc_reached_ci95"]
    return (
        f"reached the last stage ({last['name']}) at any time: {last['n_reached']}/{last['n_episodes']} = "
        f"{last['pc_reached']:.1f} % (95 % interval {low:.1f}-{high:.1f} %)"
    )


def listed(numbers: Sequence[int]) -> str:
    """Name episodes in a message, the first ones if there are many."""
    return ", ".join(map(str, numbers[:SHOWN_EPISODES])) + (", ..." if len(numbers) > SHOWN_EPISODES else "")


def flipped_line(repeats: dict[str, Any]) -> str:
    """Comparison of an evaluation with its repetitions, `imf_jax.evaluation.repeat.repeat_figures`, in one line."""
    which = f" ({listed(repeats['flipped'])})" if repeats["flipped"] else ""
    return (
        f"{repeats['n_runs']} runs of the same scenes, with {' and '.join(map(str, repeats['n_success']))} successes: "
        f"{repeats['n_flipped']} of {repeats['n_compared']} episodes flipped{which}, {repeats['n_identical']} were "
        "equal to the bit"
    )


def ranking_warning(episodes: int) -> str | None:
    """Warning that so few episodes cannot rank checkpoints; None if there are enough."""
    if episodes >= ENOUGH_EPISODES:
        return None
    low, high = wilson_interval((episodes + 1) // 2, episodes)
    return (
        f"{episodes} episode{'' if episodes == 1 else 's'} cannot rank checkpoints: a rate near one half is known to "
        f"{100 * low:.0f}-{100 * high:.0f} % only; evaluate at least {ENOUGH_EPISODES}"
    )
