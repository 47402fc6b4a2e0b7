"""Diagnostics of an encoder: rank, probes and neighbours of embeddings whose truth is known."""

import numpy as np
import pytest

from imf_jax.training.diagnostics import (
    COLLAPSED_VARIANCE,
    Diagnostics,
    Probe,
    diagnostics_line,
    effective_rank,
    evenly,
    nearest,
    probe,
    ridge_predictions,
)

RANDOM = np.random.default_rng(0)


def test_effective_rank_counts_directions() -> None:
    x = RANDOM.normal(size=(4000, 8))
    assert effective_rank(x) == pytest.approx(8, rel=0.01)
    assert effective_rank(x[:, :2] @ RANDOM.normal(size=(2, 8))) <= 2 + 1e-6
    assert effective_rank(np.ones((10, 8), np.float32) * 3.3) == 1.0
    rotation, _ = np.linalg.qr(RANDOM.normal(size=(8, 8)))
    stretched = x * np.arange(1, 9)
    assert effective_rank(stretched @ rotation + 5) == pytest.approx(effective_rank(stretched))


def test_a_probe_finds_what_is_linear() -> None:
    truth = RANDOM.normal(size=(600, 3))
    embeddings = np.concatenate([truth @ RANDOM.normal(size=(3, 5)), RANDOM.normal(size=(600, 4))], axis=1) + 2.0
    found = probe("box", "cm", embeddings[:500], truth[:500], embeddings[500:], truth[500:], True)
    assert found.error < 0.02 * found.guess
    noise = RANDOM.normal(size=(600, 9))
    useless = probe("box", "cm", noise[:500], truth[:500], noise[500:], truth[500:], True)
    assert useless.error > 0.95 * useless.guess


def test_a_probe_of_constant_embeddings_guesses_the_mean() -> None:
    truth = RANDOM.normal(size=(20, 2))
    np.testing.assert_allclose(
        ridge_predictions(np.ones((20, 4)), truth, np.ones((3, 4))), truth.mean(axis=0)[None] + 0 * truth[:3]
    )


def test_nearest_neighbours() -> None:
    train = np.array([[0.0, 0], [1, 0], [5, 5], [0, 0.4]])
    assert nearest(train, np.array([[0.1, 0.0], [5, 4]]), 2).tolist() == [[0, 3], [2, 1]]


def test_even_choice() -> None:
    assert evenly(np.arange(10, 21), 3).tolist() == [10, 15, 20]
    assert evenly(np.arange(2), 5).tolist() == [0, 1]


def made(variance: float, rank: float) -> Diagnostics:
    return Diagnostics(5, 10, variance, rank, 8, 0.1, 0.2, (Probe("red box", "cm", 1.234, 5.0),))


def test_a_collapse_is_named() -> None:
    assert made(1.0, 6.0).warning is None
    assert f"variance 0.01 (bound {COLLAPSED_VARIANCE})" in str(made(0.01, 6.0).warning)
    assert "effective rank 1.0 of 8" in str(made(1.0, 1.0).warning)


def test_figures_in_one_line() -> None:
    assert diagnostics_line(made(1.0, 6.0).figures()) == "variance 1, effective rank 6.0, red box 1.23 cm"
