"""Who is in charge of a scene: three states and the four moves between them, for many scenes at once.

    autonomous --pause--> paused --correct--> correcting
    autonomous <-resume-- paused <-release--- correcting

Charge never goes from the policy to the corrector directly: the pause between them is when the corrector looks at
where the hands are, so that it goes on from there.
"""

from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Mode(IntEnum):
    """Who acts: the policy, nobody (the last command is held), the corrector."""

    AUTONOMOUS = 0
    PAUSED = 1
    CORRECTING = 2


class Move(IntEnum):
    """What can be asked for; STAY is always legal."""

    STAY = 0
    PAUSE = 1
    RESUME = 2
    CORRECT = 3
    RELEASE = 4


LEGAL = {
    (Mode.AUTONOMOUS, Move.PAUSE): Mode.PAUSED,
    (Mode.PAUSED, Move.RESUME): Mode.AUTONOMOUS,
    (Mode.PAUSED, Move.CORRECT): Mode.CORRECTING,
    (Mode.CORRECTING, Move.RELEASE): Mode.PAUSED,
}


class Moved(NamedTuple):
    """Modes after moves, int32 (B,), and whether each move was legal, bool (B,); an illegal one changes nothing."""

    mode: Array
    legal: Array


def move(mode: Array, asked: Array) -> Moved:
    """Make a move in every scene.

    Args:
        mode: int32 (B,) values of `Mode`.
        asked: int32 (B,) values of `Move`.
    """
    after, legal = mode, asked == Move.STAY
    for (source, wanted), target in LEGAL.items():
        applies = (mode == source) & (asked == wanted)
        after, legal = jnp.where(applies, target, after), legal | applies
    return Moved(after.astype(jnp.int32), legal)


def choose_move(mode: Array, wanted: Array) -> Array:
    """The legal move, int32 (B,), that brings each scene nearer to who should be in charge.

    Args:
        mode: int32 (B,).
        wanted: bool (B,) the corrector should be in charge; else the policy.
    """
    moves = {
        Mode.AUTONOMOUS: (Move.STAY, Move.PAUSE),
        Mode.PAUSED: (Move.RESUME, Move.CORRECT),
        Mode.CORRECTING: (Move.RELEASE, Move.STAY),
    }
    asked = jnp.zeros_like(mode)
    for source, (without, with_corrector) in moves.items():
        asked = jnp.where(mode == source, jnp.where(wanted, with_corrector, without), asked)
    return asked.astype(jnp.int32)
