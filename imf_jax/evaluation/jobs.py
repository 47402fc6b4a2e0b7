"""Batch of evaluations: a file of named jobs, checked as a whole before the first one starts.

```yaml
jobs:
  - name: baseline
    checkpoint: runs/transfer
    episodes: 100
    seeds: [0, 1]
    captures: {save_trajectory: true}
    overrides: {sampling_steps: 2, num_envs: 64}
  - name: expert
    expert: true
```

A job is one evaluation per seed. Settings that it does not name are those of the command line.
"""

import dataclasses
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from imf_jax.config import CaptureConfig, EvalConfig, PolicyConfig, from_dict, require, to_dict
from imf_jax.config.perturbation import active
from imf_jax.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SOME_ERRORED,
    ArgumentError,
    UserError,
)
from imf_jax.files import new_folders, write_bytes, write_json
from imf_jax.settings_file import read_settings, require_known

JOB = "job.json"
TRACEBACK = "traceback.txt"
SCHEMA_VERSION = 1

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
KEYS = ("name", "checkpoint", "expert", "policy", "task", "overrides", "episodes", "seeds", "captures")
CAPTURES = tuple(field.name for field in dataclasses.fields(CaptureConfig))
GROUPS = ("execution", "capture")
"""Fields of a configuration whose own fields are flags of the command line."""
NOT_OVERRIDABLE = (
    "jobs", "out", "resume", "continue_on_error", "cluster", "checkpoint", "expert", "policy", "task", "episodes",
    *GROUPS,
)  # fmt: skip
"""Flags of all jobs together, or with a key of their own; those of a group are overridden one by one."""

JobStatus = Literal["done", "failed", "interrupted"]


@dataclass(frozen=True)
class Job:
    """Evaluation of a file of jobs.

    Attributes:
        name: unique; also the name of its folder.
        config: its configuration, as of a command line.
    """

    name: str
    config: EvalConfig


def read_jobs(path: Path, defaults: EvalConfig) -> list[Job]:
    """Read all jobs of a YAML or JSON file, each with a complete configuration.

    Args:
        path: the file; its suffix gives the format (`.json`, else YAML).
        defaults: the command line.

    Raises:
        UserError: the file cannot be read or is no YAML or JSON.
        ArgumentError: a job that could not run: names the job and the key.
    """
    content = read_settings(path, "--jobs")
    entries: Any = content.get("jobs") if isinstance(content, dict) else None
    require(
        isinstance(entries, list) and bool(entries) and set(content) == {"jobs"},
        f"--jobs {path} must hold one key `jobs` with a list of jobs",
    )
    jobs: list[Job] = []
    for number, entry in enumerate(entries, start=1):
        found = read_entry(entry, f"{path}: job", number, defaults)
        where = f"{path}: job {entry['name']}"
        _require_checkpoint(found[0].config, where)
        _require_perturbable(found[0].config, where)
        jobs += found
    names = [job.name.lower() for job in jobs]  # some file systems do not distinguish A from a
    repeated = sorted({name for name in names if names.count(name) > 1})
    require(not repeated, f"{path}: two jobs are called {', '.join(repeated)}; give each job a name of its own")
    return jobs


