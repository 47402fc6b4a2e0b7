"""A served plan beside the bare plan: the same chunk, and a row of figures that hang together."""

import pytest

from imf_jax.commands.benchmarks.loops import ServeBenchmark
from imf_jax.errors import ArgumentError


@pytest.mark.long
def test_a_row_per_size() -> None:
    (table,) = ServeBenchmark(sizes=("32/1",), clients=2, rounds=3, seconds=0.2).run()
    (row,) = table.rows
    assert (row["size"], row["clients"]) == ("32/1", 2)
    assert all(row[name] > 0 for name in ("bare_ms", "served_ms", "one_per_s", "all_per_s", "gain"))


@pytest.mark.parametrize("how", [{"clients": 0}, {"rounds": 0}, {"seconds": 0.0}, {"sizes": ("wide",)}])
def test_bad_flags_are_refused(how: dict[str, int]) -> None:
    with pytest.raises(ArgumentError):
        ServeBenchmark(**how).run()  # type: ignore[arg-type]
