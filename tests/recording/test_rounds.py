"""Rounds: corrections join the demonstrations, each policy meets the same validation scenes, the table says it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax.checkpoints import CheckpointMeta
from imf_jax.config import AttnResConfig, PolicyConfig, TrainConfig
from imf_jax.config.recording import DaggerConfig, DatasetConfig, RolloutConfig
from imf_jax.data.episodes import Episode, list_episodes, read_episode, write_episodes
from imf_jax.data.lerobot.reader import open_dataset
from imf_jax.data.statistics import check_statistics, compute_statistics, write_statistics
from imf_jax.data.windows import load_demonstrations
from imf_jax.errors import EXIT_OK, ArgumentError
from imf_jax.evaluation.folder import read_records
from imf_jax.models.policy import build_policy
from imf_jax.recording import rounds
from imf_jax.recording.demonstrations import Demonstrations
from imf_jax.recording.recording import episode_scenes
from imf_jax.recording.run import run_strategy
from imf_jax.recording.session import StrategySummary
from imf_jax.sim.tasks.transfer import Transfer
from imf_jax.training.saved_state import save_checkpoint
from imf_jax.training.state import initial_state


def demonstration(number: int) -> Episode:
    rng = np.random.default_rng(number)
    action = rng.normal(0.4, 0.1, (30, 16)).astype(np.float32)
    return Episode(
        action=action, state=action.copy(), env_state=rng.normal(size=(30, 7)).astype(np.float32),
        reward=np.zeros(30, np.float32), noise=np.zeros((30, 16), np.float32), seed=1, episode=number,
        task="transfer", control_hz=50.0, success=True, spaces=SPACES,
    )  # fmt: skip


def untrained(config: TrainConfig) -> int:
    """A run folder with initial weights: how training goes is tested elsewhere."""
    _, statistics = load_demonstrations(config.data)
    policy = build_policy(config, SPACES, 7)
    policy.set_statistics(statistics.arrays)
    state, frozen = initial_state(policy, config)
    meta = CheckpointMeta(config.max_steps, "transfer", 7, "average", "", None, {})
    save_checkpoint(config.out, state._replace(step=jnp.int32(config.max_steps)), frozen, config, meta)
    return EXIT_OK


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that knows nothing."""
    folder = tmp_path_factory.mktemp("policy")
    write_episodes(folder / "demos", [demonstration(number) for number in range(3)])
    write_statistics(folder / "demos")
    head = AttnResConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=2)
    untrained(TrainConfig(data=folder / "demos", out=folder / "run", policy=PolicyConfig(head=head)))
    return folder / "run"


@pytest.fixture(scope="module", autouse=True)
def trained() -> Iterator[list[TrainConfig]]:
    """What the rounds trained; episodes are short."""
    asked: list[TrainConfig] = []

    def train_round(config: TrainConfig) -> int:
        asked.append(config)
        return untrained(config)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Transfer, "max_steps", 40)
        patched.setattr(rounds, "train_round", train_round)
        yield asked


class Whole(NamedTuple):
    """Two rounds from beginning to end."""

    folder: Path
    summary: StrategySummary
    notes: list[str]
    trained: list[TrainConfig]