def read_entry(entry: Any, what: str, number: int, defaults: EvalConfig) -> list[Job]:
    """Read an entry of a file of jobs: one job per seed. Whether its checkpoint is there is not looked at.

    Args:
        entry: the entry, plain types.
        what: it is, for messages.
        number: of the entry, for messages about one that has no name.
        defaults: settings that it does not name.

    Raises:
        ArgumentError: it could not run; names the entry and the key.
    """
    where = f"{what} {number}"
    require(isinstance(entry, dict), f"{where} must be a mapping with a name")
    name = entry.get("name")
    require(isinstance(name, str), f"{where} has no name")
    require(
        NAME.fullmatch(name) is not None and ".." not in name,
        f"{where}: the name {name!r} is unsafe for a folder; use letters, digits, '.', '_' and '-'",
    )
    where = f"{what} {name}"
    require_known(entry, KEYS, where)
    captures = _mapping(entry, "captures", where)
    overrides = _mapping(entry, "overrides", where)
    values = to_dict(defaults) | {"jobs": None, "resume": False, "continue_on_error": False}
    values |= {key: entry[key] for key in ("checkpoint", "expert", "policy", "task", "episodes") if key in entry}
    flags = {flag: group for group in (values, *(values[name] for name in GROUPS)) for flag in group}
    require_known(captures, CAPTURES, f"{where}, captures")
    require_known(overrides, [flag for flag in flags if flag not in NOT_OVERRIDABLE], f"{where}, overrides")
    for flag, value in (overrides | captures).items():
        flags[flag][flag] = value
    seeds = entry.get("seeds", [defaults.seed])
    require(
        isinstance(seeds, list) and bool(seeds),
        f"{where}: seeds must be a list of whole numbers, such as [0, 1]",
    )
    jobs = []
    for seed in seeds:
        try:
            config = from_dict(EvalConfig, values | {"seed": seed})
        except UserError as error:
            raise ArgumentError(f"{where}: {error}") from None
        jobs.append(Job(job_name(name, seed, seeds), config))
    require(len(set(seeds)) == len(seeds), f"{where}: a seed is given twice")
    return jobs


def job_name(name: str, seed: int, seeds: Sequence[int]) -> str:
    """Name of the job, and of its folder, of one of the seeds of an entry."""
    return name if len(seeds) == 1 else f"{name}_seed{seed}"


def _mapping(entry: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = entry.get(key) or {}
    require(isinstance(value, dict), f"{where}: {key} must be a mapping of flags to values")
    return {str(name).replace("-", "_"): content for name, content in value.items()}


def _require_checkpoint(config: EvalConfig, where: str) -> None:
    if config.checkpoint is None:
        return
    from imf_jax.checkpoints import read_config, resolve_checkpoint

    try:
        require_executable(config, read_config(resolve_checkpoint(config.checkpoint)).policy)
    except UserError as error:
        raise ArgumentError(f"{where}: {error}") from None


def require_executable(config: EvalConfig, policy: PolicyConfig) -> None:
    """Refuse an evaluation that a policy cannot be put through.

    Args:
        config: the evaluation.
        policy: as it was trained.

    Raises:
        ArgumentError: names the flag.
    """
    from imf_jax.rollout.delay import require_execution

    if config.sampling_steps is not None:
        policy = dataclasses.replace(policy, sampling_steps=config.sampling_steps)
    require_execution(config.execution, policy)


def _require_perturbable(config: EvalConfig, where: str) -> None:
    """Refuse a perturbation that the job's policy or task does not have, by making both."""
    if not active(config.perturb):
        return
    from imf_jax.evaluation.setup import assemble

    try:
        assemble(config).policy.close()
    except UserError as error:
        raise ArgumentError(f"{where}: {error}") from None


@contextmanager
def job_folders(jobs: Sequence[Job], out: Path | None) -> Iterator[dict[str, Path]]:
    """Resolve the folder of each job, once: `<out>/<name>`, or a new `evals/<timestamp>_<name>` without --out."""
    names = [job.name for job in jobs]
    if out is not None:
        yield {name: out / name for name in names}
        return
    with new_folders(Path("evals"), names) as folders:
        yield dict(zip(names, folders, strict=True))


@dataclass(frozen=True)
class JobResult:
    """Result of a job.

    Attributes:
        name: of the job.
        folder: the folder of its files.
        status: "done" also if some of its episodes ended in an error.
        exit_code: as if it had been run alone.
        line: success, or the error.
    """

    name: str
    folder: Path
    status: JobStatus
    exit_code: int
    line: str


def run_job(job: Job, folder: Path, run: Callable[[EvalConfig, Path], Any], *, resume: bool) -> JobResult:
    """Run a job and write `job.json` to its folder, also if it fails; a folder of something else stays as it is.

    Args:
        job: the job.
        folder: the folder that it writes to.
        run: evaluates a configuration into a folder and returns its `Summary`.
        resume: complete a job that was started.
    """
    from imf_jax.evaluation.folder import require_empty
    from imf_jax.evaluation.resume import require_resumable, started

    try:
        if not resume:
            require_empty(folder)
        elif not started(folder):
            # A job that failed before its first episode has left nothing but its own record.
            for name in (JOB, TRACEBACK):
                (folder / name).unlink(missing_ok=True)
            require_resumable(folder)
    except UserError as error:
        return JobResult(job.name, folder, "failed", error.exit_code, str(error))
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    content: dict[str, Any] = {"schema": SCHEMA_VERSION, "name": job.name, "started": begun}

    def leave(status: JobStatus, exit_code: int, **more: Any) -> None:
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / JOB, {**content, "status": status, "exit_code": exit_code, "ended": ended, **more})

    try:
        summary = run(dataclasses.replace(job.config, out=folder, resume=resume), folder)
    except KeyboardInterrupt:
        _leave_quietly(leave, "interrupted", EXIT_INTERRUPTED, reason="interrupted", **_finished(folder))
        raise
    except Exception as error:
        code = error.exit_code if isinstance(error, UserError) else EXIT_FAILED
        reason = str(error) or type(error).__name__
        more: dict[str, Any] = {"reason": reason, **_finished(folder)}
        if not isinstance(error, UserError):
            more["traceback"] = TRACEBACK
            _leave_quietly(write_bytes, folder / TRACEBACK, traceback.format_exc().encode(errors="backslashreplace"))
        _leave_quietly(leave, "failed", code, **more)
        return JobResult(job.name, folder, "failed", code, " ".join(reason.split()))
    status: JobStatus = "interrupted" if summary.exit_code == EXIT_INTERRUPTED else "done"
    leave(status, summary.exit_code, **_finished(folder))
    return JobResult(job.name, folder, status, summary.exit_code, summary.headline)


