"""Differences over trainings and scenes."""

import numpy as np
import pytest

from imf_jax.evaluation.report.comparison import mcnemar_p_value
from imf_jax.suite.statistics import SeedDifference, hierarchical_bootstrap, paired_difference


def outcomes(*successes: int, scenes: int = 100) -> dict[tuple[int, int], bool]:
    return {(0, episode): episode in set(successes) for episode in range(scenes)}


def seed_difference(seed: int, plus: int, minus: int, scenes: int) -> SeedDifference:
    return SeedDifference(seed, plus, minus, scenes, mcnemar_p_value(minus, plus))


def test_pairs_are_of_one_seed_and_the_scenes_of_both():
    arm = {0: outcomes(1, 2, 3), 1: outcomes(5), 2: outcomes(7)}
    control = {0: outcomes(3, 4), 1: outcomes(5, scenes=50), 7: outcomes(1)}
    found = paired_difference(arm, control)
    assert found is not None
    assert [(one.seed, one.only_arm, one.only_control, one.scenes) for one in found.by_seed] == [
        (0, 2, 1, 100), (1, 0, 0, 50),
    ]  # fmt: skip
    assert found.mean == pytest.approx((1 + 0) / 2)
    assert paired_difference({0: outcomes()}, {1: outcomes()}) is None


def test_one_seed_has_the_p_value_of_mcnemar():
    found = paired_difference({0: outcomes(*range(60))}, {0: outcomes(*range(40))})
    assert found is not None
    assert found.p_value == found.by_seed[0].p_value == mcnemar_p_value(0, 20)
    assert found.low < found.mean == 20 < found.high


def test_arm_and_control_can_change_places():
    there = hierarchical_bootstrap([seed_difference(0, 12, 3, 100), seed_difference(1, 7, 9, 80)])
    back = hierarchical_bootstrap([seed_difference(0, 3, 12, 100), seed_difference(1, 9, 7, 80)])
    assert there[0] == pytest.approx(-back[1], abs=0.01)
    assert there[2] == pytest.approx(back[2], abs=0.05)


def test_equal_outcomes_are_no_difference():
    assert hierarchical_bootstrap([seed_difference(0, 0, 0, 100)] * 3) == (0, 0, 1)


def test_trainings_that_disagree_widen_the_interval():
    alike = hierarchical_bootstrap([seed_difference(n, 20, 10, 500) for n in range(4)])
    apart = hierarchical_bootstrap(
        [seed_difference(n, *counts, 500) for n, counts in enumerate([(80, 10), (0, 50)] * 2)]
    )
    assert apart[1] - apart[0] > 3 * (alike[1] - alike[0])
    assert alike[2] < 0.01 < apart[2]


def test_one_training_has_the_interval_of_its_scenes():
    """The multinomial draw of kinds of scenes is the draw of scenes, with replacement."""
    rng = np.random.default_rng(5)
    values = np.array([1] * 30 + [-1] * 10 + [0] * 60)
    means = rng.choice(values, (20_000, 100)).mean(axis=1)
    low, high, _ = hierarchical_bootstrap([seed_difference(0, 30, 10, 100)])
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.011)


def test_coverage_when_trainings_differ():
    """Over many studies of 8 trainings, the 95 % interval holds the true difference nearly as often as it says."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        true = 0.1
        seeds = []
        for number in range(8):
            share = np.clip(true + rng.normal(0, 0.05), -0.3, 0.3)
            plus = rng.binomial(200, 0.3 + share / 2)
            minus = rng.binomial(200 - plus, (0.3 - share / 2) / (0.7 - share / 2))
            seeds.append(seed_difference(number, plus, minus, 200))
        low, high, _ = hierarchical_bootstrap(seeds)
        covered += low <= true <= high
    assert covered >= 50
