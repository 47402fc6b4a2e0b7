"""Keys, seed ranges and the record schema."""

import json

import jax
import numpy as np
import pytest

from imf_jax.config import SEEDS
from imf_jax.errors import ArgumentError
from imf_jax.rollout.episode import SCHEMA_VERSION, EpisodeRecord
from imf_jax.seeds import SPLITS, noise_keys, scene_keys, split_seed

RECORD = EpisodeRecord(
    episode=7,
    seed=3,
    env_slot=1,
    status="success",
    steps=120,
    start_step=700,
    end_step=819,
    return_=1.5,
    max_reward=4.0,
    success_step=119,
    replans=15,
    artifacts={"trajectory": "episodes/ep_000007/trajectory.npz"},
)


def data(keys: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


def test_scene_keys_are_the_documented_folds_whatever_the_batch() -> None:
    keys = data(scene_keys(5, [3, 900, 0]))
    for row, episode in enumerate([3, 900, 0]):
        expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), episode), 0)
        np.testing.assert_array_equal(keys[row], data(expected))
        np.testing.assert_array_equal(keys[row], data(scene_keys(5, [episode]))[0])


def test_scene_keys_are_pinned() -> None:
    """Results that people have published must stay reproducible: these numbers may never change."""
    assert data(scene_keys(0, [0, 1])).tolist() == [[4165894930, 804218099], [346279018, 360566543]]


def test_noise_keys_differ_by_episode_replan_and_from_the_scene() -> None:
    keys = data(noise_keys(5, np.array([0, 0, 1]), np.array([0, 1, 0])))
    expected = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 0), 1), 1)
    np.testing.assert_array_equal(keys[1], data(expected))
    everything = np.concatenate([keys, data(scene_keys(5, [0, 1]))])
    assert len({tuple(key) for key in everything.tolist()}) == 5


def test_seed_ranges_of_the_splits_do_not_meet() -> None:
    ranges = [[split_seed(split, seed) for seed in (0, 17, SEEDS - 1)] for split in SPLITS]
    made = [seed for seeds in ranges for seed in seeds]
    assert made == sorted(set(made))
    assert made[-1] < 2**32, "a key keeps only 32 bits of its seed"
    assert split_seed("test", 42) == 42
    for seed in (-1, SEEDS):
        with pytest.raises(ArgumentError, match=f"seed {seed} must be in"):
            split_seed("test", seed)


def test_largest_seed_survives_the_key() -> None:
    seed = split_seed("demonstration", SEEDS - 1)
    assert data(scene_keys(seed, [0])).tolist() != data(scene_keys(seed - 2**31, [0])).tolist()


def test_record_round_trip_and_schema() -> None:
    values = json.loads(RECORD.to_json())
    assert set(values) == {
        "schema", "episode", "seed", "env_slot", "status", "steps", "start_step", "end_step", "return", "max_reward",
        "success_step", "replans", "max_ik_error", "overflow_steps", "error", "artifacts",
    }  # fmt: skip
    assert values["schema"] == SCHEMA_VERSION
    assert "\n" not in RECORD.to_json()
    assert EpisodeRecord.from_json(RECORD.to_json()) == RECORD


def test_reader_ignores_unknown_fields() -> None:
    line = json.dumps({**json.loads(RECORD.to_json()), "mood": "good"})
    assert EpisodeRecord.from_json(line) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"schema": SCHEMA_VERSION + 1}, {"schema": None}, {"status": "fine"}, {"steps": ...}, {"steps": 2.5},
        {"return": float("nan")}, {"success_step": "3"}, {"artifacts": {"video": 3}}, {"artifacts": []},
    ],
)  # fmt: skip
def test_reader_refuses_what_it_cannot_understand(change: dict) -> None:
    values = {**json.loads(RECORD.to_json()), **change}
    line = json.dumps({name: value for name, value in values.items() if value is not ...})
    with pytest.raises(ValueError, match="episode record"):
        EpisodeRecord.from_json(line)


@pytest.mark.parametrize("line", ["", "[1]", '{"schema": 1', "null"])
def test_reader_refuses_broken_lines(line: str) -> None:
    with pytest.raises(ValueError, match=r"must be a JSON object|Expecting"):
        EpisodeRecord.from_json(line)
