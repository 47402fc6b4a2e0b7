"""The benchmark of cached features runs the encoder on one side and not on the other."""

import pytest

from imf_jax.benchmark import lewm
from imf_jax.benchmark.features import measure
from imf_jax.models.lewm import LewmSizes
from imf_jax.models.vit import VitSizes

TINY = LewmSizes(VitSizes(hidden=48, layers=4, heads=1, mlp=96, patch=4, image_size=32), 24, output=12)


@pytest.mark.parametrize("fusion", ["row", "grid"])
def test_both_sides_are_timed(fusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lewm, "SIZES", TINY)
    speed = measure(width=16, layers=1, batch=2, rounds=2, fusion=fusion, image_size=40)  # type: ignore[arg-type]
    assert (speed.width, speed.layers, speed.batch, speed.fusion) == (16, 1, 2, fusion)
    assert 0 < speed.cached_ms < speed.embedding_ms
    assert speed.ratio > 1