@pytest.fixture(scope="module")
def whole(run: Path, trained: list[TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Rounds that no test changes."""
    folder = tmp_path_factory.mktemp("whole")
    notes: list[str] = []
    before = len(trained)
    summary = rounds.run_rounds(two_rounds(run, folder), on_note=notes.append)
    return Whole(folder, summary, notes, trained[before:])


def two_rounds(run: Path, folder: Path, *, resume: bool = False, num_rounds: int = 2) -> RolloutConfig:
    return RolloutConfig(
        strategy="dagger", checkpoint=run, episodes=2, num_envs=2, plan_batch=2, backend="native",
        recording=DatasetConfig(folder / "rollout_dagger", resume=resume),
        dagger=DaggerConfig(
            intervene=("no_progress",), no_progress_steps=10, rounds=num_rounds, out=folder / "dagger", train_steps=2,
            validation_episodes=2,
        ),
    )  # fmt: skip


def table(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "dagger/rounds.json").read_text())["rounds"]


def test_two_rounds(run: Path, whole: Whole) -> None:
    out = whole.folder / "dagger"
    assert whole.summary.failed is None
    rows = table(whole.folder)
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert [row["n_episodes"] for row in rows] == [2, 2, 2]
    assert [note.split(":")[0] for note in whole.notes] == ["round 0", "round 1", "round 2"]
    # Four scenes of their own were supervised, each was corrected from its tenth step to its end.
    assert [row["corrections"] for row in rows[1:]] == [2, 2]
    assert [row["corrected_frames"] for row in rows[1:]] == [60, 60]
    assert [row["demonstrations"] for row in rows] == [3, 5, 7]
    assert [row["dataset_episodes"] for row in rows] == [0, 2, 4]
    demonstrations = [read_episode(path) for path in list_episodes(out / "demonstrations")]
    check_statistics(out / "demonstrations", compute_statistics(demonstrations))
    np.testing.assert_array_equal(demonstrations[0].action, demonstration(0).action)
    assert len({tuple(episode.env_state[0]) for episode in demonstrations[3:]}) == 4
    assert [len(episode) for episode in demonstrations[3:]] == [30] * 4
    for number in range(3):
        records, _ = read_records(out / f"round_{number}" / "evaluation")
        assert [(record.episode, record.seed) for record in records] == [(0, 2**30), (1, 2**30)]
    trained = [(config.max_steps, config.data, config.validation.num_episodes) for config in whole.trained]
    assert trained == [(2, out / "demonstrations", 0)] * 2
    again = replace(two_rounds(run, whole.folder), recording=DatasetConfig(whole.folder / "rollout_more"))
    with pytest.raises(ArgumentError, match="exists already; go on with it by --resume"):
        rounds.run_rounds(again)


class Killed(BaseException):
    """Stands for a kill: nobody catches it."""


@pytest.mark.parametrize("where", ["recording", "training", "evaluation"])
def test_rounds_that_were_cut_off_go_on_as_if_they_had_not(
    where: str, run: Path, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = tmp_path

    def kill(*arguments: Any, **settings: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        if where == "recording":  # the second segment of the second round
            segments: list[int] = []
            add = Demonstrations.add

            def die_at_the_fourth(self: Demonstrations, frames: Any, *rest: Any) -> None:
                segments.append(len(frames))
                add(self, frames, *rest) if len(segments) < 4 else kill()

            patched.setattr(Demonstrations, "add", die_at_the_fourth)
        else:
            name = {"training": "train_round", "evaluation": "evaluated"}[where]
            before = getattr(rounds, name)
            calls: list[Any] = []

            def die_in_the_second_round(*arguments: Any, **settings: Any) -> Any:
                calls.append(arguments)
                # Evaluations begin with that of round 0.
                return kill() if len(calls) == (2 if where == "training" else 3) else before(*arguments, **settings)

            patched.setattr(rounds, name, die_in_the_second_round)
        with pytest.raises(Killed):
            rounds.run_rounds(two_rounds(run, cut))
    assert len(table(cut)) == (2 if where == "recording" else 3)

    notes: list[str] = []
    rounds.run_rounds(two_rounds(run, cut, resume=True), on_note=notes.append)
    again = [note for note in notes if "removed the last 2 episodes, which are recorded again" in note]
    assert len(again) == (where == "recording")
    assert table(cut) == table(whole.folder)
    both = (cut, whole.folder)
    for ours, theirs in zip(*(list_episodes(folder / "dagger/demonstrations") for folder in both), strict=True):
        np.testing.assert_array_equal(read_episode(ours).action, read_episode(theirs).action)
    assert episode_scenes(cut / "rollout_dagger") == episode_scenes(whole.folder / "rollout_dagger")
    datasets = [open_dataset(folder / "rollout_dagger") for folder in both]
    assert [(len(dataset.episodes), dataset.num_frames) for dataset in datasets] == [(4, 120)] * 2


def test_more_rounds_may_follow_but_not_other_ones(run: Path, tmp_path: Path) -> None:
    rounds.run_rounds(two_rounds(run, tmp_path, num_rounds=1))
    other = two_rounds(run, tmp_path, resume=True)
    with pytest.raises(ArgumentError, match="holds rounds with another --no-progress-steps, --seed; repeat"):
        rounds.run_rounds(replace(other, seed=5, dagger=replace(other.dagger, no_progress_steps=11)))
    summary = rounds.run_rounds(two_rounds(run, tmp_path, resume=True))
    assert [row["dataset_episodes"] for row in table(tmp_path)] == [0, 2, 4]
    assert summary.exit_code == EXIT_OK
    assert rounds.run_rounds(two_rounds(run, tmp_path, resume=True)).exit_code == EXIT_OK
    assert [row["dataset_episodes"] for row in table(tmp_path)] == [0, 2, 4]


def test_episodes_of_others_are_not_removed(run: Path, tmp_path: Path) -> None:
    """A dataset that was recorded into after the rounds were cut off, or before they were begun."""
    rounds.run_rounds(two_rounds(run, tmp_path, num_rounds=1))
    more = RolloutConfig(
        strategy="episodic", checkpoint=run, episodes=3, num_envs=2, plan_batch=2, backend="native",
        recording=DatasetConfig(tmp_path / "rollout_dagger", resume=True),
    )  # fmt: skip
    assert run_strategy(more).exit_code == EXIT_OK
    before = episode_scenes(tmp_path / "rollout_dagger")
    assert len(before) > 2
    config = two_rounds(run, tmp_path, resume=True)
    elsewhere = replace(config, dagger=replace(config.dagger, out=tmp_path / "new"))
    for wrong in (config, elsewhere):
        with pytest.raises(ArgumentError, match="holds other episodes than those of the rounds"):
            rounds.run_rounds(wrong)
        assert episode_scenes(tmp_path / "rollout_dagger") == before


def test_rounds_need_demonstrations_before_anything_is_made(run: Path, tmp_path: Path) -> None:
    config: Any = RolloutConfig(
        strategy="dagger", checkpoint=run, recording=DatasetConfig(tmp_path / "rollout_dagger"), backend="native",
        dagger=DaggerConfig(rounds=1, out=tmp_path / "dagger", demonstrations=tmp_path / "nowhere"),
    )  # fmt: skip
    with pytest.raises(Exception, match="nowhere is not a folder"):
        rounds.run_rounds(config)
    assert not (tmp_path / "dagger").exists()
    assert not (tmp_path / "rollout_dagger").exists()