def _leave_quietly(write: Callable[..., None], *arguments: Any, **more: Any) -> None:
    """Write a file, ignoring a full or read-only disk: the result is shown at the terminal anyway."""
    try:
        write(*arguments, **more)
    except OSError:
        return


def _finished(folder: Path) -> dict[str, Any]:
    """Count the finished and the successful episodes of a job so far."""
    from imf_jax.evaluation.folder import read_records

    try:
        records, _ = read_records(folder)
    except (UserError, OSError):
        records = []
    return {"n_episodes": len(records), "n_success": sum(record.status == "success" for record in records)}


def run_jobs(
    jobs: Sequence[Job],
    folders: dict[str, Path],
    run: Callable[[EvalConfig, Path], Any],
    *,
    resume: bool,
    continue_on_error: bool,
    say: Callable[[str], None],
) -> tuple[list[JobResult], int]:
    """Run jobs one after the other.

    Args:
        jobs: the jobs.
        folders: by name, from `job_folders`.
        run: see `run_job`.
        resume: see `run_job`.
        continue_on_error: go on after a job that failed.
        say: receives a line before each job.

    Returns:
        results of the started jobs, and the exit code: 130 interrupted, 1 a job failed and the rest did not run,
        3 a job failed or had episodes with errors and the rest went on, else 0.
    """
    results: list[JobResult] = []
    for number, job in enumerate(jobs, start=1):
        say(f"job {number} of {len(jobs)}: {job.name}")
        results.append(run_job(job, folders[job.name], run, resume=resume))
        last = results[-1]
        if last.status == "interrupted":
            return results, EXIT_INTERRUPTED
        if last.status == "failed" and not continue_on_error:
            return results, EXIT_FAILED
    return results, EXIT_SOME_ERRORED if any(result.exit_code != EXIT_OK for result in results) else EXIT_OK
