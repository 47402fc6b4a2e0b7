"""How far runs are, as their folders tell it."""

import json

import pytest

from imf_jax.suite.progress import failure_lines, is_finished, last_lines, progress_of, tracker_links
from imf_jax.suite.runs import Run

JOBS = ({"name": "one", "episodes": 3, "seeds": [0]}, {"name": "two", "episodes": 2, "seeds": [0, 5]})


@pytest.fixture
def make_run(tmp_path):
    def make(kind, **values) -> Run:
        (tmp_path / "run").mkdir(exist_ok=True)
        return Run("a run", kind, tmp_path / "run", (), {}, **values)

    return make


def test_training_tells_its_step_and_rate(make_run):
    run = make_run("training", total=40)
    assert progress_of(run) == (0, None)
    lines = [
        {"step": 10, "steps_per_s": 3.5},
        {"step": 20, "steps_per_s": 4.5},
        {"step": 20, "validation/success": 0.1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "metrics.jsonl").write_text(text + '{"step": 30, "ste')
    assert progress_of(run) == (20, 4.5)
    (run.folder / "tracking.json").write_text('{"id": "x", "addresses": {"wandb": "https://there"}}')
    assert tracker_links(run) == {"wandb": "https://there"}
    (run.folder / "summary.json").write_text('{"status": "done"}')
    assert not is_finished(run), "its last checkpoint is missing"


def test_evaluations_are_finished_when_every_job_is(make_run):
    run = make_run("evaluation", total=7, jobs=JOBS)
    for name, episodes in (("one", 3), ("two_seed0", 2), ("two_seed5", 1)):
        folder = run.folder / name
        folder.mkdir()
        (folder / "episodes.jsonl").write_text("{}\n" * episodes)
        (folder / "metrics.json").write_text(json.dumps({"n_episodes": episodes, "interrupted": False}))
    assert progress_of(run).done == 6
    assert not is_finished(run)
    (run.folder / "two_seed5" / "metrics.json").write_text('{"n_episodes": 2, "interrupted": true}')
    assert not is_finished(run)
    (run.folder / "two_seed5" / "metrics.json").write_text('{"n_episodes": 2, "interrupted": false}')
    assert is_finished(run)


def test_demonstrations_are_counted(make_run):
    run = make_run("demonstrations", total=2)
    (run.folder / "episode_000000.hdf5").touch()
    (run.folder / "stats.json").touch()
    assert progress_of(run).done == 1
    assert not is_finished(run)
    (run.folder / "episode_000004.hdf5").touch()
    assert is_finished(run)


def test_failures_say_why(make_run, tmp_path):
    run, log = make_run("evaluation", jobs=JOBS), tmp_path / "log"
    assert failure_lines(run, log) == []
    log.write_text("\nfirst\n\nsecond  \nthird\n" * 3)
    assert failure_lines(run, log, 2) == last_lines(log, 2) == ["second", "third"]
    folder = run.folder / "two_seed0"
    folder.mkdir()
    (folder / "job.json").write_text('{"name": "two_seed0", "status": "failed", "reason": "no such camera"}')
    assert failure_lines(run, log) == ["two_seed0: no such camera"]
