"""Comparison of evaluations on the same scenes: paired, by the exact McNemar test, with the episodes that differ."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from imf_jax.config import require
from imf_jax.evaluation.report.load import Evaluation
from imf_jax.evaluation.statistics import episode_statistics, listed, ranking_warning

SIGNIFICANCE = 0.05
"""Differences with a smaller p value are called significant."""


@dataclass(frozen=True)
class Pair:
    """Paired comparison of two evaluations, episode by episode.

    Attributes:
        first, second: positions of the evaluations in the comparison.
        both, neither: episodes in which both succeeded, or neither.
        only_first, only_second: the discordant episodes: those in which just this one succeeded.
        p_value: of the exact two-sided McNemar test.
        p_value_holm: the same, corrected for the number of pairs (Holm 1979).
    """

    first: int
    second: int
    both: int
    neither: int
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]
    p_value: float
    p_value_holm: float

    @property
    def difference(self) -> float:
        """Success of the second minus that of the first [percentage points]."""
        total = self.both + self.neither + len(self.only_first) + len(self.only_second)
        return 100 * (len(self.only_second) - len(self.only_first)) / total

    @property
    def significant(self) -> bool:
        """True if the corrected p value is below `SIGNIFICANCE`."""
        return self.p_value_holm < SIGNIFICANCE


@dataclass(frozen=True)
class Comparison:
    """Comparison of several evaluations.

    Attributes:
        evaluations: the compared evaluations.
        labels: one name for each, all different.
        statistics: `episode_statistics` of each.
        pairs: every two of them.
        warnings: limits of the conclusions, one line each.
    """

    evaluations: tuple[Evaluation, ...]
    labels: tuple[str, ...]
    statistics: tuple[dict[str, Any], ...]
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test, Q. McNemar (1947), of discordant episodes against tosses of a fair coin.

    Args:
        only_first: number of episodes in which only the first side succeeded.
        only_second: number of episodes in which only the second side succeeded.

    Returns:
        the p value; 1 without any discordant episode.
    """
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number, S. Holm (1979); they keep their order."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def compare(evaluations: Sequence[Evaluation]) -> Comparison:
    """Compare two evaluations or more. An episode that ended in an error counts as not successful.

    Raises:
        ArgumentError: they are not of the same scenes (task, seed, episodes); the message names the difference.
    """
    require(len(evaluations) >= 2, "a comparison needs two evaluations or more")
    for other in evaluations[1:]:
        _require_same_scenes(evaluations[0], other)
    statistics = tuple(episode_statistics(evaluation.records, evaluation.stages) for evaluation in evaluations)
    tables = [_table(evaluations, i, j) for i, j in itertools.combinations(range(len(evaluations)), 2)]
    p_values = [mcnemar_p_value(len(table["only_first"]), len(table["only_second"])) for table in tables]
    pairs = tuple(
        Pair(**table, p_value=p_value, p_value_holm=corrected)
        for table, p_value, corrected in zip(tables, p_values, holm_correction(p_values), strict=True)
    )
    return Comparison(tuple(evaluations), _labels(evaluations), statistics, pairs, tuple(_warnings(evaluations)))


def conclusion(comparison: Comparison, pair: Pair) -> str:
    """Conclusion from a pair, in one line."""
    first, second = comparison.labels[pair.first], comparison.labels[pair.second]
    discordant = len(pair.only_first) + len(pair.only_second)
    if not discordant:
        return f"{first} and {second} succeeded in the same episodes"
    if not pair.significant:
        return (
            f"{first} and {second} differ in {discordant} episode{'' if discordant == 1 else 's'}, "
            "which chance alone may explain"
        )
    better, worse = (second, first) if pair.difference > 0 else (first, second)
    return f"{better} is better than {worse} by {abs(pair.difference):.1f} percentage points, more than chance explains"


def _require_same_scenes(first: Evaluation, other: Evaluation) -> None:
    both = f"{first.folder} and {other.folder} cannot be paired"
    for evaluation in (first, other):
        require(bool(evaluation.records), f"{evaluation.folder} cannot be compared: it holds no finished episode")
        require(
            evaluation.task is not None,
            f"{evaluation.folder} cannot be compared: its manifest does not say which task it is of",
        )
    require(first.task == other.task, f"{both}: their tasks are {first.task} and {other.task}")
    seeds = [sorted({record.seed for record in evaluation.records}) for evaluation in (first, other)]
    require(
        seeds[0] == seeds[1],
        f"{both}: their scenes are of seed {listed(seeds[0])} and {listed(seeds[1])}; evaluate both with one --seed",
    )
    episodes = [{record.episode for record in evaluation.records} for evaluation in (first, other)]
    missing = sorted(episodes[0] ^ episodes[1])
    require(
        not missing,
        f"{both}: {len(missing)} episode{' is' if len(missing) == 1 else 's are'} in only one of them "
        f"({listed(missing)}); evaluate the same --episodes, and finish evaluations that were interrupted",
    )
    by_episode = {record.episode: record.seed for record in first.records}
    require(
        all(by_episode[record.episode] == record.seed for record in other.records),
        f"{both}: some episodes are of different seeds",
    )


def _table(evaluations: Sequence[Evaluation], first: int, second: int) -> dict[str, Any]:
    """Compute the fields of `Pair` that count episodes."""
    one, two = (
        {record.episode: record.status == "success" for record in evaluations[index].records}
        for index in (first, second)
    )
    return {
        "first": first,
        "second": second,
        "both": sum(one[episode] and two[episode] for episode in one),
        "neither": sum(not one[episode] and not two[episode] for episode in one),
        "only_first": tuple(episode for episode in one if one[episode] and not two[episode]),
        "only_second": tuple(episode for episode in one if two[episode] and not one[episode]),
    }


def _labels(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Names of the policies; with their folders where two are called the same."""
    names = [evaluation.label for evaluation in evaluations]
    return tuple(
        f"{name} ({evaluation.folder})" if names.count(name) > 1 else name
        for name, evaluation in zip(names, evaluations, strict=True)
    )


def _warnings(evaluations: Sequence[Evaluation]) -> list[str]:
    lines = []
    few = ranking_warning(len(evaluations[0].records))
    if few:
        lines.append(few)
    for name in ("max_steps", "control_hz", "backend"):
        values = [evaluation.manifest.get(name) for evaluation in evaluations]
        if any(value != values[0] for value in values):
            lines.append(f"the scenes are the same, but {name} is not: {', '.join(map(str, values))}")
    for evaluation in evaluations:
        errors = sum(record.status == "error" for record in evaluation.records)
        if errors:
            lines.append(f"{evaluation.folder}: {errors} ended in an error and count as not successful")
        lines += evaluation.problems
    return lines
