"""Runs as jobs of a cluster, through submitit (extra `cluster`): SLURM, or its local executor."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imf_jax.errors import EXIT_FAILED, ArgumentError, UserError, one_line
from imf_jax.suite.launch import Handle, spawn
from imf_jax.suite.runs import Run

TIMEOUT_MIN = 24 * 60
"""Time limit of a job unless an option names another [min]; submitit's own is five minutes."""

FOLDER = "submitit"


class RemoteRun:
    """The function that a job executes: the process of a run, in a job. It is pickled by submitit.

    Args:
        run: the run.
        logs: folder of the logs, absolute.
    """

    def __init__(self, run: Run, logs: Path) -> None:
        self._run, self._logs = run, logs
        self._process: Any = None

    def __call__(self) -> int:
        """Run to the end; returns the exit code."""
        self._process = spawn(self._run, self._logs, {})
        try:
            return int(self._process.wait())
        except KeyboardInterrupt:
            self._process.send_signal(signal.SIGINT)
            return int(self._process.wait())

    def checkpoint(self) -> Any:
        """Called before the job is preempted or out of time: it is submitted again, and the run continues."""
        from submitit.helpers import DelayedSubmission

        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        return DelayedSubmission(RemoteRun(self._run, self._logs))


@dataclass
class ClusterJob:
    """A job of submitit."""

    job: Any

    @property
    def place(self) -> Mapping[str, Any]:
        """Id of the job."""
        return {"job_id": str(self.job.job_id)}

    def poll(self) -> int | None:
        """Exit code; None while the job waits or runs."""
        if not self.job.done():
            return None
        try:
            return int(self.job.result())
        except Exception:  # what submitit raises for jobs that were cancelled or lost
            return EXIT_FAILED

    def interrupt(self) -> None:
        """Cancel the job; the run saves what it has done."""
        self.job.cancel()

    def kill(self) -> None:
        """Cancel the job."""
        self.job.cancel()


@dataclass
class Cluster:
    """Jobs of a cluster.

    Attributes:
        executor: of submitit.
        job_class: of its jobs.
        workers: so many jobs at a time; None leaves it to the cluster.
    """

    executor: Any
    job_class: Any
    workers: int | None = None

    def start(self, run: Run, logs: Path, before: Mapping[str, Any]) -> Handle:
        """Submit a run, or find the job of an earlier suite that still waits or runs."""
        job = None
        if before.get("ended") is None and isinstance(before.get("job_id"), str):
            job = self.job_class(self.executor.folder, before["job_id"])
        if job is None or job.done():
            job = self.executor.submit(RemoteRun(run, logs.resolve()))
        return ClusterJob(job)


def make_cluster(name: str, logs: Path, suite: str, options: Sequence[str], workers: int | None) -> Cluster:
    """Connect to a cluster.

    Args:
        name: slurm, or local.
        logs: folder of the logs.
        suite: name of the jobs.
        options: KEY=VALUE of submitit's executors, such as slurm_partition=gpu or mem_gb=16.
        workers: see `Cluster`.

    Raises:
        UserError: submitit is not installed.
        ArgumentError: there is no such cluster here, or an option is not known.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("--cluster needs submitit; install it with `pip install 'imf_jax[cluster]'`") from None
    parameters: dict[str, Any] = {"name": suite, "timeout_min": TIMEOUT_MIN}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise ArgumentError(f"--cluster-options {option} must be KEY=VALUE, such as slurm_partition=gpu")
        parameters[key] = yaml.safe_load(value)
    try:
        executor = submitit.AutoExecutor(folder=logs / FOLDER, cluster=name)
    except RuntimeError as error:
        raise ArgumentError(
            f"--cluster {name} is not here ({one_line(error)}); start the suite on a machine of the cluster, or leave "
            "--cluster away"
        ) from None
    try:
        executor.update_parameters(**parameters)
    except Exception as error:  # submitit raises NameError, TypeError and others for options that it does not know
        raise ArgumentError(f"--cluster-options cannot be used: {one_line(error)}") from None
    return Cluster(executor, {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[name], workers)
