"""Pictures per second: one row per size and side, the first side being what the others are compared with."""

import pytest

from imf_jax.benchmark import picture_rates
from imf_jax.commands.benchmarks.readings import PicturesBenchmark
from imf_jax.errors import ArgumentError


def test_a_row_per_size_and_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_rates, "find_opengl", lambda: None)
    (table,) = PicturesBenchmark(cameras=("front",), sizes=(16, 24), scenes=2, rounds=2).run()
    assert [(row["image_size"], row["renderer"], row["visual"]) for row in table.rows] == [
        (size, "warp", visual) for size in (16, 24) for visual in ("mesh", "decimated")
    ]
    assert all(row["pictures_per_s"] > 0 for row in table.rows)
    assert [row["ratio"] for row in table.rows[::2]] == [1, 1]
    assert [row["difference"] for row in table.rows[::2]] == [0, 0]
    assert all(0 < row["difference"] <= 2 for row in table.rows[1::2])


@pytest.mark.parametrize("how", [{"sizes": ()}, {"sizes": (0,)}, {"scenes": 0}, {"cameras": ("back",), "sizes": (16,)}])
def test_bad_flags_are_refused(how: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ArgumentError):
        PicturesBenchmark(**how).run()  # type: ignore[arg-type]
