"""Several processes share an evaluation: their settings, and that the merged records are those of one process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from imf_jax.config import ClusterConfig
from imf_jax.errors import ArgumentError
from imf_jax.evaluation.cluster import Cluster, join_cluster, read_cluster
from imf_jax.evaluation.folder import read_records
from imf_jax.files import read_json

SCRIPT = Path(__file__).parents[2] / "scripts" / "eval.py"


@pytest.fixture(autouse=True)
def no_cluster_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)


def test_flags_and_environment_complete_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_cluster(ClusterConfig()) is None
    assert read_cluster(ClusterConfig("host:7000", 3, 2)) == ("host:7000", 3, 2)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:7000")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    assert read_cluster(ClusterConfig(process_id=1)) == ("10.0.0.1:7000", 4, 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ClusterConfig("host:7000", 2), r"half configured: add --cluster.process-id \(or JAX_PROCESS_ID\)"),
        (ClusterConfig(process_id=0), "half configured: add --cluster.coordinator"),
        (ClusterConfig("host", 2, 0), "must be HOST:PORT"),
        (ClusterConfig("host:7000", 2, 2), r"process_id 2 of the cluster must be in \[0, 1\]"),
        (ClusterConfig("host:7000", 0, 0), "at least 1"),
        (ClusterConfig("host:7000", 2, -1), "must be a whole number"),
        (ClusterConfig("host:7000", 2, 0, (1, 1)), "--cluster.local-device-ids 1 1 must be different numbers"),
        (ClusterConfig("host:7000", 2, 0, (-1,)), "--cluster.local-device-ids -1 must be different numbers"),
    ],
)
def test_bad_settings_are_refused(config: ClusterConfig, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        read_cluster(config)


def test_shares_are_disjoint_and_complete() -> None:
    shares = [Cluster(index, 3).share(range(10)) for index in range(3)]
    assert sorted(episode for share in shares for episode in share) == list(range(10))
    assert {len(share) for share in shares} == {3, 4}


def test_a_process_takes_the_devices_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *_, local_device_ids, **__: taken.append(local_device_ids)
    )
    for devices in ((2, 3), ()):
        join_cluster(ClusterConfig("host:7000", 2, 1, devices))
    assert taken == [(2, 3), None]


SHORT = """
import runpy, sys
from imf_jax.sim.tasks.transfer import Transfer
Transfer.max_steps = 16
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script with episodes of 16 steps."""


def evaluate(run: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    script = [sys.executable, "-c", SHORT, str(SCRIPT)]
    command = [*script, "--checkpoint", str(run), "--episodes", "3", "--out", str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


@pytest.mark.parametrize(
    "backend", ["native", pytest.param("warp", marks=pytest.mark.long), pytest.param("mjx", marks=pytest.mark.long)]
)
def test_two_processes_evaluate_a_checkpoint_as_one_does(
    tmp_path: Path, write_run: Callable[..., Path], backend: str
) -> None:
    run, compiled = write_run(tmp_path / "run"), backend != "native"
    simulate = ["--backend", backend, "--num-envs", "1"] if compiled else []
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    cluster = [*simulate, "--save-trajectory", "--cluster.coordinator", address, "--cluster.num-processes", "2"]
    running = [evaluate(run, tmp_path / "two", *cluster, "--cluster.process-id", str(index)) for index in (0, 1)]
    limit = 1200 if compiled else 200
    said = [process.communicate(timeout=limit)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    alone = evaluate(run, tmp_path / "one", *simulate)
    alone.communicate(timeout=limit)
    assert alone.returncode == 0

    def records(name: str) -> list:
        found, problems = read_records(tmp_path / name)
        assert problems == []
        return [replace(r, env_slot=0, start_step=0, end_step=0, artifacts={}) for r in found]

    assert records("two") == records("one")
    merged = tmp_path / "two"
    assert sorted(path.name for path in merged.iterdir()) == [
        "episodes", "episodes.jsonl", "manifest.json", "metrics.json", "report.html",
    ]  # fmt: skip
    for record in read_records(merged)[0]:
        assert (merged / record.artifacts["trajectory"]).is_file()
    metrics = read_json(merged / "metrics.json")
    assert (metrics["n_episodes"], metrics["n_requested"], metrics["interrupted"]) == (3, 3, False)
    assert metrics["control_steps"] == sum(record.steps for record in records("one"))
    assert read_json(merged / "manifest.json")["processes"] == 2
    json.dumps(metrics)
