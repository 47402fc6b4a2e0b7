"""scripts/eval.py and scripts/report.py: a real checkpoint in, files and exit codes out, one line for every mistake."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imf_jax.evaluation.folder import EvaluationFolder, read_records
from imf_jax.files import read_json

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    """A training run with two checkpoints of a tiny policy."""
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", steps=(1, 2))


def test_run_folder_means_its_newest_checkpoint_said_aloud(script: Callable[..., Any], run_folder: Path) -> None:
    run = script("eval.py", "--checkpoint", run_folder, "--episodes", 3, "--num-envs", 2, "--sampling-steps", 2)
    assert run.code == 0, run.err
    (out,) = Path("evals").glob("*_tiny_step2_seed0")
    assert f"checkpoint {run_folder}/checkpoints/2 (newest complete one)" in run.out
    assert "success 0/3 = 0.0 % (95 % interval 0.0-56.1 %)" in run.out
    assert "60 control steps in" in run.out
    assert "start-up and compilation" in run.out
    assert f"results in {out}" in run.out
    manifest = read_json(out / "manifest.json")
    assert manifest["checkpoint"]["step"] == 2
    assert len(manifest["checkpoint"]["sha256"]) == 64
    assert (manifest["sampling_steps"], manifest["task"], manifest["policy"]) == (2, "transfer", "tiny, step 2")
    assert [record.steps for record in read_records(out)[0]] == [20, 20, 20]
    assert not (out / "episodes").exists()

    relative = os.path.relpath(run_folder / "checkpoints/1")
    again = script("eval.py", "--checkpoint", relative, "--episodes", 1, "--out", "one")
    assert again.code == 0, again.err
    assert "newest" not in again.out
    assert read_json(Path("one/manifest.json"))["checkpoint"]["path"] == str(run_folder / "checkpoints/1")
    assert script("report.py", "one").out.strip() == "one/report.html"


def test_captures_change_no_record(script: Callable[..., Any], run_folder: Path) -> None:
    common = ("eval.py", "--checkpoint", run_folder, "--episodes", 3, "--seed", 5)
    assert script(*common, "--out", "plain").code == 0
    assert script(*common, "--out", "captured", "--num-envs", 2, "--save-trajectory").code == 0
    plain, captured = (read_records(Path(name))[0] for name in ("plain", "captured"))
    for a, b in zip(plain, captured, strict=True):
        assert (a.status, a.steps, a.return_, a.max_ik_error, a.replans) == (
            b.status, b.steps, b.return_, b.max_ik_error, b.replans
        )  # fmt: skip
        assert not a.artifacts
        assert (Path("captured") / b.artifacts["trajectory"]).is_file()


def test_a_repetition_on_native_is_equal_to_the_bit(script: Callable[..., Any], run_folder: Path) -> None:
    command = ("eval.py", "--checkpoint", run_folder, "--episodes", 3, "--repeat", 2, "--out", "twice")
    run = script(*command, "--save-trajectory")
    assert run.code == 0, run.err
    line = "2 runs of the same scenes, with 0 and 0 successes: 0 of 3 episodes flipped, 3 were equal to the bit"
    assert line in " ".join(run.out.split())
    metrics = read_json(Path("twice/metrics.json"))
    assert metrics["repeats"] == {
        "n_runs": 2, "n_compared": 3, "n_success": [0, 0], "n_flipped": 0, "flipped": [], "n_identical": 3,
        "interrupted": False,
    }  # fmt: skip
    assert metrics["useful_share"] == 60 / metrics["scene_steps"] <= 1
    assert "of all that were simulated" in " ".join(run.out.split())
    page = Path("twice/report.html").read_text()
    assert line in page
    assert "of the simulated steps belong to an episode" in page
    assert not (Path("twice/repeat_2") / "episodes").exists(), "only the first run has captures"
    (Path("twice/repeat_2") / "episodes.jsonl").unlink()
    assert script(*command, "--save-trajectory", "--resume").code == 0
    assert read_json(Path("twice/metrics.json"))["repeats"] == metrics["repeats"]


def test_perturbations_are_named_and_level_0_changes_no_bit(script: Callable[..., Any], run_folder: Path) -> None:
    common = ("eval.py", "--checkpoint", run_folder, "--episodes", 3)
    assert script(*common, "--out", "plain").code == 0
    assert script(*common, "--out", "zero", "--perturb", "object-mass=0", "action-noise=0").code == 0
    assert Path("plain/episodes.jsonl").read_bytes() == Path("zero/episodes.jsonl").read_bytes()
    assert "perturbations" not in read_json(Path("plain/manifest.json"))
    assert read_json(Path("zero/manifest.json"))["perturbations"] == {"object-mass": 0, "action-noise": 0}

    levels = ("--perturb", "object-mass=1", "--perturb", "action-noise=0.5", "control-delay=2")
    perturbed = script(*common, *levels, "--out", "perturbed")
    assert perturbed.code == 0, perturbed.err
    named = {"object-mass": 1.0, "action-noise": 0.5, "control-delay": 2.0}
    assert read_json(Path("perturbed/manifest.json"))["perturbations"] == named
    assert all(record.perturbations == named for record in read_records(Path("perturbed"))[0])
    assert "tiny, step 2, object-mass 1, action-noise 0.5, control-delay 2" in Path("perturbed/report.html").read_text()
    whole = Path("perturbed/episodes.jsonl").read_bytes()
    assert script(*common, *levels, "--out", "others", "--num-envs", 2).code == 0
    alone = [replace(record, env_slot=0, start_step=0, end_step=0) for record in read_records(Path("others"))[0]]
    assert alone == [
        replace(record, env_slot=0, start_step=0, end_step=0) for record in read_records(Path("perturbed"))[0]
    ]

    other = script(*common, "--perturb", "object-mass=2", "--out", "perturbed", "--resume")
    assert other.code == 2
    assert "perturbed holds an evaluation with another --perturb; repeat its command" in other.err
    assert script(*common, "--out", "perturbed", "--resume").code == 2
    Path("perturbed/episodes.jsonl").write_bytes(whole.splitlines(keepends=True)[1])
    assert script(*common, *levels, "--out", "perturbed", "--resume").code == 0
    resumed = read_records(Path("perturbed"))[0]
    assert [replace(record, env_slot=0, start_step=0, end_step=0) for record in resumed] == alone
    assert script(*common, "--perturb", "push=0", "--out", "plain", "--resume").code == 0

    seen = ("--perturb", "observation-noise=1", "dropped-frames=0.5", "--inference", "async", "--delay-steps", 2)
    late = script(*common, *seen, "--out", "late")
    assert late.code == 0, late.err
    assert Path("late/episodes.jsonl").read_bytes() != Path("plain/episodes.jsonl").read_bytes()

    for level in ("1", "2"):
        assert script(*common, "--perturb", f"push={level}", "--out", f"push-{level}").code == 0
    compared = script("report.py", "plain", "push-1", "push-2")
    assert compared.code == 0, compared.err
    assert "tiny, step 2: success against the level of push" in compared.out
    assert "tiny, step 2: push</h2>" in Path("comparison.html").read_text()


def test_expert_as_reference(script: Callable[..., Any], run_folder: Path) -> None:
    assert script("eval.py", "--expert", "--episodes", 2, "--out", "expert").code == 0
    run = script("eval.py", "--checkpoint", run_folder, "--episodes", 2, "--out", "run", "--reference", "expert")
    assert "scripted expert: success 0/2" in run.out
    assert "scripted expert" in Path("run/report.html").read_text()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_keeps_what_is_finished(
    script: Callable[..., Any], run_folder: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, code: int
) -> None:
    add = EvaluationFolder.add

    def add_and_interrupt(folder: EvaluationFolder, record: object) -> None:
        add(folder, record)
        if record.episode == 1:
            signal.raise_signal(sent)

    monkeypatch.setattr(EvaluationFolder, "add", add_and_interrupt)
    run = script("eval.py", "--checkpoint", run_folder, "--episodes", 6, "--num-envs", 1, "--out", "run")
    assert run.code == code
    assert "interrupted after 2 of 6 episodes" in run.out
    assert len(read_records(Path("run"))[0]) == 2
    assert read_json(Path("run/metrics.json"))["interrupted"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--checkpoint", "{run}", "--episodes", 0], 2, "--episodes is 0; it must be at least 1"),
        (["--checkpoint", "{run}", "--num-envs", 0], 2, "--num-envs is 0"),
        (["--checkpoint", "{run}", "--seed", -1], 2, "seed -1 must be in [0, "),
        (["--checkpoint", "missing"], 2, "there is no checkpoint or run folder missing"),
        (["--checkpoint", "{empty}"], 2, "is neither a checkpoint nor a run folder"),
        (["--checkpoint", "{run}/checkpoints/9"], 2, "there is no checkpoint or run folder"),
        (["--checkpoint", "{run}", "--task", "juggle"], 2, "unknown task 'juggle'; choose one of: aloha-insertion, "),
        (["--checkpoint", "{run}", "--save-images", "--camera", "back"], 2, "camera 'back' is not in the scene"),
        (["--checkpoint", "{run}", "--out", "{full}"], 2, "is not empty; choose another --out"),
        (["--checkpoint", "{run}", "--reference", "{empty}"], 1, "metrics.json is not there"),
        (["--checkpoint", "{run}", "--resume"], 2, "--resume needs the --out folder"),
        (["--checkpoint", "{run}", "--resume", "--out", "{full}"], 2, "holds no evaluation that could be resumed"),
        (["--checkpoint", "{run}", "--continue-on-error"], 2, "would do nothing without --jobs"),
        (["--checkpoint", "{run}", "--jobs", "jobs.yaml"], 2, "--jobs names its checkpoints itself"),
        (["--jobs", "missing.yaml"], 1, "cannot read --jobs missing.yaml (No such file or directory)"),
        (["--checkpoint", "{run}", "--devices", "2"], 2, "--devices 2 would do nothing: --backend native"),
        (["--checkpoint", "{run}", "--backend", "mjx", "--devices", "7"], 2, "--devices 7 is more than there are"),
        (["--checkpoint", "{run}", "--cluster.process-id", "1"], 2, "the cluster is only half configured"),
        (
            ["--checkpoint", "{run}", "--num-envs", "900000000", "--episodes", "900000000"],
            2,
            "the largest --num-envs that fits is about",
        ),
        ([], 2, "say what to evaluate: either --checkpoint FOLDER, --policy ADDRESS or --expert"),
        (["--checkpoint", "{run}", "--expert"], 2, "either --checkpoint FOLDER, --policy ADDRESS or --expert"),
        (["--expert", "--task", "juggle"], 2, "unknown task 'juggle'; choose one of: aloha-insertion, "),
        (["--checkpoint", "{run}", "--action-interpolation", 3], 2, "--action-interpolation 3 does not divide the 5"),
        (["--expert", "--save-images", "--camera", "nose"], 2, "'nose' is not in the scene; choose from: "),
        (["--expert", "--perturb", "mass=1"], 2, "--perturb mass: there is no such perturbation; did you mean object-"),
        (
            ["--expert", "--perturb", "push"],
            2,
            "--perturb push must be NAME=LEVEL, for example --perturb object-mass=1",
        ),
        (["--expert", "--perturb", "push=1", "push=2"], 2, "--perturb names push twice"),
        (["--expert", "--perturb", "push=nan"], 2, "--perturb push=nan must be NAME=LEVEL"),
        (["--expert", "--perturb", "push=-1"], 2, "--perturb push=-1: the level must be a number at least 0"),
        (["--expert", "--perturb", "dropped-frames=1"], 2, "the scripted expert reads the state of the simulator"),
        (["--checkpoint", "{run}", "--perturb", "lighting=1"], 2, "would do nothing: this policy sees no pictures"),
        (
            ["--expert", "--task", "insert", "--perturb", "object-size=1"],
            2,
            "is measured with the sizes of its objects",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    script: Callable[..., Any], run_folder: Path, tmp_path: Path, arguments: list, code: int, message: str
) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/notes.txt").touch()
    places = {"run": run_folder, "empty": tmp_path / "empty", "full": tmp_path / "full"}
    run = script("eval.py", *(str(argument).format(**places) for argument in arguments))
    assert run.code == code, run.err
    assert message in run.err
    assert run.err.count("\n") == 1, "one line"
    assert not (tmp_path / "evals").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_report_of_a_folder_without_evaluation(script: Callable[..., Any], tmp_path: Path) -> None:
    run = script("report.py", tmp_path)
    assert (run.code, run.err.count("\n")) == (1, 1)
    assert "manifest.json is not there; give the folder of an evaluation" in run.err


def test_resume_runs_what_is_missing(script: Callable[..., Any], run_folder: Path) -> None:
    command = ("eval.py", "--checkpoint", run_folder, "--episodes", 4, "--save-trajectory")
    assert script(*command, "--out", "whole").code == 0
    assert script(*command, "--out", "cut").code == 0
    records = Path("cut/episodes.jsonl")
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(lines[2] + b'{"schema": 1, "epis\n' + lines[0][:40])
    for name in ("metrics.json", "report.html"):
        Path("cut", name).unlink()
    run = script(*command, "--out", "cut", "--resume")
    assert run.code == 0, run.err
    assert "episodes.jsonl:2" in run.out
    assert "episodes.jsonl:3: the line was cut off" in run.out
    assert "1 of 4 episodes are there already" in run.out
    assert Path("cut/episodes.damaged.jsonl").read_bytes().count(b"\n") == 2

    def identity_fields(folder: str) -> list:
        found, problems = read_records(Path(folder))
        assert problems == []
        return [replace(record, env_slot=0, start_step=0, end_step=0) for record in found]

    assert identity_fields("cut") == identity_fields("whole")
    assert [record.episode for record in identity_fields("cut")] == [0, 1, 2, 3]
    figures = [read_json(Path(name, "metrics.json")) for name in ("cut", "whole")]
    for name in ("n_episodes", "n_requested", "pc_success", "return", "control_steps", "interrupted"):
        assert figures[0][name] == figures[1][name]
    assert (figures[0]["resumed_episodes"], figures[1]["resumed_episodes"]) == (1, 0)
    # Once more: nothing is missing, and nothing changes.
    before = records.read_bytes()
    assert script(*command, "--out", "cut", "--resume").code == 0
    assert records.read_bytes() == before
    assert read_json(Path("cut/metrics.json")) == figures[0]

    other = script(*command, "--seed", 3, "--out", "cut", "--resume")
    assert other.code == 2
    assert "holds an evaluation with another --seed, seeds" in other.err
    assert records.read_bytes() == before


def test_jobs_run_one_after_the_other_and_each_leaves_its_record(
    script: Callable[..., Any], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path("night.yaml")
    file.write_text(
        f"""
