"""Files of a suite's folder: what was asked, how far each run is, and a human's notes.

<out>/manifest.json     the file, settings of every run, versions, hashes of data and encoders
<out>/status.json       every run: state, step, rate, host, process or job, links, log
<out>/notes.md          yours; sections for new runs are added at its end, nothing else is ever changed
<out>/suite.html        results.csv beside it
<out>/demonstrations/   runs/   evaluations/   logs/
"""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import imf_jax
from imf_jax.checkpoints import newest_checkpoint, read_meta
from imf_jax.config import require
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.manifest import versions
from imf_jax.files import read_json, reported_write_errors, write_json
from imf_jax.suite.plan import Plan
from imf_jax.suite.progress import read_if_there

MANIFEST, STATUS, NOTES, LOGS = "manifest.json", "status.json", "notes.md", "logs"
SCHEMA_VERSION = 1
LOCK = ".suite.lock"


@dataclass
class RunStatus:
    """Entry of a run in `status.json`.

    Attributes:
        kind: of the run.
        state: waiting, running, done, failed, interrupted, or skipped: what it needs has failed.
        done: steps, episodes or demonstrations, of `total`.
        total: see `done`.
        rate: training steps per second; None where the run does not say.
        elapsed_s: time that its processes have taken, all together [s].
        started: time of the start of the newest process.
        ended: time of its end.
        exit_code: of the newest process.
        host: where it runs.
        pid: of the process.
        job_id: of the cluster's job, instead of host and pid.
        device: the GPU that it has for itself.
        cores: numbers of the processor cores that it has for itself.
        tracker: name -> where it can be looked at.
        log: path below the suite's folder.
        last_lines: of a failed run.
    """

    kind: str
    state: str = "waiting"
    done: int = 0
    total: int = 0
    rate: float | None = None
    elapsed_s: float = 0.0
    started: str | None = None
    ended: str | None = None
    exit_code: int | None = None
    host: str | None = None
    pid: int | None = None
    job_id: str | None = None
    device: str | None = None
    cores: list[int] | None = None
    tracker: dict[str, str] = field(default_factory=dict)
    log: str | None = None
    last_lines: list[str] = field(default_factory=list)


def now() -> str:
    """Time for a file."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def require_startable(plan: Plan, *, resume: bool) -> None:
    """Refuse a folder in which a suite must not be started or continued.

    Raises:
        ArgumentError: it holds something else, or a suite that is not to be resumed or was asked something else.
    """
    out, path = plan.out, plan.out / MANIFEST
    require(not out.exists() or out.is_dir(), f"--out {out} is a file; choose a folder")
    if not resume:
        require(
            not path.exists(), f"--out {out} already holds a suite; continue it with --resume or choose another --out"
        )
        require(
            not out.is_dir() or all(entry.name == LOCK for entry in out.iterdir()),
            f"--out {out} is not empty; choose another folder",
        )
        return
    require(path.is_file(), f"--resume: {out} holds no suite to continue; leave --resume away to start one there")
    before = read_json(path).get("runs")
    require(isinstance(before, dict), f"--resume: {path} does not list its runs; choose another --out")
    asked = {run.name: run.settings for run in plan.runs}
    begun = begun_runs(out, before) if isinstance(before, dict) else {}
    changes = list(changed_settings(begun, asked))
    more = f", and {len(changes) - 3} more" if len(changes) > 3 else ""
    if changes:
        raise ArgumentError(
            f"--resume: {plan.suite.path} is not what {out} was started with: {'; '.join(changes[:3])}{more}. Put back "
            "what was there and add new arms, seeds or evaluations beside it (what has not begun may change), or "
            "choose another --out"
        )


def begun_runs(out: Path, runs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a suite's runs that were ever started; of the others nothing exists that a change could contradict."""
    stored = read_if_there(out / STATUS).get("runs", {})

    def begun(name: str) -> bool:
        status = stored.get(name, {})
        log = status.get("log")
        # The log is opened before the process starts, the status written after it: a kill may have come between.
        return log is None or status.get("started") is not None or (out / log).exists()

    return {name: settings for name, settings in runs.items() if begun(name)}


