"""The command: suites that are shipped can be planned, and a small one survives being killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imf_jax.commands import suite as command
from imf_jax.commands import train
from imf_jax.config import LewmEncoderConfig
from imf_jax.errors import EXIT_BAD_ARGUMENTS, EXIT_OK, EXIT_SOME_ERRORED
from imf_jax.suite.plan import make_plan
from imf_jax.suite.sizes import num_parameters
from imf_jax.suite.spec import read_suite

ROOT = Path(__file__).resolve().parents[2]
SUITES = sorted((ROOT / "suites").glob("*.yaml"))


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Run the command in this process; returns the exit code and all that it says."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["suite.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command.run()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out + captured.err

    return run


def test_the_suites_that_are_promised_are_there():
    assert {path.stem for path in SUITES} == {"attnres", "latency", "lewm_vit_transfer", "objectives"}


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_shipped_suites_are_sound(path, tmp_path):
    plan = make_plan(read_suite(path), tmp_path)
    assert plan.comparisons.control_of
    for run in plan.runs:
        if run.kind == "training" and run.seed == plan.seeds[0]:
            config = train.parse(run.flags)
            assert config.out == run.folder
            assert config.max_steps == run.total


def test_the_suite_of_the_source(tmp_path):
    plan = make_plan(read_suite(ROOT / "suites" / "lewm_vit_transfer.yaml"), tmp_path)
    for arm, n_emb in zip(plan.arms, (384, 256), strict=True):
        policy = arm.config.policy
        assert isinstance(policy.encoder, LewmEncoderConfig)
        assert policy.encoder.cameras == ("r_vis", "top", "front")
        assert (policy.head.n_emb, policy.head.n_layer) == (n_emb, 12)
        assert (policy.pred_horizon, policy.num_action_steps) == (16, 8)
        assert (arm.config.max_steps, arm.config.validation.num_episodes) == (50_000, 10)


def test_networks_that_are_compared_have_as_many_weights(tmp_path):
    plan = make_plan(read_suite(ROOT / "suites" / "attnres.yaml"), tmp_path)
    sizes = {num_parameters(arm.config) for arm in plan.arms}
    assert max(sizes) / min(sizes) < 1.04, "channels of a U-Net come in steps"


def test_dry_run_shows_the_runs_and_what_is_missing(run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = run_command(ROOT / "suites" / "lewm_vit_transfer.yaml", "--out", "suite", "--dry-run")
    assert code == EXIT_OK
    assert "train embed256_seed0" in text
    assert "50,000 steps" in text
    assert "their time is not known" in text
    assert "note: before it can run: there is no encoder encoders/lewm" in text
    assert os.listdir(tmp_path) == []
    code, text = run_command(ROOT / "suites" / "lewm_vit_transfer.yaml", "--out", "suite")
    assert code == EXIT_BAD_ARGUMENTS
    assert text.startswith("error: there is no encoder encoders/lewm")
    assert os.listdir(tmp_path) == []


def test_time_is_told_by_finished_runs(run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text("preset: debug\ndemonstrations: 2\ngrid: {objective: [imf, flow]}\nevaluations: [{episodes: 4}]\n")
    plan = make_plan(read_suite(path), tmp_path / "out")
    run = next(run for run in plan.runs if run.name == "train imf_seed0")
    other = tmp_path / "runs" / "earlier"
    other.mkdir(parents=True)
    (other / "config.json").write_text(json.dumps({**run.settings, "max_steps": 7, "seed": 4}))
    (other / "summary.json").write_text(json.dumps({"status": "done", "steps_per_s": 0.5}))
    code, text = run_command(path, "--out", "out", "--dry-run")
    assert code == EXIT_OK
    line = next(line for line in text.splitlines() if "train imf_seed0" in line)
    assert "0:40 min" in line
    assert "26,224" in line
    assert "unknown" in next(line for line in text.splitlines() if "train flow_seed0" in line)
    assert "on one worker 0:40 min, by the rates of finished runs, and 4 runs of which nothing tells" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--resume"], "--dry-run starts nothing"),
        (["--workers", "0"], "--workers is 0"),
        (["--cluster-options", "mem_gb=3"], "would do nothing without --cluster"),
        (["--resume"], "holds no suite to continue"),
    ],
)
def test_flags_that_cannot_work(run_command, tmp_path, arguments, message):
    path = tmp_path / "s.yaml"
    path.write_text("preset: debug\ndemonstrations: 2\ngrid: {seed: [0]}\nevaluations: [{episodes: 4}]\n")
    code, text = run_command(path, "--out", tmp_path / "out", *arguments)
    assert code == EXIT_BAD_ARGUMENTS
    assert message in text
    assert text.count("\n") == 1


@pytest.mark.long
def test_a_suite_survives_being_killed(tmp_path):
    path, out = tmp_path / "small.yaml", tmp_path / "out"
    path.write_text("""
preset: debug
demonstrations: 3
train: {max_steps: 4000, save_every: 500, log_every: 100}
arms:
  - {name: good}
  - {name: bad, learning_rate: 1e+30, clip_norm: 1e+30, ema_decay: 0}
evaluations: [{name: test, episodes: 4, num_envs: 4}]
control: good
""")
    script = [sys.executable, str(ROOT / "scripts" / "suite.py"), str(path), "--out", str(out)]
    first = subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoints = out / "runs" / "good_seed0" / "checkpoints"
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob("[0-9]*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    status = json.loads((out / "status.json").read_text())["runs"]["train good_seed0"]
    assert status["state"] == "running"
    os.kill(status["pid"], signal.SIGKILL)  # and the worker, as when the machine fails
    done = subprocess.run([*script, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_SOME_ERRORED, done.stderr
    assert "train bad_seed0: failed (exit code 1)" in done.stdout
    assert "the loss is not finite" in done.stdout
    assert "collect" not in done.stdout
    log = (out / "logs" / "train_good_seed0.log").read_text()
    assert "--resume" in log
    assert "resuming" in log
    runs = json.loads((out / "status.json").read_text())["runs"]
    assert {name: entry["state"] for name, entry in runs.items()} == {
        "collect transfer-3": "done", "train good_seed0": "done", "evaluate good_seed0": "done",
        "train bad_seed0": "failed", "evaluate bad_seed0": "skipped",
    }  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["sessions"]) == 2
    assert len(manifest["learned_from"]["train good_seed0"]["data_sha256"]) == 64
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm_name"], row["training_seed"], row["n_episodes"]) for row in rows] == [
        ("good", "all", "4"), ("good", "0", "4"),
    ]  # fmt: skip
    assert rows[0]["unable_to_rank"] == "4 episodes and one training seed"
    page = (out / "suite.html").read_text()
    assert "the loss is not finite" in page
    assert 'href="evaluations/good_seed0/test/report.html"' in page
    assert (out / "evaluations/good_seed0/test/report.html").is_file()
