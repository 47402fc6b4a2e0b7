"""Rounds: corrections join the demonstrations, each policy meets the same validation scenes, the table says it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.config import HeadConfig, PolicyConfig, TrainConfig
from imf_jax.data.episodes import Episode, list_episodes, read_episode, write_episodes
from imf_jax.data.statistics import check_statistics, compute_statistics, write_statistics
from imf_jax.data.windows import load_demonstrations
from imf_jax.errors import EXIT_OK, ArgumentError
from imf_jax.rollout.writers import read_records
from imf_jax.sim.tasks.transfer import Transfer
from imf_jax.strategies import rounds
from imf_jax.strategies.settings import DaggerConfig, DatasetConfig, RolloutConfig
from imf_jax.training.checkpoints import CheckpointMeta, save_checkpoint
from imf_jax.training.state import build_policy, initial_state


def demonstration(number: int) -> Episode:
    rng = np.random.default_rng(number)
    action = rng.normal(0.4, 0.1, (30, 16)).astype(np.float32)
    return Episode(
        action=action, qpos=action.copy(), env_state=rng.normal(size=(30, 7)).astype(np.float32),
        reward=np.zeros(30, np.float32), noise=np.zeros((30, 16), np.float32), seed=1, episode=number,
        task="transfer", control_hz=50.0, success=True,
    )  # fmt: skip


def untrained(config: TrainConfig) -> int:
    """A run folder with initial weights: how training goes is tested elsewhere."""
    _, statistics = load_demonstrations(config.data)
    policy = build_policy(config, 7)
    policy.set_statistics(statistics.arrays)
    state, frozen = initial_state(policy, config)
    meta = CheckpointMeta(config.max_steps, "transfer", 7, "average", "", None, {})
    save_checkpoint(config.out, state._replace(step=jnp.int32(config.max_steps)), frozen, config, meta)
    return EXIT_OK


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A policy that knows nothing."""
    write_episodes(tmp_path / "demos", [demonstration(number) for number in range(3)])
    write_statistics(tmp_path / "demos")
    head = HeadConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=2)
    untrained(TrainConfig(data=tmp_path / "demos", out=tmp_path / "run", policy=PolicyConfig(head=head)))
    return tmp_path / "run"


def test_two_rounds(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transfer, "max_steps", 40)
    asked: list[TrainConfig] = []

    def train_round(config: TrainConfig) -> int:
        asked.append(config)
        return untrained(config)

    monkeypatch.setattr(rounds, "train_round", train_round)
    out = tmp_path / "dagger"
    notes: list[str] = []
    config = RolloutConfig(
        strategy="dagger", checkpoint=run, episodes=2, num_envs=2, plan_batch=2, backend="native",
        recording=DatasetConfig(tmp_path / "rollout_dagger"),
        dagger=DaggerConfig(
            intervene=("no_progress",), no_progress_steps=10, rounds=2, out=out, train_steps=2, validation_episodes=2
        ),
    )  # fmt: skip
    summary = rounds.run_rounds(config, on_note=notes.append)
    assert summary.failed is None
    table = json.loads((out / "rounds.json").read_text())["rounds"]
    assert [row["round"] for row in table] == [0, 1, 2]
    assert [row["n_episodes"] for row in table] == [2, 2, 2]
    assert [note.split(":")[0] for note in notes] == ["round 0", "round 1", "round 2"]
    # Four scenes of their own were supervised, each was corrected from its tenth step to its end.
    assert [row["corrections"] for row in table[1:]] == [2, 2]
    assert [row["corrected_frames"] for row in table[1:]] == [60, 60]
    assert [row["demonstrations"] for row in table] == [3, 5, 7]
    demonstrations = [read_episode(path) for path in list_episodes(out / "demonstrations")]
    check_statistics(out / "demonstrations", compute_statistics(demonstrations))
    np.testing.assert_array_equal(demonstrations[0].action, demonstration(0).action)
    assert len({tuple(episode.env_state[0]) for episode in demonstrations[3:]}) == 4
    assert [len(episode) for episode in demonstrations[3:]] == [30] * 4
    for number in range(3):
        records, _ = read_records(out / f"round_{number}" / "evaluation")
        assert [(record.episode, record.seed) for record in records] == [(0, 2**30), (1, 2**30)]
    assert [(c.max_steps, c.data, c.validation.num_episodes) for c in asked] == [(2, out / "demonstrations", 0)] * 2
    with pytest.raises(ArgumentError, match="exists already; choose another folder"):
        rounds.run_rounds(replace(config, recording=DatasetConfig(tmp_path / "rollout_more")))


def test_rounds_need_demonstrations_before_anything_is_made(run: Path, tmp_path: Path) -> None:
    config: Any = RolloutConfig(
        strategy="dagger", checkpoint=run, recording=DatasetConfig(tmp_path / "rollout_dagger"), backend="native",
        dagger=DaggerConfig(rounds=1, out=tmp_path / "dagger", demonstrations=tmp_path / "nowhere"),
    )  # fmt: skip
    with pytest.raises(Exception, match="nowhere is not a folder"):
        rounds.run_rounds(config)
    assert not (tmp_path / "dagger").exists()
    assert not (tmp_path / "rollout_dagger").exists()