jobs:
  - name: baseline
    checkpoint: {run_folder}
    episodes: 2
    seeds: [0, 1]
    overrides: {{num_envs: 1}}
  - name: expert
    expert: true
    episodes: 3
    captures: {{save_trajectory: true}}
"""
    )
    run = script("eval.py", "--jobs", file, "--out", "night")
    assert run.code == 0, run.err
    assert sorted(path.name for path in Path("night").iterdir()) == ["baseline_seed0", "baseline_seed1", "expert"]
    assert read_json(Path("night/expert/job.json"))["status"] == "done"
    assert read_json(Path("night/baseline_seed1/manifest.json"))["seeds"]["seed"] == 1
    assert len(read_records(Path("night/expert"))[0]) == 3
    # A job that fails on its way: its record says how far it came, and the others go on if that is asked for.
    add = EvaluationFolder.add

    def full_disk(folder: EvaluationFolder, record: object) -> None:
        if folder.path.name == "baseline_seed0" and record.episode == 1:
            raise RuntimeError("a bug")
        add(folder, record)

    monkeypatch.setattr(EvaluationFolder, "add", full_disk)
    for flags, code, others in (((), 1, False), (("--continue-on-error",), 3, True)):
        out = Path(f"night{code}")
        run = script("eval.py", "--jobs", file, "--out", out, *flags)
        assert run.code == code
        failed = read_json(out / "baseline_seed0/job.json")
        assert (failed["status"], failed["reason"], failed["n_episodes"]) == ("failed", "a bug", 1)
        assert "RuntimeError: a bug" in (out / "baseline_seed0" / failed["traceback"]).read_text()
        assert (out / "expert/job.json").exists() is others
    monkeypatch.setattr(EvaluationFolder, "add", add)
    assert script("eval.py", "--jobs", file, "--out", "night1", "--resume").code == 0
    for name in ("baseline_seed0", "baseline_seed1", "expert"):
        assert read_json(Path("night1", name, "job.json"))["status"] == "done"
        ours, theirs = (read_records(Path(night, name))[0] for night in ("night1", "night"))
        assert [record.return_ for record in ours] == [record.return_ for record in theirs]
