"""Random numbers follow from seeds alone: scenes, noise, batches and initial weights, under every setting of JAX."""

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transfer_task import SPACES

import imf_jax
from imf_jax import seeds
from imf_jax.config import AttnResConfig, ImfConfig, PolicyConfig, Precision, ResNetEncoderConfig, TrainConfig
from imf_jax.evaluation.manifest import environment
from imf_jax.jax_settings import PINNED, matmul_precision, pin_settings, set_precision
from imf_jax.models.objectives.paths import sample_times
from imf_jax.models.policy import build_policy
from imf_jax.seeds import noise_keys, root_key, scene_keys
from imf_jax.sim.backends.native import NativeBackend

OTHERS = {
    "jax_threefry_partitionable": False,
    "jax_default_prng_impl": "rbg",
    "jax_random_seed_offset": 5,
    "jax_enable_custom_prng": True,
    "jax_legacy_prng_key": "error",
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
}


@pytest.fixture
def other_settings() -> Iterator[None]:
    """JAX as nobody should set it; module-wide caches of compiled functions know about it."""
    for name, value in OTHERS.items():
        jax.config.update(name, value)
    yield
    for name in OTHERS:
        jax.config.update(name, PINNED[name])


def streams(backend: NativeBackend) -> dict[str, np.ndarray]:
    """Numbers of every stream, drawn directly and within compiled functions."""
    key, scenes = root_key(3, 1), scene_keys(3, [0, 7])
    head = AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=2)
    weights = build_policy(TrainConfig(policy=PolicyConfig(head), seed=5), SPACES, 7)
    sees = PolicyConfig(head, encoder=ResNetEncoderConfig(width=16))
    pictures = build_policy(TrainConfig(policy=sees, seed=5), SPACES, 7)
    return {
        "scenes": seeds.key_data(scenes),
        "start": backend.reset(scenes)[1].qpos,
        "start from key data": backend.reset(np.asarray(seeds.key_data(scenes)))[1].qpos,
        "noise": seeds.key_data(noise_keys(3, np.array([1, 2]), np.array([0, 5]))),
        "disturbances": seeds.key_data(seeds.disturbance_key(jnp.uint32(3), jnp.uint32(4)))[None],
        "times": np.stack(sample_times(key, 8, ImfConfig())),
        "normal": jax.jit(lambda key: seeds.normal(key, (3, 5)))(key),
        "uniform": jax.jit(jax.vmap(lambda key: seeds.uniform(key, (5,), -1.0, 1.0)))(scenes),
        "whole numbers": seeds.randint(key, (9,), 0, 1000),
        "split": seeds.key_data(seeds.split(key)[1]),
        "weights": np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(nnx.state(weights))]),
        "weights of pictures": np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(nnx.state(pictures))]),
    }


@pytest.fixture(scope="module")
def backend() -> NativeBackend:
    return NativeBackend("transfer")


@pytest.fixture(scope="module")
def usual(backend: NativeBackend) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in streams(backend).items()}


def test_streams_do_not_follow_settings(usual: dict[str, np.ndarray], other_settings: None) -> None:
    for stream, values in streams(NativeBackend("transfer")).items():
        np.testing.assert_array_equal(values, usual[stream], err_msg=stream)
        assert np.asarray(values).dtype == usual[stream].dtype, stream


def test_streams_are_those_of_jax(usual: dict[str, np.ndarray]) -> None:
    key = jax.random.fold_in(jax.random.key(3), 1)
    np.testing.assert_array_equal(usual["normal"], jax.random.normal(key, (3, 5)))
    np.testing.assert_array_equal(usual["whole numbers"], jax.random.randint(key, (9,), 0, 1000))
    scene = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 7), 0)
    np.testing.assert_array_equal(usual["scenes"][1], jax.random.key_data(scene))


def test_all_random_numbers_are_drawn_in_one_place() -> None:
    package = Path(imf_jax.__file__).parent
    for path in package.rglob("*.py"):
        if path.name != "seeds.py":
            assert not re.search(r"\bjax\.random\b", path.read_text(encoding="utf-8")), f"{path}: use imf_jax.seeds"


def test_precision_is_what_the_flag_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the environment has no say; without the flag, products are exact to float32."""
    before = jax.config.values["jax_default_matmul_precision"]
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16")
    try:
        assert pin_settings() == [
            "JAX_DEFAULT_MATMUL_PRECISION=bfloat16 has no effect: this program sets it to highest"
        ]
        assert matmul_precision() == "highest"
        for precision in typing.get_args(Precision):
            set_precision(precision)
            assert environment()["matmul_precision"] == precision
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def test_scripts_run_with_the_defaults_of_jax(other_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_ENABLE_X64", "maybe")
    monkeypatch.setenv("JAX_THREEFRY_PARTITIONABLE", "ON")
    monkeypatch.setenv("JAX_RANDOM_SEED_OFFSET", "0")
    monkeypatch.setenv("JAX_TRANSFER_GUARD", "disallow")
    jax.config.update("jax_transfer_guard_host_to_device", "log")
    unused = pin_settings()
    assert [line.split()[0] for line in unused] == ["JAX_ENABLE_X64=maybe", "JAX_TRANSFER_GUARD=disallow"]
    assert all(jax.config.values[name] == value for name, value in PINNED.items())
