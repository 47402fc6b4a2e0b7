"""Runs as jobs of a cluster, with the executor of submitit that needs none."""

import sys
import time

import pytest

from imf_jax.errors import EXIT_OK, ArgumentError, UserError
from imf_jax.suite.cluster import Cluster, make_cluster
from imf_jax.suite.launch import log_path
from imf_jax.suite.runs import Run


def ended(handle, limit_s: float = 120.0) -> int | None:
    deadline = time.monotonic() + limit_s
    while handle.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return handle.poll()


def test_a_job_runs_the_command_and_has_its_log(tmp_path):
    pytest.importorskip("submitit", reason="the extra cluster is not installed")
    logs = tmp_path / "logs"
    cluster = make_cluster("local", logs, "study", ["timeout_min=5"], workers=1)
    right = Run("right", "demonstrations", tmp_path / "right", ("--help",), {})
    wrong = Run("wrong", "demonstrations", tmp_path / "wrong", ("--episodes", "0"), {})
    handle = cluster.start(right, logs, {})
    assert handle.place["job_id"].isdigit()
    assert ended(handle) == EXIT_OK
    assert "--episodes" in log_path(right, logs).read_text()
    assert ended(cluster.start(wrong, logs, {})) == 2
    assert "error: --episodes is 0" in log_path(wrong, logs).read_text()


@pytest.mark.long
def test_a_cancelled_job_is_one_that_failed(tmp_path):
    pytest.importorskip("submitit", reason="the extra cluster is not installed")
    cluster = make_cluster("local", tmp_path / "logs", "study", [], workers=None)
    run = Run("long", "demonstrations", tmp_path / "long", ("--episodes", "100000", "--out", str(tmp_path / "d")), {})
    handle = cluster.start(run, tmp_path / "logs", {})
    for _ in range(300):
        if log_path(run, tmp_path / "logs").is_file():
            break
        time.sleep(0.1)
    handle.interrupt()
    code = ended(handle)
    assert code is not None
    assert code != EXIT_OK


def test_jobs_of_an_earlier_suite_are_found_again(tmp_path):
    """While they wait or run; the entry of the run in status.json has their id."""

    class Job:
        def __init__(self, folder, job_id):
            self.job_id = job_id

        def done(self):
            return self.job_id == "7"  # all others wait or run

    class Executor:
        folder = tmp_path

        def submit(self, function):
            return Job(tmp_path, "9")

    cluster = Cluster(Executor(), Job)
    run = Run("a", "demonstrations", tmp_path / "a", (), {})
    for before, job_id in (
        ({"job_id": "5", "ended": None}, "5"), ({"job_id": "5", "ended": "2026"}, "9"),
        ({"job_id": "7", "ended": None}, "9"), ({"job_id": None}, "9"),
    ):  # fmt: skip
        assert cluster.start(run, tmp_path, before).place == {"job_id": job_id}


def test_clusters_that_are_not_there(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the extra cluster is not installed")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ArgumentError, match="--cluster slurm is not here"):
        make_cluster("slurm", tmp_path, "study", [], None)
    with pytest.raises(ArgumentError, match="must be KEY=VALUE"):
        make_cluster("local", tmp_path, "study", ["partition"], None)
    with pytest.raises(ArgumentError, match="--cluster-options cannot be used"):
        make_cluster("local", tmp_path, "study", ["no_such_option=3"], None)


def test_submitit_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'imf_jax\[cluster\]'"):
        make_cluster("local", tmp_path, "study", [], None)
