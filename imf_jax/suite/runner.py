"""Run a suite to its end: starts what is ready, watches what runs, and keeps its folder up to date."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from imf_jax.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_ERRORED
from imf_jax.files import write_json
from imf_jax.suite.folder import SuiteFolder, now
from imf_jax.suite.launch import GRACE_S, FormerProcess, Handle, Launcher, is_alive, log_path
from imf_jax.suite.progress import failure_lines, is_finished, progress_of, tracker_links
from imf_jax.suite.runs import JOBS, Run

POLL_S = 0.2
"""Time between two looks at the processes [s]."""

REFRESH_S = 2.0
"""Time between two looks at the progress of the runs [s]."""


@dataclass
class Runner:
    """Runs what is missing of a suite.

    Attributes:
        folder: of the suite.
        launcher: starts the processes.
        should_stop: True from when the suite is to stop: every process is asked to, and saves what it has done.
        say: receives a line about every run that starts or ends.
        on_refresh: called when `folder.status` has been brought up to date.
        on_results: called when an evaluation has ended.
    """

    folder: SuiteFolder
    launcher: Launcher
    should_stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda line: None
    on_refresh: Callable[[], None] = lambda: None
    on_results: Callable[[], None] = lambda: None
    _running: dict[str, tuple[Run, Handle, float]] = field(default_factory=dict)
    _refreshed: float = 0.0

    def run(self) -> int:
        """Run to the end, or until asked to stop.

        Returns:
            exit code: 0 all is done, 3 something failed, 130 interrupted.
        """
        waiting = self._prepare()
        stopping = False
        try:
            while waiting or self._running:
                if self.should_stop() and not stopping:
                    stopping, waiting = True, []
                    self._interrupt()
                for name, (run, handle, _) in list(self._running.items()):
                    code = handle.poll()
                    if code is not None and not self._end(name, run, code, stopping):
                        waiting.insert(0, run)
                waiting = self._start_ready(waiting)
                self._refresh()
                if waiting or self._running:
                    time.sleep(POLL_S)
        except BaseException:  # a second Ctrl-C, or a bug: nothing is left running unattended
            self._end_all()
            self.folder.save("interrupted")
            raise
        states = {status.state for status in self.folder.status.values()}
        self.folder.save("interrupted" if stopping else "done")
        self.on_refresh()
        if stopping:
            return EXIT_INTERRUPTED
        return EXIT_OK if states <= {"done"} else EXIT_SOME_ERRORED

    def _prepare(self) -> list[Run]:
        """The runs that are not finished; those that an earlier suite has left running come first."""
        runs = self.folder.plan.runs
        for run in runs:
            status = self.folder.status[run.name]
            status.log = str(log_path(run, self.folder.logs).relative_to(self.folder.path))
            finished = is_finished(run) or (run.kind == "features" and status.state == "done")
            status.state = "done" if finished else "waiting"
            if finished:
                status.done = run.total
        left = [run for run in runs if self.folder.status[run.name].state != "done"]
        self.folder.save("running")
        return sorted(left, key=lambda run: not is_alive(run, self.folder.logs))

    def _start_ready(self, waiting: Sequence[Run]) -> list[Run]:
        """Start what can be started; returns what still waits."""
        left = []
        for run in waiting:
            states = [self.folder.status[name].state for name in run.needs]
            if any(state in ("failed", "skipped", "interrupted") for state in states):
                self.folder.status[run.name].state = "skipped"
                self.say(f"{run.name}: skipped, because what it needs has failed")
            elif all(state == "done" for state in states) and self._has_room():
                self._start(run)
            else:
                left.append(run)
        return left

    def _has_room(self) -> bool:
        """Whether one more may be started. A run keeps its place until its end has been noted."""
        workers = self.launcher.workers
        return workers is None or len(self._running) < workers

    def _start(self, run: Run) -> None:
        status = self.folder.status[run.name]
        if run.kind == "evaluation":
            run.folder.mkdir(parents=True, exist_ok=True)
            write_json(run.folder / JOBS, {"jobs": list(run.jobs)})
        else:
            run.folder.parent.mkdir(parents=True, exist_ok=True)
        handle = self.launcher.start(run, self.folder.logs, vars(status))
        status.state, status.started, status.ended, status.last_lines = "running", now(), None, []
        status.exit_code = status.host = status.pid = status.job_id = status.device = status.cores = None
        for name, value in handle.place.items():
            setattr(status, name, value)
        self._running[run.name] = (run, handle, time.monotonic() - status.elapsed_s)
        self.say(f"{run.name}: {'found running' if isinstance(handle, FormerProcess) else 'started'}")
        self.folder.save("running")

    def _end(self, name: str, run: Run, code: int, stopping: bool) -> bool:
        """Take note of the end of a process; False if the run has to be started again."""
        status = self.folder.status[name]
        self._update(status, run)
        handle = self._running.pop(name)[1]
        status.ended, status.exit_code = now(), code
        finished = code == EXIT_OK if run.kind == "features" else is_finished(run)
        if finished:
            status.state = "done"
        elif stopping:
            status.state = "interrupted"
        elif isinstance(handle, FormerProcess):  # it may have been told to stop together with the suite before
            status.state = "waiting"
            return False
        else:
            status.state = "failed"
            status.last_lines = failure_lines(run, log_path(run, self.folder.logs))
        why = f" (exit code {code}): {' | '.join(status.last_lines)}" if status.state == "failed" else ""
        self.say(f"{name}: {status.state}{why}")
        if run.kind == "training" and finished:
            self.folder.keep_hashes(name, run.folder)
        self.folder.save("running")
        if run.kind == "evaluation":
            self.on_results()
        return True

    def _refresh(self) -> None:
        if time.monotonic() - self._refreshed < REFRESH_S:
            return
        self._refreshed = time.monotonic()
        for name, (run, _, _) in self._running.items():
            self._update(self.folder.status[name], run)
        self.folder.save("running")
        self.on_refresh()

    def _update(self, status: Any, run: Run) -> None:
        progress = progress_of(run)
        status.done, status.rate = progress.done, progress.rate or status.rate
        status.tracker = tracker_links(run) or status.tracker
        if run.name in self._running:
            status.elapsed_s = round(time.monotonic() - self._running[run.name][2], 1)

    def _interrupt(self) -> None:
        if self._running:
            names = ", ".join(self._running)
            self.say(f"stopping: {names} may save what has been done; interrupt once more to stop at once")
        for _, handle, _ in self._running.values():
            handle.interrupt()

    def _end_all(self) -> None:
        handles = [handle for _, handle, _ in self._running.values()]
        for handle in handles:
            handle.interrupt()
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and any(handle.poll() is None for handle in handles):
            time.sleep(POLL_S)
        for handle in handles:
            if handle.poll() is None:
                handle.kill()
        for name in self._running:
            self.folder.status[name].state = "interrupted"
