"""Time that the runs of a suite will take, from what runs of the same kind have taken; unknown where there are none."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from imf_jax.checkpoints import CONFIG
from imf_jax.suite.plan import RUNS, Plan
from imf_jax.suite.progress import read_if_there
from imf_jax.suite.runs import Run
from imf_jax.training.trackers import SUMMARY

OTHER_RUNS = Path("runs")
"""Folder in which training runs outside of suites are looked for."""


def estimate(plan: Plan, status: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds that each run of a suite will take on one worker; None where nothing tells.

    A training run takes its steps at the rate of a finished run of the same policy and batch size, in this suite or
    under `runs/`; an evaluation or collection the time per episode of another of this suite.

    Args:
        plan: the suite.
        status: the runs in `status.json`, if it has been started before.
    """
    rates = training_rates([plan.out / RUNS, OTHER_RUNS])
    per_episode = {}
    for run in plan.runs:
        entry = status.get(run.name, {})
        if run.kind != "training" and entry.get("state") == "done" and entry.get("elapsed_s") and run.total:
            per_episode[_kind_of(run)] = entry["elapsed_s"] / run.total
    seconds: dict[str, float | None] = {}
    for run in plan.runs:
        entry = status.get(run.name, {})
        if entry.get("state") == "done":
            seconds[run.name] = 0.0
        elif run.kind == "training":
            rate = rates.get(training_key(run.settings))
            seconds[run.name] = (run.total - entry.get("done", 0)) / rate if rate else None
        else:
            each = per_episode.get(_kind_of(run))
            seconds[run.name] = None if each is None else each * (run.total - entry.get("done", 0))
    return seconds


def _kind_of(run: Run) -> tuple[str, str | None]:
    """Runs of which one tells the time of another: of the same arm, whatever the seed."""
    return run.kind, run.arm


def training_key(settings: Mapping[str, Any]) -> str:
    """What the speed of a training run depends on, as a text."""
    key = {name: settings.get(name) for name in ("task", "policy", "batch_size", "precision")}
    policy = key["policy"] if isinstance(key["policy"], dict) else {}
    # That of the robot: runs write it down, arms leave it open.
    return json.dumps({**key, "policy": {**policy, "action_dim": None}}, sort_keys=True)


def training_rates(folders: Iterable[Path]) -> dict[str, float]:
    """Steps per second of the finished training runs in folders, by what they depend on; of the newest one each."""
    rates: dict[str, tuple[float, float]] = {}
    for folder in folders:
        for path in folder.glob(f"*/{SUMMARY}"):
            rate = read_if_there(path).get("steps_per_s")
            config = read_if_there(path.parent / CONFIG)
            if isinstance(rate, float) and rate > 0 and config:
                key, age = training_key(config), path.stat().st_mtime
                rates[key] = max(rates.get(key, (0.0, 0.0)), (age, rate))
    return {key: rate for key, (_, rate) in rates.items()}
