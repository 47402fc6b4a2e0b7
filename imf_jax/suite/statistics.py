"""Differences between arms on the same scenes, over several trainings of each."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from imf_jax.evaluation.report.comparison import mcnemar_p_value

RESAMPLES = 10_000
"""Bootstrap samples of a difference."""

Scene = tuple[int, int]
"""Seed of a scene, and its episode."""

Outcomes = Mapping[Scene, bool]
"""Scene -> whether the episode succeeded."""


class SeedDifference(NamedTuple):
    """Two arms trained with one seed, on the same scenes.

    Attributes:
        seed: of both trainings.
        only_arm, only_control: scenes in which just this one succeeded.
        scenes: that both were evaluated on.
        p_value: of the exact two-sided McNemar test.
    """

    seed: int
    only_arm: int
    only_control: int
    scenes: int
    p_value: float

    @property
    def difference(self) -> float:
        """Success of the arm minus that of the control, in -1..1."""
        return (self.only_arm - self.only_control) / self.scenes


class Difference(NamedTuple):
    """Difference of an arm from its control.

    Attributes:
        mean: over the training seeds, each counted alike [percentage points].
        low, high: 95 % interval, see `hierarchical_bootstrap` [percentage points].
        p_value: of several seeds that of the bootstrap, of one that of the exact McNemar test.
        by_seed: the training seeds that both have.
    """

    mean: float
    low: float
    high: float
    p_value: float
    by_seed: tuple[SeedDifference, ...]


def paired_difference(arm: Mapping[int, Outcomes], control: Mapping[int, Outcomes]) -> Difference | None:
    """Compare an arm with its control: training seed by training seed, on the scenes that both were evaluated on.

    Args:
        arm: training seed -> outcomes.
        control: the same of the control.

    Returns:
        None if they have no training seed and scene in common.
    """
    by_seed = []
    for seed in sorted(arm.keys() & control.keys()):
        scenes = arm[seed].keys() & control[seed].keys()
        if not scenes:
            continue
        only_arm = sum(arm[seed][scene] and not control[seed][scene] for scene in scenes)
        only_control = sum(control[seed][scene] and not arm[seed][scene] for scene in scenes)
        p_value = mcnemar_p_value(only_control, only_arm)
        by_seed.append(SeedDifference(seed, only_arm, only_control, len(scenes), p_value))
    if not by_seed:
        return None
    mean = 100 * float(np.mean([one.difference for one in by_seed]))
    low, high, p_value = hierarchical_bootstrap(by_seed)
    if len(by_seed) == 1:
        p_value = by_seed[0].p_value
    return Difference(mean, 100 * low, 100 * high, p_value, tuple(by_seed))


def hierarchical_bootstrap(by_seed: Sequence[SeedDifference]) -> tuple[float, float, float]:
    """Bootstrap of a mean difference over two levels: training seeds, and the scenes of each.

    A sample draws as many training seeds as there are, with replacement, and for each of them as many of its scenes,
    with replacement; arm and control stay together in both. Drawing scenes is drawing from three kinds: only the arm
    succeeded, only the control, or neither of these, so that their numbers are multinomial. The draws are always the
    same, so that the result is a function of the counts.

    Returns:
        bounds of the 95 % percentile interval in -1..1, and the two-sided p value: twice the share of samples on the
        other side of 0 or on it, 1 at most.
    """
    rng = np.random.default_rng(0)
    scenes = np.array([one.scenes for one in by_seed])
    counts = np.array(
        [(one.only_arm, one.only_control, one.scenes - one.only_arm - one.only_control) for one in by_seed]
    )
    drawn = rng.integers(len(by_seed), size=(RESAMPLES, len(by_seed)))
    found = rng.multinomial(scenes[drawn], (counts / scenes[:, None])[drawn])
    means = ((found[..., 0] - found[..., 1]) / scenes[drawn]).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    beyond = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return float(low), float(high), min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1))
