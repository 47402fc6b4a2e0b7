"""Records of episodes from the figures of a loop."""

import json

import numpy as np

from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.episode_log import EpisodeLog


def test_a_command_that_ran_away_leaves_a_record_all_the_same() -> None:
    records: list[EpisodeRecord] = []
    log = EpisodeLog(1, seed=0, max_steps=5, num_envs=1, on_record=records.append)
    log.start()
    log.end(
        episode=0, slot=0, status="failure", error=None, steps=3, total_reward=1.0, max_reward=1.0, max_stage=1,
        replans=1, max_ik_error=float("inf"), overflow_steps=0,
    )  # fmt: skip
    (record,) = records
    assert json.loads(record.to_json())["max_ik_error"] == float(np.finfo(np.float32).max)
    assert EpisodeRecord.from_json(record.to_json()) == record
