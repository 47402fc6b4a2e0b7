"""Suites run to their end: order, failures, interruptions, kills; with small programs in place of the commands."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from imf_jax.cores import share_cores, usable_cores
from imf_jax.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_ERRORED, ArgumentError
from imf_jax.suite import runner as runner_module
from imf_jax.suite.folder import NOTES, STATUS, SuiteFolder, only_suite, require_startable
from imf_jax.suite.launch import FormerProcess, Pool, is_alive, spawn
from imf_jax.suite.machine import make_pool, visible_gpus
from imf_jax.suite.runner import Runner
from imf_jax.suite.runs import Run
from imf_jax.suite.view import SuiteView

WRITE = """
import sys, pathlib
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "done").touch()
"""
FAIL = "import sys; print('first'); print('the reason'); sys.exit(1)"
WAIT = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so their children
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("saved")
    raise SystemExit(130)
"""
HANG_ONCE = """
import pathlib, sys, time
begun = pathlib.Path(sys.argv[1] + ".begun")
if not begun.exists():
    begun.touch()
    time.sleep(60)
"""


class Stub(Run):
    """A run whose command is a program in Python; its flags are the program."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.flags[0], str(self.folder)]


@pytest.fixture
def make_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module, "is_finished", lambda run: (run.folder / "done").is_file())
    monkeypatch.setattr(runner_module.SuiteFolder, "keep_hashes", lambda *arguments: None)

    def make(**programs: tuple[str, tuple[str, ...]]) -> SuiteFolder:
        runs = [
            Stub(name, "training", tmp_path / "out" / "runs" / name, (program,), {"program": program}, needs, 5)
            for name, (program, needs) in programs.items()
        ]
        suite = SimpleNamespace(name="stub", path=tmp_path / "stub.yaml", content={})
        plan: Any = SimpleNamespace(suite=suite, out=tmp_path / "out", runs=tuple(runs))
        folder = SuiteFolder(plan)
        folder.open()
        return folder

    return make


def states(folder: SuiteFolder) -> dict[str, str]:
    content = json.loads((folder.path / STATUS).read_text())
    return {name: entry["state"] for name, entry in content["runs"].items()}


def wait_for(condition) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen in ten seconds")


def test_a_failed_run_does_not_end_the_others(make_folder):
    folder = make_folder(
        data=(WRITE, ()),
        bad=(FAIL, ("data",)),
        of_bad=(WRITE, ("bad",)),
        good=(WRITE, ("data",)),
        of_good=(WRITE, ("good",)),
    )
    said: list[str] = []
    assert Runner(folder, Pool(2), say=said.append).run() == EXIT_SOME_ERRORED
    assert states(folder) == {"data": "done", "bad": "failed", "of_bad": "skipped", "good": "done", "of_good": "done"}
    entry = json.loads((folder.path / STATUS).read_text())["runs"]["bad"]
    assert entry["last_lines"][-2:] == ["first", "the reason"]
    assert (entry["exit_code"], entry["log"]) == (1, "logs/bad.log")
    assert entry["pid"] > 0
    assert any(line.startswith("bad: failed (exit code 1)") and "the reason" in line for line in said)


def test_finished_runs_are_not_repeated_and_failed_ones_are(make_folder):
    assert Runner(make_folder(a=(WRITE, ()), b=(FAIL, ())), Pool(1)).run() == EXIT_SOME_ERRORED
    folder, said = make_folder(a=(WRITE, ()), b=(WRITE, ()), c=(WRITE, ("a",))), []
    assert Runner(folder, Pool(1), say=said.append).run() == EXIT_OK
    assert said == ["b: started", "b: done", "c: started", "c: done"]
    assert json.loads((folder.path / STATUS).read_text())["state"] == "done"


def test_a_run_keeps_its_place_until_its_end_has_been_noted(make_folder):
    """The next one would otherwise be told as started first, when a process ends between two looks at it."""

    class Quick:
        def __init__(self, run):
            self.run, self.place = run, {}

        def poll(self):
            self.run.folder.mkdir(parents=True)
            (self.run.folder / "done").touch()
            return EXIT_OK

    launcher: Any = SimpleNamespace(workers=1, start=lambda run, logs, before: Quick(run))
    said: list[str] = []
    assert Runner(make_folder(a=("", ()), b=("", ())), launcher, say=said.append).run() == EXIT_OK
    assert said == ["a: started", "a: done", "b: started", "b: done"]


def test_ctrl_c_lets_runs_save(make_folder):
    folder = make_folder(a=(WAIT, ()), b=(WRITE, ("a",)))
    log = folder.logs / "a.log"
    runner = Runner(folder, Pool(1), should_stop=lambda: log.is_file() and "ready" in log.read_text())
    assert runner.run() == EXIT_INTERRUPTED
    assert states(folder) == {"a": "interrupted", "b": "waiting"}
    assert log.read_text().endswith("saved\n")


def test_a_second_ctrl_c_leaves_nothing_running(make_folder, monkeypatch):
    folder = make_folder(a=(WAIT, ()))
    log = folder.logs / "a.log"

    def interrupt():
        if log.is_file() and "ready" in log.read_text():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        Runner(folder, Pool(1), should_stop=interrupt).run()
    (run,) = folder.plan.runs
    assert not is_alive(run, folder.logs)
    assert states(folder) == {"a": "interrupted"}


def test_what_an_earlier_suite_left_running_is_waited_for(make_folder):
    program = f"import time; time.sleep(1)\n{WRITE}"
    folder = make_folder(a=(program, ()), b=(WRITE, ()))
    left = spawn(folder.plan.runs[0], folder.logs, {})  # as if its suite had been killed
    said: list[str] = []
    assert Runner(folder, Pool(1), say=said.append).run() == EXIT_OK
    assert said[0] == "a: found running"
    assert left.wait() == 0
    assert (folder.logs / "a.log").read_text().count("$ ") == 1


def test_a_killed_process_of_an_earlier_suite_is_started_again(make_folder):
    program = HANG_ONCE + WRITE
    folder = make_folder(a=(program, ()))
    (run,) = folder.plan.runs
    run.folder.parent.mkdir(parents=True)
    left = spawn(run, folder.logs, {})
    wait_for(Path(f"{run.folder}.begun").exists)
    handle = FormerProcess(run, folder.logs, {"pid": left.pid, "host": "elsewhere"})
    handle.kill()
    assert left.poll() is None, "the number of a process elsewhere says nothing here"
    killing = Runner(folder, Pool(1), on_refresh=lambda: left.poll() is None and left.kill())
    assert killing.run() == EXIT_OK
    assert left.wait() == -signal.SIGKILL


def test_a_worker_that_is_killed_is_a_failed_run(make_folder):
    folder = make_folder(a=("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ()), b=(WRITE, ()))
    assert Runner(folder, Pool(1)).run() == EXIT_SOME_ERRORED
    assert states(folder) == {"a": "failed", "b": "done"}
    assert folder.status["a"].exit_code == -signal.SIGKILL


def test_one_suite_at_a_time(tmp_path):
    with only_suite(tmp_path), pytest.raises(ArgumentError, match="another suite"), only_suite(tmp_path):
        pass
    with only_suite(tmp_path):
        pass


def test_every_process_has_a_gpu_for_itself(make_folder):
    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])\n" + WRITE
    folder = make_folder(a=(f"import time\n{show}\ntime.sleep(1)", ()), b=(f"import time\n{show}\ntime.sleep(1)", ()))
    assert Runner(folder, Pool(2, ("4", "7"))).run() == EXIT_OK
    assert {(folder.logs / f"{name}.log").read_text().splitlines()[-1] for name in "ab"} == {"4", "7"}
    assert {folder.status[name].device for name in "ab"} == {"4", "7"}


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores to share")
def test_processes_without_a_gpu_divide_the_cores(make_folder):
    shares = share_cores(2)
    here = os.sched_getaffinity(0)
    show = "import os, time\nprint(sorted(os.sched_getaffinity(0)))\n" + WRITE + "\ntime.sleep(1)"
    folder = make_folder(a=(show, ()), b=(show, ()), c=(show, ("a", "b")))
    assert Runner(folder, make_pool(2, (), None)).run() == EXIT_OK
    had = [json.loads((folder.logs / f"{name}.log").read_text().splitlines()[-1]) for name in "abc"]
    assert sorted(had[:2]) == shares
    assert had[2] in shares, "cores are given to the next when a run has ended"
    assert [folder.status[name].cores for name in "abc"] == had
    assert os.sched_getaffinity(0) == here, "the suite itself keeps all"
    assert make_pool(2, ("0", "1"), None).cores == []


def test_cores_are_divided_whole(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 1, 2, 8, 9})
    assert share_cores(2) == [[1, 2], [3, 8, 9]]
    assert share_cores(1) == []
    assert share_cores(6) == [], "fewer cores than runs: the system divides them"


def test_workers_follow_from_devices_and_memory(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for value, found in (("", ()), ("0,2", ("0", "2")), ("-1", ())):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == found
    assert make_pool(None, (), None).workers == 1
    assert make_pool(None, ("0", "1", "2"), None).workers == 3
    assert make_pool(None, ("0", "1", "2"), 7 * 2**30).workers == 2
    assert make_pool(3, (), 2**30).workers == 3
    with pytest.raises(ArgumentError, match="--workers 3 is more than the 2 GPUs"):
        make_pool(3, ("0", "1"), None)


def test_notes_are_never_overwritten(make_folder, tmp_path):
    notes = make_folder(a=(WRITE, ())).path / NOTES
    assert notes.read_text().splitlines()[0] == "# stub"
    notes.write_text("mine, without an end of line\n## a\nit diverged")
    make_folder(a=(WRITE, ()), b=(WRITE, ()))
    assert notes.read_text() == "mine, without an end of line\n## a\nit diverged\n\n## b\n\n"


def test_a_changed_suite_is_not_resumed(make_folder):
    folder = make_folder(a=(WRITE, ()), b=(WRITE, ()))
    plan = folder.plan
    with pytest.raises(ArgumentError, match="already holds a suite"):
        require_startable(plan, resume=False)
    require_startable(plan, resume=True)
    changed = SimpleNamespace(**{**vars(plan), "runs": (make_run(plan.runs[0], {"program": "other"}),)})
    with pytest.raises(ArgumentError) as raised:
        require_startable(changed, resume=True)
    message = str(raised.value)
    assert "b is not in it" in message
    assert "-> other" in message
    assert "add new arms" in message
    more = SimpleNamespace(**{**vars(plan), "runs": (*plan.runs, make_run(plan.runs[0], {}, name="c"))})
    require_startable(more, resume=True)
    with pytest.raises(ArgumentError, match="holds no suite"):
        require_startable(SimpleNamespace(**{**vars(plan), "out": plan.out / "else"}), resume=True)


def test_what_has_not_begun_may_change_or_go(make_folder):
    folder = make_folder(a=(FAIL, ()), b=(WRITE, ("a",)), c=(WRITE, ("a",)))
    assert Runner(folder, Pool(1)).run() != EXIT_OK
    assert [folder.status[name].state for name in "abc"] == ["failed", "skipped", "skipped"]
    plan = folder.plan
    a, b, _ = plan.runs
    without_c = SimpleNamespace(**{**vars(plan), "runs": (a, make_run(b, {"program": "other"}))})
    require_startable(without_c, resume=True)
    without_a = SimpleNamespace(**{**vars(plan), "runs": (b,)})
    with pytest.raises(ArgumentError, match=r"with: a is not in it\. Put back .*what has not begun may change"):
        require_startable(without_a, resume=True)
    (folder.logs / "c.log").touch()  # the suite was killed when it had just started c
    with pytest.raises(ArgumentError, match=r"with: c is not in it\. Put back"):
        require_startable(without_c, resume=True)


def make_run(run: Run, settings: dict[str, Any], name: str | None = None) -> Run:
    return Run(name or run.name, run.kind, run.folder, run.flags, settings, run.needs, run.total)


def test_new_evaluations_may_be_added(make_folder):
    folder = make_folder()
    plan = folder.plan
    run = Run("evaluate a", "evaluation", plan.out / "a", (), {"first": {"episodes": 5}})
    folder = SuiteFolder(SimpleNamespace(**{**vars(plan), "runs": (run,)}))
    folder.open()
    for settings, allowed in (
        ({"first": {"episodes": 5}, "second": {"episodes": 9}}, True), ({"first": {"episodes": 6}}, False), ({}, False),
    ):  # fmt: skip
        asked = SimpleNamespace(**{**vars(plan), "runs": (make_run(run, settings),)})
        if allowed:
            require_startable(asked, resume=True)
        else:
            with pytest.raises(ArgumentError, match=r"evaluate a: first\.episodes"):
                require_startable(asked, resume=True)


def test_the_view_is_a_table_or_plain_lines(make_folder, tmp_path, monkeypatch):
    folder = make_folder(a=(WRITE, ()), b=(WRITE, ()))
    folder.status["a"].state, folder.status["a"].done, folder.status["a"].rate = "running", 2, 1.5
    monkeypatch.setattr("imf_jax.terminal.LINE_INTERVAL", 0.0)
    for terminal in (False, True):
        with (tmp_path / f"{terminal}").open("w+") as file:
            console = Console(file=file, force_terminal=terminal, width=120)
            with SuiteView(folder, console) as view:
                view.say("a line")
                view.refresh()
            file.seek(0)
            text = file.read()
        assert "a line" in text
        assert "2 runs: 1 running, 1 waiting" in text
        assert "2/5 steps, 1.5/s" in text
        assert ("time left" in text) == terminal


def test_processes_are_sessions_of_their_own(make_folder):
    """Ctrl-C at a terminal reaches the suite only, which decides what it means."""
    folder = make_folder(a=("import os; print(os.getsid(0) == os.getpid())\n" + WRITE, ()))
    assert Runner(folder, Pool(1)).run() == EXIT_OK
    assert (folder.logs / "a.log").read_text().endswith("True\n")
