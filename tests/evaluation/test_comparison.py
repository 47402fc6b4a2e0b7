"""Paired comparison: the test, the episodes that differ, and what must not be paired."""

from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest

from imf_jax.commands.report import say_comparison
from imf_jax.errors import ArgumentError
from imf_jax.evaluation.report.comparison import Comparison, compare, conclusion, holm_correction, mcnemar_p_value
from imf_jax.evaluation.report.levels import level_curves
from imf_jax.evaluation.report.load import Evaluation
from imf_jax.evaluation.report.page import write_comparison
from imf_jax.rollout.episode import EpisodeRecord


def evaluation(outcomes: str, name: str = "a", seed: int = 0, **manifest) -> Evaluation:
    """One letter per episode: s(uccess), f(ailure), t(imeout), e(rror)."""
    statuses = {"s": "success", "f": "failure", "t": "timeout", "e": "error"}
    records = tuple(
        EpisodeRecord(
            episode=episode, seed=seed, env_slot=0, status=statuses[letter], steps=9, start_step=0, end_step=8,
            return_=1.0, max_reward=4.0 if letter == "s" else 2.0, success_step=None, replans=1,
        )
        for episode, letter in enumerate(outcomes)
    )  # fmt: skip
    return Evaluation(Path(name), {"policy": name, "task": "transfer"} | manifest, {}, records, ())


def test_mcnemar_by_hand():
    assert mcnemar_p_value(0, 0) == 1
    assert mcnemar_p_value(3, 3) == 1
    assert mcnemar_p_value(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar_p_value(1, 5) == mcnemar_p_value(5, 1) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar_p_value(4, 21) == pytest.approx(binomtest(4, 25).pvalue)


def test_holm_by_hand():
    assert holm_correction([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_correction([0.9, 0.8]) == [1.0, 1.0]
    assert holm_correction([]) == []


def test_two_evaluations():
    comparison = compare([evaluation("ssssfft", "a"), evaluation("sfsssse", "b")])
    (pair,) = comparison.pairs
    assert (pair.both, pair.neither) == (3, 1)
    assert (pair.only_first, pair.only_second) == ((1,), (4, 5))
    assert pair.p_value == pair.p_value_holm == mcnemar_p_value(1, 2)
    assert pair.difference == pytest.approx(100 / 7)
    assert conclusion(comparison, pair) == "a and b differ in 3 episodes, which chance alone may explain"
    assert any(line.startswith("7 episodes cannot rank") for line in comparison.warnings)
    assert "b: 1 ended in an error and count as not successful" in comparison.warnings
    assert comparison.statistics[0]["stages"][3]["n_reached"] == 4


def test_a_clear_difference_and_none():
    comparison = compare([evaluation("f" * 60, "a"), evaluation("s" * 12 + "f" * 48, "b"), evaluation("f" * 60, "c")])
    assert [(pair.first, pair.second) for pair in comparison.pairs] == [(0, 1), (0, 2), (1, 2)]
    better, same, worse = comparison.pairs
    assert better.p_value_holm == pytest.approx(3 * 2 / 2**12)
    said = "b is better than {} by 20.0 percentage points, more than chance explains"
    assert conclusion(comparison, better) == said.format("a")
    assert conclusion(comparison, worse) == said.format("c")
    assert conclusion(comparison, same) == "a and c succeeded in the same episodes"
    assert not comparison.warnings


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (evaluation("sss", "b", seed=1), "of seed 0 and 1"),
        (evaluation("ssss", "b"), r"1 episode is in only one of them \(3\)"),
        (evaluation("s" * 30, "b"), r"27 episodes .* \(3, 4, 5, 6, 7, 8, 9, 10, 11, 12, \.\.\.\)"),
        (evaluation("sss", "b", task="insert"), "tasks are transfer and insert"),
        (evaluation("", "b"), "no finished episode"),
        (evaluation("sss", "b", task=None), "does not say which task"),
    ],
)
def test_other_scenes_are_refused(other, message):
    first = evaluation("sss")
    with pytest.raises(ArgumentError, match=message):
        compare([first, other])
    with pytest.raises(ArgumentError):
        compare([first, first, other])


def test_the_order_of_mixed_seeds_matters():
    first, second = evaluation("ss"), evaluation("ss", "b")
    mixed = [replace(record, seed=record.episode) for record in first.records]
    swapped = [replace(record, seed=1 - record.episode) for record in second.records]
    with pytest.raises(ArgumentError, match="different seeds"):
        compare([replace(first, records=tuple(mixed)), replace(second, records=tuple(swapped))])


def test_names_and_conditions_are_told_apart():
    second = replace(evaluation("s" * 50, "a", max_steps=400), folder=Path("runs/b"), problems=("one line is damaged",))
    comparison: Comparison = compare([evaluation("s" * 50, "a", max_steps=700), second])
    assert comparison.labels == ("a (a)", "a (runs/b)")
    assert comparison.warnings == ("the scenes are the same, but max_steps is not: 700, 400", "one line is damaged")


def test_evaluations_at_several_levels_are_a_curve():
    outcomes = {0.0: "s" * 50 + "ff", 1.0: "s" * 48 + "ffsf", 2.0: "s" * 30 + "f" * 22}
    mass = [
        evaluation(text, f"a, object-mass {level:g}" if level else "a", perturbations={"object-mass": level})
        for level, text in outcomes.items()
    ]
    other = evaluation("s" * 40 + "f" * 12, "a, push 0.5", perturbations={"push": 0.5})
    both = evaluation("f" * 52, "a, object-mass 1, push 1", perturbations={"object-mass": 1, "push": 1})
    stranger = evaluation("f" * 52, "b, object-mass 3", perturbations={"object-mass": 3})
    comparison = compare([mass[2], stranger, mass[0], other, both, mass[1]])
    curve, pushed = level_curves(comparison)
    assert (curve.policy, curve.name) == ("a", "object-mass")
    assert "2^u" in curve.text
    assert [row.level for row in curve.rows] == [0, 1, 2]
    assert [row.figures["n_success"] for row in curve.rows] == [50, 49, 30]
    reference, slight, strong = curve.rows
    assert reference.p_value is reference.p_value_holm is None
    assert (slight.lost, slight.won) == ((48, 49), (50,))
    assert slight.difference == pytest.approx(-100 / 52)
    assert slight.p_value == mcnemar_p_value(2, 1)
    assert (len(strong.lost), strong.won) == (20, ())
    assert strong.p_value_holm == pytest.approx(2 * mcnemar_p_value(20, 0))
    assert strong.lost_at == (("left_touch", 20),), "they reached stage 2 of 4"
    assert strong.lost_text == "20 left touch"
    assert (pushed.name, [row.level for row in pushed.rows]) == ("push", [0, 0.5])
    assert curve.chart.count("<circle") == curve.chart.count('<line class="curve') == 3
    assert level_curves(compare([evaluation("s", "a"), evaluation("f", "b")])) == ()


def test_lost_episodes_that_reached_every_stage(tmp_path: Path):
    def at(level: float, text: str) -> Evaluation:
        found = evaluation(text, "a" if not level else f"a, push {level:g}", perturbations={"push": level})
        return replace(found, records=tuple(replace(record, max_stage=4) for record in found.records))

    comparison = compare([at(0.0, "ss"), at(1.0, "sf")])
    (curve,) = level_curves(comparison)
    assert curve.rows[1].lost_text == "1 the end"
    page = write_comparison(comparison, tmp_path / "page.html").read_text()
    assert "a: push</h2>" in page
    assert "lost before reaching" in page
    say_comparison(comparison)
