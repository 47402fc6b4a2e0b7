"""The benchmark compares sides that compute the same, and says so when they do not."""

import sys
from pathlib import Path

import numpy as np
import pytest

from imf_jax.benchmark.policy import check_agreement, load_peer, measure
from imf_jax.errors import UserError

PEER = """
import numpy as np
class Peer:
    def train_step(self, x, noise, r, t, condition):
        return np.float32({loss})
    def plan(self, noise, condition):
        return noise
def build(config, weights, threads):
    assert config["n_emb"] == 16 and config["condition_dim"] == 23 and threads >= 1
    assert weights["input_emb.weight"].shape == (16, 16)
    return Peer()
"""


def test_both_sides_agree_and_are_timed() -> None:
    rows = measure(16, 1, batch=4, plan_batch=2, rounds=2, peer=None)
    assert [(row.what, row.side) for row in rows] == [
        ("training, batch 4", "imf_jax"),
        ("training, batch 4", "plain JAX"),
        ("plan, batch 2", "imf_jax"),
        ("plan, batch 2", "plain JAX"),
    ]
    assert all(row.median_ms > 0 and row.compile_s for row in rows)
    assert rows[0].ratio == rows[2].ratio == 1


def test_a_peer_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    peer = tmp_path / "mine.py"
    peer.write_text(PEER.format(loss=5.0))
    with pytest.raises(UserError, match=r"training, batch 4: mine differs from imf_jax by"):
        measure(16, 1, batch=4, plan_batch=2, rounds=1, peer=peer)


@pytest.mark.parametrize(("text", "message"), [(None, "is no Python file"), ("x = 1", "has no function `build")])
def test_a_file_that_is_no_peer_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    peer = tmp_path / "mine.py"
    if text is not None:
        peer.write_text(text)
    with pytest.raises(UserError, match=message):
        measure(16, 1, batch=4, plan_batch=2, rounds=1, peer=peer)


def test_the_ready_made_peer_needs_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "imf_jax.benchmark.torch_head", raising=False)
    with pytest.raises(UserError, match="--peer torch: torch is not installed; run `make parity`"):
        load_peer(Path("torch"))


def test_agreement_is_relative_and_notices_nan() -> None:
    ones = np.ones(3)
    check_agreement("plan", [("imf_jax", 100 * ones), ("other", 100.01 * ones)])
    check_agreement("step", [("imf_jax", (ones[0], None)), ("other", ones[0])])
    for wrong in (1.01 * ones, np.nan * ones):
        with pytest.raises(UserError, match="other differs"):
            check_agreement("plan", [("imf_jax", ones), ("other", wrong)])
