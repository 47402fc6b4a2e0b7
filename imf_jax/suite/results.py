"""Results of a suite, as far as its runs are done: success of arms, differences to their controls, and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.errors import UserError
from imf_jax.evaluation.folder import METRICS, REPORT, read_records
from imf_jax.evaluation.report.comparison import SIGNIFICANCE, holm_correction
from imf_jax.evaluation.statistics import ENOUGH_EPISODES, wilson_interval
from imf_jax.rollout.timing import TIMING
from imf_jax.suite.control import Case
from imf_jax.suite.evaluations import Variant
from imf_jax.suite.folder import RunStatus
from imf_jax.suite.plan import EVALUATIONS, RUNS, Arm, Plan, run_name
from imf_jax.suite.progress import is_evaluated, read_if_there
from imf_jax.suite.statistics import Difference, Outcomes, paired_difference
from imf_jax.training.trackers import SUMMARY


@dataclass(frozen=True)
class Result:
    """An arm in one evaluation.

    Attributes:
        case: names of the arm and of the variant of the evaluation.
        axes: in what it may differ from others.
        outcomes: training seed -> scene -> success; only evaluations that are complete.
        folders: training seed -> folders of its evaluations, below the suite's.
        figures: means over the seeds of `plan_ms` and `control_steps_per_s`, where they were measured.
    """

    case: Case
    axes: Mapping[str, Any]
    outcomes: Mapping[int, Outcomes]
    folders: Mapping[int, tuple[str, ...]]
    figures: Mapping[str, float]

    @property
    def label(self) -> str:
        """Name of arm and evaluation."""
        return f"{self.case[0]}, {self.case[1]}"

    @property
    def counts(self) -> tuple[int, int]:
        """Successes, and episodes, of all training seeds together."""
        values = [success for outcomes in self.outcomes.values() for success in outcomes.values()]
        return sum(values), len(values)

    @property
    def rate(self) -> tuple[float, float, float]:
        """Success with its Wilson interval, over all episodes [%]."""
        successes, episodes = self.counts
        low, high = wilson_interval(successes, episodes)
        return 100 * successes / max(1, episodes), 100 * low, 100 * high

    @property
    def unable_to_rank(self) -> str | None:
        """Why these numbers cannot rank arms; None if they can."""
        episodes = min((len(outcomes) for outcomes in self.outcomes.values()), default=0)
        reasons = []
        if episodes < ENOUGH_EPISODES:
            reasons.append(f"{episodes} episode{'s' * (episodes != 1)}")
        if len(self.outcomes) < 2:
            reasons.append("one training seed")
        return " and ".join(reasons) or None


@dataclass(frozen=True)
class ComparedResult:
    """A result beside its control.

    Attributes:
        result: of the arm.
        control: what it is compared with.
        difference: on the same scenes.
        p_value_holm: corrected for all results that have this control.
    """

    result: Result
    control: Result
    difference: Difference
    p_value_holm: float

    @property
    def conclusion(self) -> str:
        """What follows, in words."""
        why = self.result.unable_to_rank or self.control.unable_to_rank
        if why is not None:
            return f"unable to rank: {why}"
        if self.p_value_holm >= SIGNIFICANCE:
            return "not told apart from the control"
        return "better than the control" if self.difference.mean > 0 else "worse than the control"


def read_results(plan: Plan) -> list[Result]:
    """The results of a suite, in the order of its arms; those of which no evaluation is complete are left out."""
    found = []
    for arm in plan.arms:
        for variant in arm.variants:
            result = _read_result(plan, arm, variant)
            if result.outcomes:
                found.append(result)
    return found


def _read_result(plan: Plan, arm: Arm, variant: Variant) -> Result:
    outcomes: dict[int, Outcomes] = {}
    folders: dict[int, tuple[str, ...]] = {}
    figures: dict[str, list[float]] = {}
    for seed in plan.seeds:
        parent = plan.out / EVALUATIONS / run_name(arm.name, seed)
        paths = [parent / name for name in variant.folders]
        if not all(is_evaluated(path, variant.job["episodes"]) for path in paths):
            continue
        try:
            records = [record for path in paths for record in read_records(path)[0]]
        except (UserError, OSError):
            continue
        outcomes[seed] = {(record.seed, record.episode): record.status == "success" for record in records}
        folders[seed] = tuple(path.relative_to(plan.out).as_posix() for path in paths)
        for path in paths:
            for name, value in _figures(path).items():
                figures.setdefault(name, []).append(value)
    case = arm.name, variant.name
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    return Result(case, plan.comparisons.axes[case], outcomes, folders, means)


def _figures(path: Path) -> dict[str, float]:
    inference = read_if_there(path / TIMING).get("inference_ms")
    figures = {
        "plan_ms": inference.get("mean") if isinstance(inference, dict) else None,
        "control_steps_per_s": read_if_there(path / METRICS).get("control_steps_per_s"),
    }
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}


def compare_results(plan: Plan, results: Sequence[Result]) -> list[ComparedResult]:
    """Compare every result with its control; p values are corrected (Holm) within those of the same control."""
    by_case = {result.case: result for result in results}
    pairs = []
    for result in results:
        control = by_case.get(plan.comparisons.control_of.get(result.case, ("", "")))
        difference = control and paired_difference(result.outcomes, control.outcomes)
        if control and difference:
            pairs.append((result, control, difference))
    corrected: dict[Case, float] = {}
    for case in {control.case for _, control, _ in pairs}:
        family = [(result.case, difference.p_value) for result, control, difference in pairs if control.case == case]
        corrected |= dict(zip((name for name, _ in family), holm_correction([p for _, p in family]), strict=True))
    return [
        ComparedResult(result, control, difference, corrected[result.case]) for result, control, difference in pairs
    ]


def arm_costs(plan: Plan, status: Mapping[str, RunStatus]) -> list[dict[str, Any]]:
    """What training an arm took, as means over its finished runs; None where it is not known.

    Returns:
        per arm `arm`, `runs`, `train_s` [s], `steps_per_s`, `parameters`, `peak_host_memory` and `peak_device_memory`
        [bytes].
    """
    rows = []
    for arm in plan.arms:
        values: dict[str, list[float]] = {}
        for seed in plan.seeds:
            name = run_name(arm.name, seed)
            entry = status.get(f"train {name}")
            if entry is None or entry.state != "done":
                continue
            summary = read_if_there(plan.out / RUNS / name / SUMMARY)
            for key in ("steps_per_s", "parameters", "peak_host_memory", "peak_device_memory"):
                if isinstance(summary.get(key), int | float):
                    values.setdefault(key, []).append(summary[key])
            values.setdefault("train_s", []).append(entry.elapsed_s)
        means = {key: float(np.mean(found)) for key, found in values.items()}
        keys = ("train_s", "steps_per_s", "parameters", "peak_host_memory", "peak_device_memory")
        rows.append({
            "arm": arm.name, "runs": len(values.get("train_s", [])), **{key: means.get(key) for key in keys},
        })  # fmt: skip
    return rows


def report_links(result: Result, out: Path) -> list[tuple[str, str]]:
    """Links to the reports of a result's evaluations, which have the pictures: text and address below the suite."""
    return [
        (f"seed {seed}", f"{folder}/{REPORT}")
        for seed, folders in result.folders.items()
        for folder in folders
        if (out / folder / REPORT).is_file()
    ]
