"""The compiled loop gives free rows to the next episodes: the same records, and little is simulated in vain."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from point_world import MAX_STEPS, PointBackend, Straight
from transfer_task import SPACES

from imf_jax.rollout import compiled
from imf_jax.rollout.compiled import CompiledRollout, tail_rows
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.episode_log import RolloutResult
from imf_jax.rollout.recorders.trajectory import TrajectoryRecorder
from imf_jax.rollout.schedule import RowSchedule
from imf_jax.sim.backends.base import SimState, StepOutput

Records = dict[int, EpisodeRecord]


def run(episodes: Any = range(30), *, num_envs: int = 8, fault: float = 99.0, **options: Any) -> tuple[Records, Any]:
    records: list[EpisodeRecord] = []
    rollout = CompiledRollout(
        PointBackend(), SimpleNamespace(program=Straight(fault=fault), weights=jnp.float32(1e-3)), list(episodes),
        seed=0, max_steps=MAX_STEPS, num_envs=num_envs, call_steps=8, on_record=records.append, **options,
    )  # fmt: skip
    rollout.run()
    return {record.episode: record for record in records}, rollout


def what_happened(records: Records) -> Records:
    return {e: replace(records[e], env_slot=0, start_step=0, end_step=0, artifacts={}) for e in sorted(records)}


@pytest.fixture(scope="module")
def frozen() -> tuple[Records, Any]:
    return run(refill=False)


@pytest.fixture(scope="module")
def with_tail(tmp_path_factory: pytest.TempPathFactory) -> tuple[Records, Any, Path]:
    """The same episodes in another order, captured, and with a program of two rows for the tail."""
    folder, order = tmp_path_factory.mktemp("captures"), np.random.default_rng(0).permutation(30).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "tail_rows", lambda *_: 2)
        return *run(order, recorders=[TrajectoryRecorder(folder, SPACES)]), folder


def useful(rollout: Any) -> float:
    result: RolloutResult = rollout._log.result
    return result.live_scene_steps / result.scene_steps


def test_records_are_those_of_batches_that_end_together(frozen: Any) -> None:
    records, rollout = run()
    assert what_happened(records) == what_happened(frozen[0])
    assert {record.status for record in records.values()} == {"success", "timeout", "error"}
    assert useful(rollout) > 1.2 * useful(frozen[1])
    assert rollout._log.result.live_scene_steps == sum(record.steps for record in records.values())


def test_the_tail_goes_on_in_a_smaller_program(frozen: Any, with_tail: Any) -> None:
    records, rollout, folder = with_tail
    assert what_happened(records) == what_happened(frozen[0])
    loop = rollout._loop
    assert [function._cache_size() for function in (loop.begin, loop.refill, loop.gather)] == [1] * 3
    assert loop.advance._cache_size() == 2
    for record in records.values():
        with np.load(folder / record.artifacts["trajectory"]) as file:
            assert len(file["reward"]) == record.steps
            assert file["reward"].sum() == pytest.approx(record.return_, rel=1e-5)


def test_slots_have_time_lines_without_gaps(with_tail: Any) -> None:
    slots = sorted(with_tail[0].values(), key=lambda record: (record.env_slot, record.start_step))
    timelines = {slot: list(lines) for slot, lines in itertools.groupby(slots, lambda record: record.env_slot)}
    assert sorted(timelines) == list(range(8))
    assert max(map(len, timelines.values())) > 2
    for lines in timelines.values():
        assert [r.start_step for r in lines] == [0, *(r.end_step + 1 for r in lines[:-1])]


def test_rows_are_filled_in_order_and_keep_their_slots() -> None:
    rows = RowSchedule(range(10, 17), 4)
    assert rows.fill().all()
    rows.running[[1, 3]] = False
    rows.steps[:] = 5
    assert rows.fill().tolist() == [False, True, False, True]
    assert (rows.episodes.tolist(), rows.steps.tolist()) == ([10, 14, 12, 15], [5, 0, 5, 0])
    rows.running[:] = [False, True, False, False]
    assert not rows.fits(2)  # an episode is pending
    assert rows.fill().tolist() == [True, False, False, False]
    assert rows.fits(2)
    assert rows.gather(2).tolist() == [0, 1]
    assert (rows.episodes.tolist(), rows.slots.tolist(), rows.running.all()) == ([16, 14], [0, 1], True)
    rows.running[0] = False
    assert rows.gather(1).tolist() == [1]
    assert rows.slots.tolist() == [1]


@pytest.mark.parametrize(
    ("num_envs", "platform", "devices", "expected"),
    [(512, "gpu", 1, 128), (512, "gpu", 3, 129), (512, "cpu", 1, 0), (64, "gpu", 1, 0), (1, "gpu", 1, 0)],
)
def test_a_tail_has_a_program_where_it_pays(num_envs: int, platform: str, devices: int, expected: int) -> None:
    assert tail_rows(num_envs, 700, [SimpleNamespace(platform=platform)] * devices) == expected


class DrawnLengths(PointBackend):
    """Scenes that succeed after 130 to 160 control steps with a probability, and never otherwise."""

    def __init__(self, share: float) -> None:
        self.share = share

    def reset(self, keys: jax.Array) -> tuple[SimState, StepOutput]:
        draws = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
        length = jnp.where(draws[:, 0] < self.share, 130 + jnp.floor(31 * draws[:, 1]), jnp.inf)
        state, output = super().reset(keys)
        return state._replace(task={"length": length}), output._replace(success=jnp.zeros(len(draws), bool))

    def step(self, state: SimState, action: jax.Array) -> tuple[SimState, StepOutput]:
        state, output = super().step(state, action)
        return state, output._replace(success=state.step >= state.task["length"])


@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_four_fifths_of_what_is_simulated_are_used(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = tail_rows(512, 700, [SimpleNamespace(platform="gpu")])
    monkeypatch.setattr(compiled, "tail_rows", lambda *_: on_gpu)
    records: list[EpisodeRecord] = []
    planner = SimpleNamespace(program=Straight(), weights=())
    rollout = CompiledRollout(
        DrawnLengths(share), planner, range(4096), seed=0, max_steps=700, num_envs=512, on_record=records.append
    )
    rollout.run()
    assert len(records) == 4096
    assert {record.status for record in records} == {"success", "timeout"}
    assert np.mean([record.status == "success" for record in records]) == pytest.approx(share, abs=0.03)
    assert useful(rollout) >= 0.8
