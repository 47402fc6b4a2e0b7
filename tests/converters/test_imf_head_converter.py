"""Converting IMF-AttnRes heads: the result plans like the head it came from, and what does not fit is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_files import write_safetensors
from flax import nnx

from imf_jax.checkpoints import load_policy
from imf_jax.cli import run_main
from imf_jax.config import AttnResConfig, PolicyConfig
from imf_jax.conversion import imf_head as converter
from imf_jax.conversion.imf_head import Args, convert
from imf_jax.conversion.lewm import Args as LewmArgs
from imf_jax.conversion.lewm import convert as convert_lewm
from imf_jax.conversion.report import DoesNotFitError
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.encoders.lewm import load
from imf_jax.models.encoders.torch_names import torch_state
from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.objectives import paths

FIXTURES = Path(__file__).parents[1] / "fixtures"
SIZES = PolicyConfig(
    AttnResConfig(n_emb=16, n_layer=2, n_head=4, n_kv_head=2), action_dim=16, pred_horizon=8, num_action_steps=4
)
CONDITION = 16 + 7
FLAGS: dict[str, Any] = {"n_head": 4, "pred_horizon": 8, "num_action_steps": 4}

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def head() -> AttnResHead:
    """A head with random weights everywhere, pseudo-queries included."""
    head = AttnResHead(SIZES.head, 16, CONDITION, rngs=nnx.Rngs(0))
    random = np.random.default_rng(0)
    params = nnx.state(head, nnx.Param)
    noisy = jax.tree.map(lambda value: value + jnp.asarray(random.normal(0, 0.2, value.shape), jnp.float32), params)
    nnx.update(head, noisy)
    return head


@pytest.fixture
def weights(head: AttnResHead) -> Tensors:
    """Its tensors under their torch names."""
    return {name: np.ascontiguousarray(value) for name, value in torch_state(head).items()}


@pytest.fixture
def stats(tmp_path: Path) -> Path:
    """A stats.json."""
    random = np.random.default_rng(1)
    values = {}
    for key, width in (("action", 16), ("qpos", 16), ("env_state", 7)):
        low, high = -1 - random.random(width), 1 + random.random(width)
        values[key] = {"min": low, "max": high, "mean": low + high, "std": high - low}
        values[key] = {name: value.tolist() for name, value in values[key].items()} | {"count": 9}
    path = tmp_path / "stats.json"
    path.write_text(json.dumps({"task": "transfer", "num_episodes": 1, "num_steps": 9, "arrays": values}))
    return path


def save(tensors: Tensors, path: Path, prefix: str = "") -> Path:
    """Write a checkpoint."""
    safetensors.numpy.save_file({prefix + name: value for name, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "model.head.", "head.", "policy.model.head.", "_orig_mod.model.head."])
def test_converted_head_plans_like_its_source(
    prefix: str, head: AttnResHead, weights: Tensors, stats: Path, tmp_path: Path
) -> None:
    path = save(weights, tmp_path / "head.safetensors", prefix)
    report = convert(Args(path, tmp_path / "run", stats=stats, **FLAGS))
    assert len(report.used) == len(weights)
    loaded = load_policy(tmp_path / "run")
    assert loaded.config.policy == SIZES

    random = np.random.default_rng(2)
    observation = {
        "state": random.uniform(-1, 1, (3, 2, 16)).astype(np.float32),
        "env_state": random.uniform(-1, 1, (3, 2, 7)).astype(np.float32),
    }
    noise = random.normal(size=(3, 8, 16)).astype(np.float32)
    scaled = []
    statistics = json.loads(stats.read_text())["arrays"]
    for name, key in (("state", "qpos"), ("env_state", "env_state")):
        low, high = (np.array(statistics[key][end], np.float32) for end in ("min", "max"))
        scaled.append(2 * (observation[name] - low) / (high - low) - 1)
    chunk = paths.sample(head, jnp.asarray(noise), jnp.asarray(np.concatenate(scaled, axis=-1)), 1)
    low, high = (np.array(statistics["action"][end], np.float32) for end in ("min", "max"))
    expected = (np.asarray(chunk) + 1) / 2 * (high - low) + low
    planned = np.asarray(loaded.policy.plan(jax.tree.map(jnp.asarray, observation), jnp.asarray(noise)))
    for part in (slice(0, 3), slice(7, 11), slice(15, 16)):  # quaternions are scaled to unit length besides
        np.testing.assert_allclose(planned[..., part], expected[..., part], rtol=0, atol=1e-4)


def test_settings_come_from_a_config_beside(weights: Tensors, stats: Path, tmp_path: Path) -> None:
    path = save(weights, tmp_path / "head.safetensors")
    settings = {"n_head": 4, "n_kv_head": 2, "pred_horizon": 8, "obs_horizon": 2, "num_action_steps": 4}
    (tmp_path / "config.json").write_text(json.dumps({"agent": {"head": settings}}))
    convert(Args(path, tmp_path / "run", stats=stats))
    assert load_policy(tmp_path / "run").config.policy == SIZES


SETTINGS: dict[str, Any] = {"n_head": 4, "n_kv_head": 2, "pred_horizon": 8, "num_action_steps": 4}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"model_type": "gpt2"}, "model_type gpt2"),
        ({"n_emb": 384}, "n_emb 384 and not 16"),
        ({"n_embd": 768}, "n_embd 768 and not 16"),
        ({"n_layer": 12}, "n_layer 12 and not 2"),
        ({"action_dim": 7}, "action_dim 7 and not 16"),
        ({"n_head": 5}, "n_head 5 n_kv_head 2 for 16 channels and 8 of keys"),
        ({"n_head": 10**400}, "n_head 1000"),
        ({"n_kv_head": 4}, "n_head 4 n_kv_head 4 for 16 channels and 8 of keys"),
        ({"n_head": 1, "n_kv_head": None}, "n_head 1 for 16 channels and 8 of keys"),
        ({"pred_horizon": "8"}, "pred_horizon '8'"),
        ({"obs_horizon": 0}, "obs_horizon 0"),
    ],
)
def test_config_of_another_network_is_ignored_and_said(
    other: dict[str, Any], said: str, weights: Tensors, stats: Path, tmp_path: Path
) -> None:
    path = save(weights, tmp_path / "head.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"head": SETTINGS | other}), encoding="utf-8-sig")
    with pytest.raises(ArgumentError, match=f"--n-head is missing.* under head is of another .* ignored: {said}"):
        convert(Args(path, tmp_path / "run", stats=stats))
    report = convert(Args(path, tmp_path / "run", stats=stats, n_head=4))
    assert said in report.notes[0]
    assert "pred_horizon 16: assumed; the tensors do not show it" in report.notes


def test_wrappers_inside_a_name_are_found(weights: Tensors, stats: Path, tmp_path: Path) -> None:
    def wrapped(name: str) -> str:
        name = name.replace("backbone.layers.", "backbone.module.module.layers.")
        name = name.replace("layers.0.fn.", "layers.0._checkpoint_wrapped_module.fn._fsdp_wrapped_module.")
        return name.replace("cond_obs_emb.", "cond_obs_emb._orig_mod.module.")

    path = save(
        {wrapped(name): value for name, value in weights.items()}, tmp_path / "head.safetensors", "policy.module."
    )
    report = convert(Args(path, tmp_path / "run", stats=stats, **FLAGS))
    assert len(report.used) == len(weights)
    assert report.used["policy.module.cond_obs_emb._orig_mod.module.weight"] == "cond_obs_emb.weight"


def test_rare_types_matter_only_where_needed(weights: Tensors, stats: Path, tmp_path: Path) -> None:
    beside = {"attnres_backbone.freqs_cis": ("C64", (2,), bytes(16)), "predictor.tokens": ("U16", (2,), bytes(4))}
    path = write_safetensors(tmp_path / "beside.safetensors", {**weights, **beside})
    report = convert(Args(path, tmp_path / "run", stats=stats, **FLAGS))
    assert set(report.ignored) == set(beside)
    statistic = {"normalizer.action.min": ("F8_E4M3", (16,), bytes(16))}
    path = write_safetensors(tmp_path / "statistic.safetensors", {**weights, **statistic})
    with pytest.raises(UserError, match=r"normalizer\.action\.min has type F8_E4M3"):
        convert(Args(path, tmp_path / "refused", **FLAGS))
    for name, kind in (("ln_f.weight", "F8_E4M3"), ("cond_obs_emb.weight", "F4")):
        needed = {**weights, name: (kind, weights[name].shape, bytes(8))}
        path = write_safetensors(tmp_path / "needed.safetensors", needed)
        with pytest.raises(DoesNotFitError, match=f"mismatched: {name}: {kind} ") as caught:
            convert(Args(path, tmp_path / "refused", stats=stats, **FLAGS))
        assert "\n" not in str(caught.value)


def test_assumptions_are_reported(weights: Tensors, stats: Path, tmp_path: Path) -> None:
    report = convert(Args(save(weights, tmp_path / "head.safetensors"), tmp_path / "run", n_head=4, stats=stats))
    assert "pred_horizon 16: assumed; the tensors do not show it" in report.notes
    assert "n_head 4: from --n-head" in report.notes
    stored = json.loads((tmp_path / "run" / "report.json").read_text())
    assert stored["used"]["input_emb.weight"] == "input_emb.weight"
    assert stored["missing"] == []


def test_statistics_in_the_checkpoint_are_used(weights: Tensors, stats: Path, tmp_path: Path) -> None:
    values = json.loads(stats.read_text())["arrays"]
    for key in ("action", "qpos", "env_state"):
        for moment in ("min", "max", "mean", "std"):
            weights[f"normalizer.{key}.{moment}"] = np.array(values[key][moment], np.float32)
    path = save(weights, tmp_path / "with.safetensors")
    convert(Args(path, tmp_path / "a", **FLAGS))
    convert(Args(path, tmp_path / "b", stats=stats, **FLAGS))
    first, second = load_policy(tmp_path / "a").policy, load_policy(tmp_path / "b").policy
    for ours, theirs in ((first.action_normalizer, second.action_normalizer),):
        np.testing.assert_allclose(ours.scale[...], theirs.scale[...], rtol=1e-6)
        np.testing.assert_allclose(ours.center[...], theirs.center[...], rtol=1e-5)
    copy = {f"ema.module.{name}": value for name, value in weights.items() if name.startswith("normalizer.")}
    convert(Args(save({**weights, **copy}, path), tmp_path / "c", **FLAGS))
    copy["ema.module.normalizer.action.min"] = copy["ema.module.normalizer.action.min"] - 1
    with pytest.raises(UserError, match=r"two different .*normalizer\.action\.min.* give --stats"):
        convert(Args(save({**weights, **copy}, path), tmp_path / "d", **FLAGS))


def test_running_again_changes_nothing(weights: Tensors, stats: Path, tmp_path: Path) -> None:
    path = save(weights, tmp_path / "head.safetensors")
    args = Args(path, tmp_path / "run", stats=stats, **FLAGS)
    convert(args)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert convert(args).notes[-1].endswith("stays as it is")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    with pytest.raises(UserError, match="is taken"):
        convert(Args(path, tmp_path / "run", stats=stats, **{**FLAGS, "num_action_steps": 3}))


def without(*names: str) -> Callable[[Tensors], object]:
    """A change that removes tensors."""
    return lambda tensors: [tensors.pop(name) for name in names]


@pytest.mark.parametrize(
    ("change", "flags", "problem"),
    [
        (without("ln_f.weight"), {}, "missing: ln_f.weight"),
        (without("input_emb.weight"), {}, "missing: input_emb.weight"),
        (without("cond_obs_emb.weight"), {}, "no IMF-AttnRes head"),
        (lambda t: t.update({"extra.weight": np.zeros(3, np.float32)}), {}, "unexpected: extra.weight"),
        (lambda t: t.update({"ln_f.weight": np.zeros(3, np.float32)}), {}, "mismatched: ln_f.weight: (3,)"),
        (lambda t: t.update({"ln_f.weight": np.full(16, np.nan, np.float32)}), {}, "NaN or infinity in ln_f.weight"),
        (lambda t: t.update({"ln_f.weight": np.ones(16, np.int64)}), {}, "mismatched: ln_f.weight: int64"),
        (lambda t: t.update({"cond_obs_emb.weight": np.zeros((16, 208), np.float32)}), {}, "conditioned on 208"),
        (without(), {"n_head": None}, "--n-head is missing"),
        (without(), {"n_head": 5}, "--n-head 5 does not divide"),
        (without(), {"n_kv_head": 4}, "--n-kv-head 4 does not fit"),
        (without(), {"num_action_steps": 9}, "num_action_steps 9"),
        (without(), {"stats": None}, "give --stats"),
        (without(), {"stats": Path("absent/stats.json")}, "is missing"),
        (without(), {"stats": Path("absent.json")}, "is no folder of demonstrations"),
        (without(), {"task": "juggling"}, "is of task transfer"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: Callable[[Tensors], object],
    flags: dict[str, Any],
    problem: str,
    weights: Tensors,
    stats: Path,
    tmp_path: Path,
) -> None:
    change(weights)
    path = save(weights, tmp_path / "head.safetensors")
    with pytest.raises(UserError) as caught:
        convert(Args(path, tmp_path / "new" / "run", **{"stats": stats, **FLAGS, **flags}))
    problems = caught.value.problems if isinstance(caught.value, DoesNotFitError) else []
    assert problem in "\n".join([str(caught.value), *problems])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_head_that_sees_takes_its_encoder_along(stats: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    convert_lewm(LewmArgs(FIXTURES / "lewm" / "new.ckpt", encoder, heads=2))
    head = AttnResHead(SIZES.head, 16, 12 + 16, rngs=nnx.Rngs(1))
    weights = {name: np.ascontiguousarray(value) for name, value in torch_state(head).items()}
    path = save(weights, tmp_path / "head.safetensors")
    with pytest.raises(ArgumentError, match=r"28 channels per step, but robot and scene state .* --lewm"):
        convert(Args(path, tmp_path / "blind", stats=stats, **FLAGS))
    convert(Args(path, tmp_path / "run", stats=stats, lewm=encoder, image_size=16, **FLAGS))
    expected = load(encoder, fusion="row")
    encoder.rename(tmp_path / "moved")
    policy = load_policy(tmp_path / "run").policy
    assert policy.frozen_encoder is not None
    views = np.random.default_rng(3).integers(0, 256, (1, 2, 3, 16, 16, 3), np.uint8)
    observation = {"state": jnp.zeros((1, 2, 16)), "images": jnp.asarray(views)}
    features = expected({name: views[0, :, i] for i, name in enumerate(("r_vis", "top", "front"))})
    np.testing.assert_allclose(policy.condition(observation)[0, :, :12], features, rtol=0, atol=1e-6)
    assert policy.plan(observation, jnp.zeros((1, 8, 16))).shape == (1, 8, 16)


def test_several_heads_need_a_choice(weights: Tensors, stats: Path, tmp_path: Path) -> None:
    both = {f"{owner}.head.{name}": value for owner in ("model", "average") for name, value in weights.items()}
    path = save(both, tmp_path / "both.safetensors")
    with pytest.raises(UserError, match="--prefix"):
        convert(Args(path, tmp_path / "run", stats=stats, **FLAGS))
    report = convert(Args(path, tmp_path / "run", stats=stats, prefix="average.", **FLAGS))
    assert len(report.ignored) == len(weights)


def test_exit_codes(
    weights: Tensors, stats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*flags: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["imf_head.py", *flags])
        with pytest.raises(SystemExit) as caught:
            run_main(converter.main)
        return caught.value.code

    source = ("--checkpoint", str(save(weights, tmp_path / "head.safetensors")))
    assert run(*source, "--inspect") == 0
    assert "pseudo_query  float32 (16,)" in capsys.readouterr().out
    out = ("--out", str(tmp_path / "run"))
    assert run(*source, *out, "--stats", str(stats)) == ArgumentError.exit_code
    assert run(*source, *out, "--stats", str(stats), "--n-head", "4") == 0
    del weights["ln_f.weight"]
    damaged = ("--checkpoint", str(save(weights, tmp_path / "damaged.safetensors")))
    capsys.readouterr()
    assert run(*damaged, "--out", str(tmp_path / "b"), "--stats", str(stats), "--n-head", "4") == 1
    assert capsys.readouterr().err.splitlines()[0] == "missing: ln_f.weight"
