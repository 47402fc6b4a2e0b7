"""The benchmark of reading measures both kinds of passes, and says in one line when the peer cannot be started."""

import sys
from pathlib import Path

import pytest

from imf_jax.benchmark.reading import measure
from imf_jax.errors import UserError

SMALL = {"episodes": 2, "steps": 4, "height": 16, "width": 32, "rounds": 1}


def test_passes_are_measured_without_a_peer() -> None:
    speeds = measure(**SMALL)
    assert [(speed.order, speed.frames, speed.lerobot, speed.ratio) for speed in speeds] == [
        ("in order", 8, None, None), ("shuffled", 8, None, None),
    ]  # fmt: skip
    assert all(speed.imf_jax > 0 for speed in speeds)


def test_a_peer_that_cannot_be_started_is_one_line(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match=r"cannot be started \(.*\); make lerobot-check makes one"):
        measure(**SMALL, peer=Path("nowhere/python"))
    with pytest.raises(UserError, match="cannot open a dataset with lerobot"):
        measure(**SMALL, peer=Path(sys.executable))
