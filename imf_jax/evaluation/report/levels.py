"""Success against the level of a perturbation: curves over evaluations of the same scenes, each paired with level 0."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from imf_jax.config.perturbation import PERTURBATIONS, active, perturbation_text
from imf_jax.evaluation.report.charts import Series, line_chart
from imf_jax.evaluation.report.comparison import Comparison, holm_correction
from imf_jax.evaluation.report.load import Evaluation

END = "the end"
"""Stands for episodes that reached every stage but did not succeed."""


@dataclass(frozen=True)
class LevelRow:
    """One evaluation of a curve, beside the one with the lowest level.

    Attributes:
        level: of the perturbation.
        figures: `episode_statistics`.
        lost: episodes that succeeded at the lowest level and do not here.
        won: the other way round.
        lost_at: stage that lost episodes did not reach, or `END`, and how many of them; in the order of the stages.
        p_value: of the exact McNemar test; None for the lowest level itself.
        p_value_holm: the same, corrected for the number of levels.
    """

    level: float
    figures: dict[str, Any]
    lost: tuple[int, ...] = ()
    won: tuple[int, ...] = ()
    lost_at: tuple[tuple[str, int], ...] = ()
    p_value: float | None = None
    p_value_holm: float | None = None

    @property
    def difference(self) -> float:
        """Success minus that of the lowest level [percentage points]."""
        return 100 * (len(self.won) - len(self.lost)) / self.figures["n_episodes"]

    @property
    def lost_text(self) -> str:
        """Where episodes were lost, in a few words: "3 lift, 1 left hold"."""
        return ", ".join(f"{count} {stage.replace('_', ' ')}" for stage, count in self.lost_at)


@dataclass(frozen=True)
class LevelCurve:
    """Success of one policy against the level of one perturbation.

    Attributes:
        policy: name of the policy.
        name: of the perturbation.
        rows: by level; the first one is what the others are compared with.
    """

    policy: str
    name: str
    rows: tuple[LevelRow, ...]

    @property
    def text(self) -> str:
        """What the perturbation changes, and what level 1 means; empty if this version does not know it."""
        return PERTURBATIONS[self.name].text if self.name in PERTURBATIONS else ""

    @property
    def chart(self) -> Markup:
        """Success with its intervals over the level."""
        rates = np.array([row.figures["pc_success"] for row in self.rows])
        interval = np.array([row.figures["pc_success_ci95"] for row in self.rows])
        curve = Series(self.policy, np.array([row.level for row in self.rows]), rates, marked=True, interval=interval)
        title = f"success of {self.policy} against the level of {self.name}"
        return line_chart([curve], title=title, x_label=f"level of {self.name}", y_range=(0, 100))


def level_curves(comparison: Comparison) -> tuple[LevelCurve, ...]:
    """Find the curves in a comparison: of each policy and perturbation with two evaluations or more.

    An evaluation without perturbations is level 0 of all of them; one with several belongs to no curve.
    """
    groups: dict[str, list[int]] = {}
    for index, evaluation in enumerate(comparison.evaluations):
        groups.setdefault(_setting(evaluation), []).append(index)
    curves = []
    for indices in groups.values():
        found = {index: active(_perturbations(comparison.evaluations[index])) for index in indices}
        for name in PERTURBATIONS:
            levels = {index: levels.get(name, 0.0) for index, levels in found.items() if levels.keys() <= {name}}
            if len(levels) > 1 and any(levels.values()):
                ordered = sorted(levels, key=levels.__getitem__)
                rows = _rows(comparison, ordered, [levels[index] for index in ordered])
                curves.append(LevelCurve(_policy(comparison.evaluations[ordered[0]]), name, rows))
    return tuple(curves)


def _rows(comparison: Comparison, indices: Sequence[int], levels: Sequence[float]) -> tuple[LevelRow, ...]:
    base, *others = indices
    stages = comparison.evaluations[base].stages
    pairs = {frozenset((pair.first, pair.second)): pair for pair in comparison.pairs}
    compared = [pairs[frozenset((base, index))] for index in others]
    corrected = holm_correction([pair.p_value for pair in compared])
    rows = [LevelRow(levels[0], comparison.statistics[base])]
    for index, level, pair, p_value_holm in zip(others, levels[1:], compared, corrected, strict=True):
        lost, won = sorted(pair.only_first), sorted(pair.only_second)
        if pair.first != base:
            lost, won = won, lost
        stage_of = {record.episode: int(record.highest_stage) for record in comparison.evaluations[index].records}
        reached = Counter(stage_of[episode] for episode in lost)
        rows.append(
            LevelRow(
                level,
                comparison.statistics[index],
                tuple(lost),
                tuple(won),
                tuple((stages[stage] if stage < len(stages) else END, reached[stage]) for stage in sorted(reached)),
                pair.p_value,
                p_value_holm,
            )
        )
    return tuple(rows)


def _perturbations(evaluation: Evaluation) -> dict[str, float]:
    found = evaluation.manifest.get("perturbations")
    return found if isinstance(found, dict) else {}


def _policy(evaluation: Evaluation) -> str:
    """Name of the policy without its perturbations."""
    return evaluation.label.removesuffix(f", {perturbation_text(_perturbations(evaluation))}")


def _setting(evaluation: Evaluation) -> str:
    """What evaluations have in common that differ in perturbations only, besides their scenes."""
    manifest = evaluation.manifest
    config, checkpoint = (manifest.get(name) for name in ("config", "checkpoint"))
    execution = config.get("execution") if isinstance(config, dict) else None
    sha256 = checkpoint.get("sha256") if isinstance(checkpoint, dict) else None
    return json.dumps([_policy(evaluation), sha256, manifest.get("sampling_steps"), execution], sort_keys=True)
