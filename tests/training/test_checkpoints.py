"""Checkpoints: complete or ignored, enough to rebuild the policy, and the right ones kept."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from transfer_task import SPACES

from imf_jax import checkpoints
from imf_jax.checkpoints import CheckpointMeta, checkpoint_path, complete_checkpoints, load_policy, newest_checkpoint
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.policy import build_policy
from imf_jax.training import saved_state
from imf_jax.training.saved_state import best_checkpoint, prune, restore_state, save_checkpoint
from imf_jax.training.state import initial_state, trained_policy

ENV_STATE_DIM = 7


@pytest.fixture
def policy(config):
    policy = build_policy(config, SPACES, ENV_STATE_DIM)
    rng = np.random.default_rng(0)

    def statistics(width: int) -> dict[str, np.ndarray]:
        low = rng.normal(size=width)
        return {"min": low, "max": low + 2, "mean": low + 1, "std": np.ones(width)}

    policy.set_statistics({"action": statistics(16), "qpos": statistics(16), "env_state": statistics(ENV_STATE_DIM)})
    return policy


@pytest.fixture
def state(policy, config):
    """A state in which no two parts are equal."""
    state, frozen = initial_state(policy, config)
    state = state._replace(
        average=jax.tree.map(lambda leaf: leaf + 0.25, state.params),
        optimizer=jax.tree.map(lambda leaf: leaf + jnp.asarray(3, leaf.dtype), state.optimizer),
        sums=jax.tree.map(lambda leaf: leaf + 0.5, state.sums),
    )
    return state, frozen


def save(run, state, config, step=1, validation=None):
    state, frozen = state
    state = state._replace(step=jnp.int32(step))
    meta = CheckpointMeta(step, "transfer", ENV_STATE_DIM, "average", "00", validation, {})
    return save_checkpoint(run, state, frozen, config, meta), state


@pytest.mark.parametrize("ema_decay", [0.9, 0.0])
def test_state_comes_back_bit_for_bit(policy, config, same_leaves, ema_decay, tmp_path):
    config = replace(config, optimizer=replace(config.optimizer, ema_decay=ema_decay))
    state, frozen = initial_state(policy, config)
    assert (state.average is None) == (ema_decay == 0)
    state = jax.tree.map(lambda leaf: leaf + jnp.asarray(1.5, leaf.dtype), state)
    path, state = save(tmp_path, (state, frozen), config, step=7)
    template, _ = initial_state(build_policy(config, SPACES, ENV_STATE_DIM), config)
    same_leaves(restore_state(path, template, frozen), state)


def test_loaded_policy_acts_with_the_average_and_its_statistics(state, config, tmp_path):
    path, saved = save(tmp_path, state, config, step=5)
    observation = {"state": jnp.full((1, 2, 16), 0.3), "env_state": jnp.full((1, 2, ENV_STATE_DIM), 0.2)}
    noise = jax.random.normal(jax.random.key(0), (1, 16, 16))
    expected = trained_policy(saved, state[1]).plan(observation, noise)
    moved = shutil.copytree(path, tmp_path / "elsewhere" / "5")  # a checkpoint folder alone is enough
    shutil.rmtree(tmp_path / "checkpoints")
    loaded = load_policy(moved)
    np.testing.assert_array_equal(loaded.policy.plan(observation, noise), expected)
    raw = trained_policy(saved._replace(average=None), state[1]).plan(observation, noise)
    assert not np.allclose(raw, expected)
    assert (loaded.step, loaded.meta.env_state_dim, loaded.config) == (5, ENV_STATE_DIM, config)


def test_trained_policy_does_not_share_buffers(state):
    state, frozen = state
    policy = trained_policy(state, frozen)
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    jax.block_until_ready(policy.head.norm.scale[...] + 1)


def test_half_written_checkpoints_are_ignored(state, config, tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, state, config, step)
    (checkpoint_path(tmp_path, 2) / "meta.json").unlink()
    array_file = max((checkpoint_path(tmp_path, 3) / "policy").rglob("*"), key=lambda path: path.stat().st_size)
    array_file.write_bytes(array_file.read_bytes()[:-5])
    shutil.rmtree(checkpoint_path(tmp_path, 4) / "training")
    (checkpoint_path(tmp_path, 5) / "meta.json").write_text('{"step": 5')
    (tmp_path / "checkpoints" / ".6.0123abcd.partial").mkdir()
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 1)
    assert load_policy(tmp_path).step == 1
    with pytest.raises(UserError, match=r"checkpoints/4 is incomplete .*training"):
        load_policy(checkpoint_path(tmp_path, 4))


def test_a_failed_write_leaves_nothing(state, config, tmp_path, monkeypatch):
    def full_disk(path, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_state, "write_json", full_disk)
    with pytest.raises(UserError, match="No space left"):
        save(tmp_path, state, config)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["lr=[0,1]", "a[!b]*?{c}", "100 %20#", "back\\slash", "gs:", "zażółć", os.fsdecode(b"\xff")]
)
def test_every_name_of_a_run_folder_can_be_read(state, config, tmp_path, monkeypatch, same_leaves, name):
    monkeypatch.chdir(tmp_path)
    for run in (Path(name), tmp_path / name / ".."):
        run.mkdir(exist_ok=True)
        path, saved = save(run, state, config)
        assert newest_checkpoint(run) == path
        same_leaves(restore_state(path, *state), saved)


def test_a_checkpoint_that_cannot_be_read_back_is_none(state, config, tmp_path, monkeypatch):
    save(tmp_path, state, config, step=1)

    def unreadable(self, *arguments):
        raise ValueError('NOT_FOUND: Error opening "zarr" driver\n' + "and pages more\n" * 99)

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", unreadable)
    with pytest.raises(UserError, match=r'cannot write checkpoint .*/2 \(NOT_FOUND: Error opening "zarr" driver\)'):
        save(tmp_path, state, config, step=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_missing_checkpoints_are_told_in_one_line(tmp_path):
    with pytest.raises(ArgumentError, match="there is no checkpoint or run folder"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="neither a checkpoint nor a run"):
        load_policy(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_policy(tmp_path)


def test_best_is_by_success_then_step_and_by_return_before_any_success(state, config, tmp_path):
    def result(success, total):
        return {"success": success, "return": total}

    save(tmp_path, state, config, 10)
    assert best_checkpoint(tmp_path)[0].name == "10"
    results = {
        12: result(0.0, 3.0), 14: result(0.0, 2.0),
        20: result(0.4, 9.0), 30: result(0.5, 3.0), 40: result(0.5, 2.0), 50: result(0.4, 9.0), 60: None,
    }  # fmt: skip
    best = {}
    for step, validation in results.items():
        save(tmp_path, state, config, step, validation)
        best[step] = best_checkpoint(tmp_path)[1].step
    assert best == {12: 12, 14: 12, 20: 20, 30: 30, 40: 40, 50: 40, 60: 40}


def test_prune_keeps_the_newest_and_the_best(state, config, tmp_path):
    for step, success in ((1, 0.1), (2, 0.9), (3, 0.2), (4, 0.3), (5, 0.4)):
        save(tmp_path, state, config, step, {"success": success, "return": 0.0})
    (tmp_path / "checkpoints" / ".6.0123abcd.partial").mkdir()
    prune(tmp_path, 2)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["2", "4", "5"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]


def test_a_checkpoint_that_does_not_fit_is_refused(state, config, tmp_path):
    path, _ = save(tmp_path, state, config)
    values = json.loads((path / "config.json").read_text())
    values["policy"]["head"]["n_emb"] = 32
    (path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError):
        load_policy(path)


def test_meta_is_read_by_its_types(state, config, tmp_path):
    path, _ = save(tmp_path, state, config, validation={"success": 1, "return": 2.5})
    values = json.loads((path / "meta.json").read_text())
    del values["encoder"]  # older checkpoints have no such entry
    (path / "meta.json").write_text(json.dumps(values))
    assert checkpoints.read_meta(path).validation == {"success": 1, "return": 2.5}
    (path / "meta.json").write_text(json.dumps(values | {"validation": {"success": "often"}}))
    with pytest.raises(UserError, match=r"field validation\['success'\] is 'often'; it must be a finite number"):
        load_policy(path)


def test_config_of_another_version_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"max_steps": 3, "warp_speed": 9}')
    with pytest.raises(UserError, match="warp_speed"):
        checkpoints.read_config(tmp_path)
