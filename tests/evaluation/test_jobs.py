"""Files of jobs: what a job becomes, and that a file that cannot work is refused as a whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from imf_jax.config import CaptureConfig, EvalConfig, ExecutionConfig
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.jobs import Job, job_folders, read_jobs, run_job, run_jobs

DEFAULTS = EvalConfig(jobs=Path("jobs.yaml"), num_envs=12, capture=CaptureConfig(save_images=True))


def jobs(tmp_path: Path, text: str, name: str = "jobs.yaml") -> list[Job]:
    path = tmp_path / name
    path.write_text(text)
    return read_jobs(path, DEFAULTS)


def test_a_job_is_the_command_line_and_what_it_names(tmp_path: Path) -> None:
    text = """
jobs:
  - {name: a, expert: true, seeds: [3, 4], episodes: 7, overrides: {plan-batch: 5}, captures: {save_trajectory: true}}
  - {name: b.2, expert: true}
"""
    found = jobs(tmp_path, text)
    assert [job.name for job in found] == ["a_seed3", "a_seed4", "b.2"]
    first, _, last = (job.config for job in found)
    assert (first.seed, first.episodes, first.plan_batch, first.num_envs) == (3, 7, 5, 12)
    assert (first.capture.save_trajectory, first.capture.save_images, first.jobs) == (True, True, None)
    assert (last.seed, last.episodes, last.capture.save_trajectory) == (0, 50, False)
    (late,) = jobs(tmp_path, "jobs: [{name: a, expert: true, overrides: {action-interpolation: 5, video-size: 64}}]")
    assert late.config.execution == ExecutionConfig(action_interpolation=5)
    assert late.config.capture == CaptureConfig(save_images=True, video_size=64)
    (pushed,) = jobs(tmp_path, "jobs: [{name: a, expert: true, overrides: {perturb: {push: 1, friction: 0.5}}}]")
    assert pushed.config.perturb == {"push": 1, "friction": 0.5}
    (served,) = jobs(tmp_path, "jobs: [{name: a, policy: 'ws://x:1', overrides: {policy_prompt: go}}]")
    assert (served.config.policy, served.config.policy_prompt) == ("ws://x:1", "go")
    content = {"jobs": [{"name": "b.2", "expert": True}]}
    assert jobs(tmp_path, json.dumps(content), "jobs.json") == [found[-1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs: [{name: a, expert: true}, {name: A, expert: true}]", "two jobs are called a"),
        (
            "jobs: [{name: a, expert: true, seeds: [1, 2]}, {name: a_seed1, expert: true}]",
            "two jobs are called a_seed1",
        ),
        ("jobs: [{name: ../a, expert: true}]", "the name '../a' is unsafe"),
        ("jobs: [{name: a/b, expert: true}]", "the name 'a/b' is unsafe"),
        ("jobs: [{name: a..b, expert: true}]", "is unsafe"),
        ("jobs: [{expert: true}]", "job 1 has no name"),
        ("jobs: [{name: a}]", "job a: say what to evaluate"),
        ("jobs: [{name: a, expert: true, episode: 3}]", "'episode' is not known; did you mean episodes"),
        ("jobs: [{name: a, expert: true, overrides: {num_env: 3}}]", "overrides: 'num_env' is not known; did you mean"),
        (
            "jobs: [{name: a, expert: true, overrides: {perturb: {pusch: 1}}}]",
            "job a: --perturb pusch: there is no such",
        ),
        (
            "jobs: [{name: a, expert: true, overrides: {perturb: {push: much}}}]",
            "job a: field perturb\\['push'\\] is 'much'; it must be a finite number",
        ),
        (
            "jobs: [{name: a, expert: true, overrides: {perturb: push}}]",
            "job a: field perturb is 'push'; it must be a map",
        ),
        (
            "jobs: [{name: b, expert: true}, {name: a, expert: true, overrides: {perturb: {lighting: 1}}}]",
            "job a: --perturb lighting would do nothing: this policy sees no pictures",
        ),
        (
            "jobs: [{name: a, expert: true, task: insert, overrides: {perturb: {object-size: 1}}}]",
            "job a: --perturb object-size: success in task 'insert' is measured",
        ),
        ("jobs: [{name: a, expert: true, overrides: {out: x}}]", "overrides: 'out' is not known"),
        ("jobs: [{name: a, expert: true, overrides: {delay_steps: 2}}]", "job a: --delay-steps 2 would do nothing"),
        ("jobs: [{name: a, expert: true, overrides: {inference: async}}]", "job a: --inference async needs a"),
        (
            "jobs: [{name: a, expert: true, overrides: {inference: asink}}]",
            "inference is 'asink'; it must be 'sync' or",
        ),
        ("jobs: [{name: a, expert: true, overrides: {execution: {}}}]", "overrides: 'execution' is not known"),
        ("jobs: [{name: a, expert: true, overrides: {capture: {}}}]", "overrides: 'capture' is not known"),
        ("jobs: [{name: a, expert: true, overrides: {process_id: 1}}]", "overrides: 'process_id' is not known"),
        ("jobs: [{name: a, expert: true, captures: {pictures: true}}]", "captures: 'pictures' is not known"),
        ("jobs: [{name: a, expert: true, captures: {video_size: 7}}]", "job a: --video-size is 7; it must be even"),
        ("jobs: [{name: a, expert: true, episodes: 0}]", "job a: --episodes is 0"),
        ("jobs: [{name: a, expert: true, episodes: ten}]", "job a: "),
        ("jobs: [{name: a, expert: true, episodes: 2.5}]", "episodes is 2.5; it must be a whole number"),
        ("jobs: [{name: a, expert: 'yes'}]", "expert is 'yes'; it must be true or false"),
        (
            "jobs: [{name: a, expert: true, captures: {video_cameras: front}}]",
            "video_cameras is 'front'; it must be a list",
        ),
        ("jobs: [{name: a, expert: true, overrides: {replan_every: 2.5}}]", "replan_every is 2.5; it must be a whole"),
        ("jobs: [{name: a, expert: true, overrides: {sampling_steps: true}}]", "sampling_steps is True; it must be a"),
        ("jobs: [{name: a, expert: true, seeds: 3}]", "seeds must be a list"),
        ("jobs: [{name: a, expert: true, seeds: [1.5]}]", "seed is 1.5; it must be a whole number"),
        ("jobs: [{name: a, expert: true, seeds: [3, 3]}]", "a seed is given twice"),
        ("jobs: [{name: a, checkpoint: nowhere}]", "job a: there is no checkpoint or run folder nowhere"),
        ("jobs: [{name: a, expert: true, expert: false}]", "expert is given twice"),
        ("jobs: []", "must hold one key `jobs`"),
        ("[1, 2]", "must hold one key `jobs`"),
        ("jobs: [3]", "job 1 must be a mapping"),
        ("jobs: [{name: a, expert: true, overrides: [1]}]", "overrides must be a mapping"),
        ("jobs: [", "cannot be understood"),
        ("jobs: !!python/object/apply:os.system ['true']", "cannot be understood"),
    ],
)
def test_a_file_that_cannot_work_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((ArgumentError, UserError), match=message.replace("(", "\\(")) as caught:
        jobs(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_folders_are_decided_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imf_jax.files.timestamp", lambda: "20261121-143233")
    found = jobs(tmp_path, "jobs: [{name: a, expert: true}, {name: b, expert: true}]")
    with job_folders(found, Path("x")) as folders:
        assert folders == {"a": Path("x/a"), "b": Path("x/b")}
    monkeypatch.chdir(tmp_path)
    with job_folders(found, None) as folders, job_folders(found, None) as others:
        assert [{path.name.split("_")[0] for path in paths.values()} for paths in (folders, others)] == [
            {"20261121-143233"}, {"20261121-143233-2"},
        ]  # fmt: skip
        (folders["a"] / "job.json").touch()
    assert list(Path("evals").iterdir()) == [folders["a"]], "jobs that were not started leave nothing"


def test_what_a_job_raises_is_recorded_and_an_interrupt_ends_the_night(tmp_path: Path) -> None:
    found = jobs(tmp_path, "jobs: [{name: a, expert: true}, {name: b, expert: true}, {name: c, expert: true}]")
    begun = []

    def run(config: EvalConfig, folder: Path) -> Any:
        begun.append(folder.name)
        if folder.name == "a":
            raise UserError("the disk is full")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), job_folders(found, tmp_path / "night") as folders:
        run_jobs(found, folders, run, resume=False, continue_on_error=True, say=lambda line: None)
    assert begun == ["a", "b"]
    read = [json.loads((tmp_path / "night" / name / "job.json").read_text()) for name in ("a", "b")]
    assert [(job["status"], job["reason"]) for job in read] == [
        ("failed", "the disk is full"), ("interrupted", "interrupted"),
    ]  # fmt: skip
    assert "traceback" not in read[0]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "jobs: [{name: a, expert: true}]")
    theirs = tmp_path / "night/a"
    theirs.mkdir(parents=True)
    (theirs / "thesis.tex").touch()
    result = run_job(job, theirs, lambda config, folder: None, resume=False)
    assert (result.status, result.exit_code) == ("failed", 2)
    assert [path.name for path in theirs.iterdir()] == ["thesis.tex"]


def test_a_job_that_failed_before_its_first_episode_leaves_its_record_and_can_be_resumed(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "jobs: [{name: a, expert: true}]")
    folder = tmp_path / "night/a"

    def refuse(config: EvalConfig, folder: Path) -> Any:
        raise ArgumentError("camera 'back' is not in the scene")

    result = run_job(job, folder, refuse, resume=False)
    assert (result.status, result.exit_code) == ("failed", 2)
    assert json.loads((folder / "job.json").read_text())["reason"] == "camera 'back' is not in the scene"

    def found_empty(config: EvalConfig, folder: Path) -> Any:
        assert config.resume
        assert list(folder.iterdir()) == []
        raise RuntimeError("reached")

    assert run_job(job, folder, found_empty, resume=True).line == "reached"
