"""The benchmark of policies that train ResNets along: what it measures, and what it refuses."""

import sys

import pytest

from imf_jax.benchmark.resnet import make_peer, make_policy, measure
from imf_jax.commands.benchmarks.networks import ResNetBenchmark
from imf_jax.config import AttnResConfig, PolicyConfig, ResNetEncoderConfig
from imf_jax.errors import ArgumentError, UserError

TINY = PolicyConfig(
    head=AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1),
    encoder=ResNetEncoderConfig(("top",), image_size=33, crop_size=33, keypoints=3, width=16),
)


@pytest.mark.long
def test_training_step_and_plans_are_timed() -> None:
    rows = measure("tiny", TINY, batch=2, plan_batches=(1,), rounds=1, peer=False)
    assert [(row.head, row.what, row.side) for row in rows] == [
        ("tiny", "training, batch 2", "imf_jax"),
        ("tiny", "plan, batch 1", "imf_jax"),
    ]
    assert all(row.median_ms > 0 and row.compile_s and row.ratio == 1 for row in rows)


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        (ResNetBenchmark(presets=("resnet-multitoken",), batches=(1,)), "resnet-multitoken is no IMF-AttnRes policy"),
        (ResNetBenchmark(presets=("transfer-state",), batches=(1,)), "transfer-state is no IMF-AttnRes policy"),
        (ResNetBenchmark(batches=(4,)), "--batches has 1 entries for 2 presets"),
        (ResNetBenchmark(plan_batches=(0,)), "must be positive"),
    ],
)
def test_what_cannot_be_measured_is_refused(benchmark: ResNetBenchmark, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        benchmark.run()


def test_the_peer_needs_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "imf_jax.benchmark.torch_resnet", raising=False)
    monkeypatch.delitem(sys.modules, "imf_jax.benchmark.torch_head", raising=False)
    with pytest.raises(UserError, match=r"torch is not installed; run `make parity`.*--no-peer"):
        make_peer(make_policy("tiny", TINY))
