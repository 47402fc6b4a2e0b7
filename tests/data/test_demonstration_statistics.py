"""stats.json: numbers that are right, and a file that is refused when it is not about these demonstrations."""

import json
import subprocess
import sys

import numpy as np
import pytest

from imf_jax.data.episodes import episode_path, write_episodes
from imf_jax.data.statistics import (
    COLUMNS,
    FILE,
    check_statistics,
    compute_statistics,
    read_statistics,
    write_statistics,
)
from imf_jax.errors import UserError


@pytest.fixture
def folder(tmp_path, make_episode):
    write_episodes(tmp_path, [make_episode(number, steps=10 + 7 * number) for number in range(4)])
    write_statistics(tmp_path)
    return tmp_path


def test_streaming_equals_numpy(make_episode):
    # Far from zero, where sums of squares would lose all digits.
    episodes = [make_episode(n, steps=5 + n, state=make_episode(n, steps=5 + n).state * 1e-2 + 1e3) for n in range(5)]
    statistics = compute_statistics(iter(episodes))
    assert statistics.num_episodes == 5
    assert statistics.num_steps == sum(len(episode) for episode in episodes)
    for key in ("action", "qpos", "env_state"):
        values = np.concatenate([getattr(episode, COLUMNS[key]) for episode in episodes]).astype(np.float64)
        found = statistics.arrays[key]
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(found[name], getattr(values, name)(axis=0), rtol=1e-9, atol=1e-12)
        assert found["count"] == len(values)


def test_written_statistics_fit_and_are_read_back(folder):
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    statistics = read_statistics(folder)
    assert statistics.task == "transfer"
    check_statistics(folder, statistics)


def test_missing_file_names_the_mend(tmp_path):
    with pytest.raises(UserError, match=r"missing; .*python -m imf_jax\.data\.statistics"):
        read_statistics(tmp_path)


def change(path, edit):
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda v: v.pop("arrays"), "damaged"),
        (lambda v: v.update(num_steps="many"), "field num_steps is 'many'; it must be a whole number"),
        (lambda v: v["arrays"].update(qpos=[1]), r"field arrays\['qpos'\] is \[1\]; it must be a mapping"),
        (lambda v: v["arrays"].pop("qpos"), "qpos"),
        (lambda v: v["arrays"]["action"].pop("std"), r"action\.std"),
        (lambda v: v["arrays"]["action"].update(min=["a"] * 16), r"action\.min"),
        (lambda v: v["arrays"]["env_state"]["max"].__setitem__(2, float("nan")), r"env_state\.max"),
    ],
)
def test_damage_is_named(folder, edit, named):
    change(folder / FILE, edit)
    with pytest.raises(UserError, match=named) as error:
        read_statistics(folder)
    assert "\n" not in str(error.value)


def test_half_a_file_is_damaged(folder):
    path = folder / FILE
    path.write_text(path.read_text()[:200])
    with pytest.raises(UserError, match="damaged"):
        read_statistics(folder)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda v: v.update(num_episodes=3), "num_episodes"),
        (lambda v: v.update(num_steps=1), "num_steps"),
        (lambda v: v.update(task="insert"), "task"),
        (lambda v: v["arrays"]["action"]["mean"].__setitem__(0, 9.0), r"action\.mean"),
        (lambda v: v["arrays"]["qpos"]["max"].__setitem__(1, 9.0), r"qpos\.max"),
    ],
)
def test_statistics_of_other_demonstrations_are_refused(folder, edit, named):
    found = read_statistics(folder)
    change(folder / FILE, edit)
    with pytest.raises(UserError, match=named):
        check_statistics(folder, found)


def test_no_and_mixed_demonstrations_are_refused(make_episode):
    with pytest.raises(UserError, match="no demonstrations"):
        compute_statistics([])
    with pytest.raises(UserError, match="one task per folder"):
        compute_statistics([make_episode(0), make_episode(1, task="insert")])
    wider = np.zeros((20, 14), np.float32)
    with pytest.raises(UserError, match="one task per folder"):
        compute_statistics([make_episode(0), make_episode(1, env_state=wider)])


def test_command_writes_them_again(folder):
    episode_path(folder, 3).unlink()
    command = [sys.executable, "-m", "imf_jax.data.statistics"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 demonstrations" in done.stdout
    assert read_statistics(folder).num_episodes == 3
