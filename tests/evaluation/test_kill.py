"""Kill -9 in the middle of writing a record: what is resumed equals an evaluation that was never interrupted."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from imf_jax.config import CaptureConfig
from imf_jax.evaluation.evaluate import EvaluationSettings, Hooks, Summary, evaluate
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy
from imf_jax.evaluation.folder import RECORDS
from imf_jax.evaluation.setup import Setup

DIE = """
import os, signal, sys
from pathlib import Path
from imf_jax.config import CaptureConfig
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy
from imf_jax.evaluation.evaluate import EvaluationSettings, evaluate
from imf_jax.evaluation.folder import EvaluationFolder
from imf_jax.evaluation.setup import Setup

sys.path.insert(0, str(Path(sys.argv[1]).parent))
import rollout_fixtures as fakes

add = EvaluationFolder.add

def die(folder, record):
    if record.episode == 5:
        folder._records.write(record.to_json()[:60].encode())
        os.kill(os.getpid(), signal.SIGKILL)
    add(folder, record)

EvaluationFolder.add = die
settings = EvaluationSettings(episodes=10, num_envs=4, capture=CaptureConfig(save_trajectory=True))
setup = Setup(EvaluatedPolicy(fakes.StraightPlanner(), "point", "straight", {}), fakes.ChunkBackend())
evaluate(setup, settings, Path(sys.argv[2]))
"""


def test_kill_and_resume(tmp_path: Path, chunk_backend: Any, straight_planner: Callable[..., Any]) -> None:
    def run(name: str, **options: Any) -> Summary:
        settings = EvaluationSettings(episodes=10, num_envs=4, capture=CaptureConfig(save_trajectory=True))
        setup = Setup(EvaluatedPolicy(straight_planner(), "point", "straight", {}), chunk_backend)
        return evaluate(setup, settings, tmp_path / name, **options)

    fakes = Path(__file__).parents[1] / "rollout_fixtures.py"
    died = subprocess.run([sys.executable, "-c", DIE, fakes, tmp_path / "killed"], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    left = (tmp_path / "killed" / RECORDS).read_bytes()
    assert left.count(b"\n") >= 1
    assert not left.endswith(b"\n")
    said: list[str] = []
    resumed, whole = run("killed", existing="resume", hooks=Hooks(on_note=said.append)), run("whole")
    assert any("the line was cut off" in line for line in said)

    def identity_fields(summary: Summary) -> list:
        return [replace(record, env_slot=0, start_step=0, end_step=0) for record in summary.records]

    assert identity_fields(resumed) == identity_fields(whole)
    assert resumed.metrics["resumed_episodes"] == left.count(b"\n")
    for record in whole.records:
        path = record.artifacts["trajectory"]
        assert (resumed.folder / path).read_bytes() == (whole.folder / path).read_bytes()
