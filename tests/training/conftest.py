"""A folder of small smooth demonstrations and a configuration that trains on it in seconds."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, OptimizerConfig, PolicyConfig, TrainConfig, ValidationConfig
from imf_jax.data.episodes import Episode, write_episodes
from imf_jax.data.statistics import write_statistics


def smooth(steps: int, width: int, phase: float) -> np.ndarray:
    time = np.linspace(0, 1, steps)[:, None]
    return np.sin(time * (1 + np.arange(width)) + phase).astype(np.float32)


def demonstration(episode: int, steps: int = 30, env_state_dim: int = 7, task: str = "transfer") -> Episode:
    return Episode(
        action=smooth(steps, 16, episode),
        state=smooth(steps, 16, episode + 0.5),
        env_state=smooth(steps, env_state_dim, episode + 1.0),
        reward=np.zeros(steps, np.float32),
        noise=np.zeros((steps, 16), np.float32),
        seed=3,
        episode=episode,
        task=task,
        control_hz=50.0,
        success=True,
        spaces=SPACES,
    )


@pytest.fixture(scope="session")
def make_demonstration():
    return demonstration


@pytest.fixture(scope="session")
def demos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    write_episodes(folder, [demonstration(number) for number in range(3)])
    write_statistics(folder)
    return folder


@pytest.fixture
def config(demos, tmp_path) -> TrainConfig:
    return TrainConfig(
        data=demos,
        out=tmp_path / "run",
        max_steps=4,
        batch_size=4,
        save_every=100,
        log_every=2,
        policy=PolicyConfig(head=AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1)),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2, decay_steps=6, ema_decay=0.9),
        validation=ValidationConfig(num_episodes=0),
    )


@pytest.fixture
def same_leaves():
    """Asserts that two pytrees are equal, bit for bit."""

    def check(first, second) -> None:
        assert jax.tree.structure(first) == jax.tree.structure(second)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
            assert a.dtype == b.dtype, path
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))

    return check


@pytest.fixture
def with_out(config, tmp_path):
    return lambda name, **changes: replace(config, out=tmp_path / name, **changes)