def changed_settings(before: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """List what was asked of a suite's runs and is not any more, or differs; new runs and evaluations may come."""
    for name, settings in before.items():
        if name not in asked:
            yield f"{name} is not in it"
            continue
        old, new = _flat(settings), _flat(asked[name])
        # What is new only was added: an evaluation, or a setting that the version before did not have.
        yield from (f"{name}: {key} was {old[key]}, and is not there now" for key in sorted(old.keys() - new.keys()))
        yield from (
            f"{name}: {key} {old[key]} -> {new[key]}" for key in sorted(old.keys() & new.keys()) if old[key] != new[key]
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in settings.items():
        values |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values


class SuiteFolder:
    """The files of a suite; see the module.

    Args:
        plan: the suite.

    Attributes:
        status: of every run, by name; `save` writes it.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.path = plan, plan.out
        stored = read_if_there(self.path / STATUS).get("runs", {})
        self.status: dict[str, RunStatus] = {}
        known = RunStatus.__dataclass_fields__
        for run in plan.runs:
            values = {name: value for name, value in stored.get(run.name, {}).items() if name in known}
            self.status[run.name] = RunStatus(**{**values, "kind": run.kind, "total": run.total})

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.path / LOGS

    def open(self) -> None:
        """Write the manifest, with a line about this start, and sections of the notes.

        Raises:
            UserError: they cannot be written.
        """
        plan, before = self.plan, read_if_there(self.path / MANIFEST)
        session = {
            "started": now(), "host": socket.gethostname(), "command": sys.argv, "versions": versions(),
            "commit": commit(Path(imf_jax.__file__).parent),
        }  # fmt: skip
        with reported_write_errors(self.path, "suite"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._manifest = {
                "schema": SCHEMA_VERSION,
                "name": plan.suite.name,
                "file": str(plan.suite.path),
                "suite": dict(plan.suite.content),
                "created": before.get("created", session["started"]),
                "sessions": [*before.get("sessions", []), session],
                "runs": {run.name: run.settings for run in plan.runs},
                "learned_from": before.get("learned_from", {}),
            }
            write_json(self.path / MANIFEST, self._manifest)
            offer_notes(self.path / NOTES, plan)

    def save(self, state: str) -> None:
        """Write `status.json`; `state` of the suite: running, done, or interrupted.

        Raises:
            UserError: it cannot be written.
        """
        runs = {name: asdict(status) for name, status in self.status.items()}
        content = {"schema": SCHEMA_VERSION, "state": state, "updated": now(), "pid": os.getpid(), "runs": runs}
        with reported_write_errors(self.path, "suite"):
            write_json(self.path / STATUS, content)

    def keep_hashes(self, run: str, folder: Path) -> None:
        """Add to the manifest what a training run has learned from: hashes of its demonstrations and encoder."""
        newest = newest_checkpoint(folder)
        if newest is not None:
            meta = read_meta(newest)
            self._manifest["learned_from"][run] = {"data_sha256": meta.data_sha256, "encoder": meta.encoder}
            with reported_write_errors(self.path, "suite"):
                write_json(self.path / MANIFEST, self._manifest)


@contextmanager
def only_suite(path: Path) -> Iterator[None]:
    """Make sure that no other process runs the suite of this folder.

    Raises:
        ArgumentError: another one does.
        UserError: the file system knows no locks.
    """
    with reported_write_errors(path, "suite"):
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("wb")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArgumentError(f"another suite.py runs in {path}; wait for it, or stop it with Ctrl-C") from None
        except OSError as error:
            raise UserError(f"files in {path} cannot be locked ({error.strerror}); choose another --out") from None
        yield


def offer_notes(path: Path, plan: Plan) -> None:
    """Add a section to the notes for every training run that has none; what is there stays as it is."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    headings = {line.strip() for line in text.splitlines()}
    lines = (
        []
        if text
        else [
            f"# {plan.suite.name}",
            "",
            "Notes by hand. suite.py adds sections for new runs, and changes nothing else.",
        ]
    )
    for run in plan.runs:
        heading = f"## {run.folder.name}"
        if run.kind == "training" and heading not in headings:
            lines += ["", heading, ""]
    if lines:
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if text.endswith("\n") or not text else "\n") + "\n".join(lines) + "\n")


def commit(folder: Path) -> str | None:
    """Commit of a package, with "+changes" if files differ from it; None if no repository holds the package."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # The environment may lie in somebody's repository.
    head = git("rev-parse", "HEAD") if git("ls-files", "--error-unmatch", "__init__.py") else None
    return head and head + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
