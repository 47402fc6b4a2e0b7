"""Three states, four legal moves, nothing else."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.recording.modes import Mode, Move, choose_move, move

LEGAL = {
    (Mode.AUTONOMOUS, Move.PAUSE): Mode.PAUSED,
    (Mode.PAUSED, Move.RESUME): Mode.AUTONOMOUS,
    (Mode.PAUSED, Move.CORRECT): Mode.CORRECTING,
    (Mode.CORRECTING, Move.RELEASE): Mode.PAUSED,
}


def test_every_move_in_every_state_at_once() -> None:
    cases = list(itertools.product(Mode, Move))
    modes, asked = (jnp.array([int(case[k]) for case in cases], jnp.int32) for k in (0, 1))
    moved = move(modes, asked)
    for (mode, wanted), after, legal in zip(cases, moved.mode.tolist(), moved.legal.tolist(), strict=True):
        assert after == LEGAL.get((mode, wanted), mode)
        assert legal == (wanted is Move.STAY or (mode, wanted) in LEGAL)
    assert moved.mode.dtype == jnp.int32
    assert moved.legal.sum() == 4 + 3


@pytest.mark.parametrize("wanted", [False, True])
def test_the_chosen_move_is_legal_and_arrives_within_two_steps(wanted: bool) -> None:
    goal = Mode.CORRECTING if wanted else Mode.AUTONOMOUS
    modes = jnp.array(list(Mode), jnp.int32)
    for _ in range(2):
        moved = move(modes, choose_move(modes, jnp.full(3, wanted)))
        assert moved.legal.all()
        modes = moved.mode
    assert modes.tolist() == [goal] * 3


def test_charge_passes_through_a_pause() -> None:
    rng = np.random.default_rng(0)
    modes = jnp.zeros(200, jnp.int32)
    for _ in range(20):
        after = move(modes, choose_move(modes, jnp.asarray(rng.random(200) < 0.5))).mode
        assert not ((modes != after) & (modes != Mode.PAUSED) & (after != Mode.PAUSED)).any()
        modes = after
    assert set(modes.tolist()) == set(Mode)
