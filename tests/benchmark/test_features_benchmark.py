"""The benchmark of cached features times both sides; which is faster is not for a test to say."""

import pytest

from imf_jax.benchmark import lewm
from imf_jax.benchmark.features import measure
from imf_jax.models.encoders.lewm import LewmSizes
from imf_jax.models.encoders.vit import VitSizes

TINY = LewmSizes(VitSizes(hidden=16, layers=1, heads=1, mlp=16, patch=4, image_size=8), 24, output=12)


@pytest.mark.long
def test_both_sides_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lewm, "SIZES", TINY)
    speed = measure(width=16, layers=1, batch=2, rounds=2, fusion="grid", image_size=8)
    assert (speed.width, speed.layers, speed.batch, speed.fusion) == (16, 1, 2, "grid")
    assert min(speed.cached_ms, speed.embedding_ms, speed.ratio) > 0
