"""metrics.jsonl and summary.json are always written; trackers are real where they can be, and must not matter."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from imf_jax.config import TrainConfig
from imf_jax.errors import EXIT_BAD_ARGUMENTS, EXIT_OK, ArgumentError, UserError
from imf_jax.files import TRAINING_METRICS, read_metrics
from imf_jax.training import loop, tracker_backends
from imf_jax.training.tracker_backends import BACKENDS, make_trackers
from imf_jax.training.tracker_guard import MAX_FAILURES, GuardedTracker, left_behind
from imf_jax.training.trackers import SUMMARY, TRACKING, JsonlTracker, TrackedRun, Trackers


class FakeTracker:
    """Remembers its calls; `faults` maps a method to what happens there."""

    def __init__(self, **faults):
        self.calls = []
        self._faults = faults

    def __getattr__(self, method):
        def call(*arguments):
            self.calls.append((method, *arguments))
            return self._faults[method]() if method in self._faults else None

        return call

    def count(self, method):
        return sum(call[0] == method for call in self.calls)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def fail(error):
    def fault():
        raise error

    return fault


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "validation" / "step_4" / "episodes" / "ep_000000" / "trajectory.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((8, 8, 3), (255, 0, 0), np.uint8)).save(path)
    return path


@pytest.fixture
def follow(tmp_path, picture):
    """A short run followed by `external`; returns the content of summary.json and the warnings."""

    def run(external, *, steps=5, pause=0.0, **options):
        warnings: list[str] = []
        with Trackers(TrackedRun("run", tmp_path, {"lr": 0.1}), external, warnings.append, **options) as tracker:
            for step in range(1, steps + 1):
                tracker.scalars(step, {"loss": 1 / step, "validation/success": 0.5})
                time.sleep(pause)
            tracker.images(steps, (picture,))
            tracker.summary({"status": "done", "step": steps})
        assert [line["loss"] for line in read_metrics(tmp_path)[:steps]] == [1 / step for step in range(1, steps + 1)]
        return json.loads((tmp_path / SUMMARY).read_text()), warnings

    return run


def test_every_line_is_on_disk_at_once(tmp_path):
    tracker = JsonlTracker()
    tracker.start(TrackedRun("run", tmp_path, {}))
    tracker.scalars(1, {"loss": 0.5})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]
    tracker.scalars(2, {"loss": float("nan"), "validation/success": 1.0})
    tracker.images(2, [tmp_path / "validation" / "a.png"])
    assert read_metrics(tmp_path)[1:] == [
        {"step": 2, "loss": None, "validation/success": 1.0},
        {"step": 2, "validation/images": ["validation/a.png"]},
    ]
    tracker.finish()


def test_resuming_drops_later_and_cut_off_lines(tmp_path):
    tracker = JsonlTracker()
    tracker.start(TrackedRun("run", tmp_path, {}))
    for step in (2, 4, 4, 6):
        tracker.scalars(step, {"loss": 1.0})
    tracker.finish()
    with open(tmp_path / TRAINING_METRICS, "a") as file:
        file.write('{"step": 3, "lo')
    tracker.start(TrackedRun("run", tmp_path, {}, first_step=4))
    tracker.scalars(5, {"loss": 2.0})
    tracker.finish()
    lines = [json.loads(line) for line in (tmp_path / TRAINING_METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 4, 5]


def test_a_tracker_sees_everything_in_order(follow, picture, tmp_path):
    tracker = FakeTracker()
    summary, warnings = follow({"fake": tracker}, steps=2)
    assert tracker.calls == [
        ("start", TrackedRun("run", tmp_path, {"lr": 0.1})),
        ("scalars", 1, {"loss": 1.0, "validation/success": 0.5}),
        ("scalars", 2, {"loss": 0.5, "validation/success": 0.5}),
        ("images", 2, (picture,)),
        ("summary", {"status": "done", "step": 2}),
        ("finish",),
    ]
    report = {"failures": 0, "first_failure": None, "disabled": False, "finished": True}
    assert summary == {"status": "done", "step": 2, "trackers": {"fake": report}}
    assert not warnings


def test_swanlab_offline(follow, tmp_path):
    pytest.importorskip("swanlab", reason="the extra swanlab is not installed")
    summary, warnings = follow(make_trackers(["swanlab"], "offline"))
    assert summary["trackers"]["swanlab"] == {
        "failures": 0, "first_failure": None, "disabled": False, "finished": True,
    }, warnings  # fmt: skip
    (run,) = (tmp_path / "swanlab").glob("run-*")
    (records,) = run.glob("*.swanlab")
    assert b"validation/success" in records.read_bytes()
    (image,) = run.glob("media/image/*.png")
    with Image.open(image) as stored:
        assert stored.convert("RGB").getpixel((4, 4)) == (255, 0, 0)
    config = (run / "files" / "config.yaml").read_text()
    assert "lr" in config
    assert "status: done" in config


def test_tensorboard_is_read_back(follow, tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    from tensorboardX.proto.event_pb2 import Event

    _, warnings = follow(make_trackers(["tensorboard"], "online"))
    assert not warnings
    (path,) = (tmp_path / "tensorboard").glob("events*")
    content, events = path.read_bytes(), []
    while content:  # a TFRecord: length uint64, its checksum uint32, the message, its checksum uint32
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    values = [(event.step, value) for event in events for value in event.summary.value]
    loss = {step: value.simple_value for step, value in values if value.tag == "loss"}
    assert loss == pytest.approx({step: 1 / step for step in range(1, 6)})
    (image,) = [value.image for _, value in values if value.HasField("image")]
    assert (image.height, image.width) == (8, 8)
    assert {"config/text_summary", "summary/text_summary"} <= {value.tag for _, value in values}


def test_disabled_tensorboard_writes_nothing(follow, tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    summary, _ = follow(make_trackers(["tensorboard"], "disabled"))
    assert summary["trackers"]["tensorboard"]["failures"] == 0
    assert not list(tmp_path.glob("tensorboard/*"))


@pytest.mark.filterwarnings("ignore")  # of the library
def test_trackio_is_read_back(follow, tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="the extra trackio is not installed")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    _, warnings = follow(make_trackers(["trackio"], "offline"))
    assert not warnings
    (name,) = sqlite_storage.SQLiteStorage.get_runs("imf_jax")
    lines = sqlite_storage.SQLiteStorage.get_logs("imf_jax", name)
    assert {line["step"]: line["loss"] for line in lines if "loss" in line} == {step: 1 / step for step in range(1, 6)}
    assert any(key.startswith("validation/images/") for line in lines for key in line)
    assert any(line.get("summary/status") == "done" for line in lines)


def test_trackio_does_not_send_what_shall_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")
    tracker = tracker_backends.TrackioTracker(SimpleNamespace(), "offline")
    with pytest.raises(UserError, match="TRACKIO_SPACE_ID is set"):
        tracker.start(TrackedRun("run", tmp_path, {}))


@pytest.mark.parametrize("name", ["swanlab", "wandb"])
def test_services_continue_a_resumed_run(name, tmp_path):
    """Only online: files that are sent later have no run to go on in."""
    for mode, expected in (("online", ("abc", "allow")), ("offline", (None, None)), ("disabled", (None, None))):
        options: dict = {}
        library = SimpleNamespace(init=lambda into=options, **given: into.update(given), Settings=dict)
        BACKENDS[name][1](library, mode).start(TrackedRun("run", tmp_path, {}, 4, "abc", resumed=True))
        assert options["mode"] == mode
        assert (options.get("id"), options.get("resume")) == expected


@pytest.mark.parametrize("name", ["swanlab", "wandb"])
def test_runs_of_services_have_a_group_and_a_page(name, tmp_path):
    options: dict = {}

    def init(**given):
        options.update(given)
        return SimpleNamespace(url="https://service/run", log=lambda *a, **k: None, finish=lambda: None)

    run = TrackedRun("run", tmp_path, {}, id="abc", group="study")
    for mode, page in (("online", "https://service/run"), ("offline", None)):
        tracker = BACKENDS[name][1](SimpleNamespace(init=init, Settings=dict), mode)
        assert tracker.start(run) == page
        assert options["group"] == "study"
    tracker = BACKENDS[name][1](SimpleNamespace(init=init, Settings=dict, log=print, finish=print), "online")
    warnings: list[str] = []
    with Trackers(run, {name: tracker}, warnings.append):
        time.sleep(0.2)
    assert json.loads((tmp_path / TRACKING).read_text()) == {"id": "abc", "addresses": {name: "https://service/run"}}


def test_errors_are_counted_and_end_a_tracker(follow):
    tracker, healthy = FakeTracker(scalars=fail(OSError("no\nroute"))), FakeTracker()
    summary, warnings = follow({"bad": tracker, "good": healthy}, steps=8)
    assert tracker.count("scalars") == MAX_FAILURES
    assert tracker.count("images") == 0
    assert tracker.count("finish") == 1, "it may still have files to close"
    assert healthy.count("scalars") == 8
    assert summary["trackers"]["bad"] == {
        "failures": MAX_FAILURES, "first_failure": "scalars: OSError: no route", "disabled": True, "finished": True,
    }  # fmt: skip
    assert summary["trackers"]["good"]["failures"] == 0
    assert warnings == [
        "tracker bad failed (scalars: OSError: no route); training is not affected",
        f"tracker bad failed {MAX_FAILURES} times and is given up",
    ]


def test_one_failure_is_survived(follow):
    tracker = FakeTracker(images=fail(Unspeakable()))
    summary, warnings = follow({"fake": tracker})
    assert tracker.count("summary") == 1
    assert summary["trackers"]["fake"] == {
        "failures": 1, "first_failure": "images: Unspeakable", "disabled": False, "finished": True,
    }  # fmt: skip
    assert len(warnings) == 1


@pytest.mark.parametrize("error", [RuntimeError("not logged in"), SystemExit(1), KeyboardInterrupt()])
def test_a_tracker_that_does_not_start_is_given_up(follow, error):
    tracker = FakeTracker(start=fail(error))
    summary, warnings = follow({"fake": tracker})
    assert [call[0] for call in tracker.calls] == ["start"]
    assert summary["trackers"]["fake"]["failures"] == 1
    assert summary["trackers"]["fake"]["disabled"]
    assert len(warnings) == 1


def test_nonsense_is_ignored(follow):
    nonsense = {method: lambda: object for method in ("start", "scalars", "images", "summary", "finish")}
    summary, warnings = follow({"fake": FakeTracker(**nonsense)})
    assert summary["trackers"]["fake"]["failures"] == 0
    assert not warnings


@pytest.mark.parametrize("method", ["start", "scalars", "finish"])
def test_a_hanging_tracker_is_left_behind(follow, method):
    release = threading.Event()
    name = f"hanging in {method}"
    started = time.monotonic()
    summary, warnings = follow({name: FakeTracker(**{method: release.wait})}, finish_timeout=0.3)
    assert time.monotonic() - started < 5
    report = summary["trackers"][name]
    assert report["disabled"]
    assert not report["finished"]
    assert warnings == [
        f"tracker {name} failed and is given up (finish: it did not end in time); training is not affected"
    ]
    assert name in left_behind()
    release.set()


def test_the_process_ends_although_a_library_hangs_at_exit():
    """As SwanLab's does, which finishes the run once more."""
    program = """
import atexit, runpy, sys, threading, time
from imf_jax.training.tracker_guard import GuardedTracker

class Hanging:
    def start(self):
        atexit.register(threading.Event().wait)
        threading.Event().wait()

tracker = GuardedTracker("hanging", Hanging(), print)
tracker.call("start")
tracker.close()
tracker.wait(time.monotonic() + 0.2)
sys.argv = ["train.py", "no-such-preset"]
runpy.run_path("scripts/train.py", run_name="__main__")
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_BAD_ARGUMENTS
    assert "no-such-preset" in done.stderr
    assert "is given up" in done.stdout


def test_a_slow_tracker_delays_nothing():
    begun, release, warnings = threading.Event(), threading.Event(), []
    slow = FakeTracker(start=begun.set, scalars=release.wait)
    tracker = GuardedTracker("slow", slow, warnings.append, queue_size=2)
    tracker.call("start")
    assert begun.wait(10)
    started = time.monotonic()
    for step in range(50):
        tracker.call("scalars", step, {})
    assert time.monotonic() - started < 1
    assert tracker.report()["disabled"]
    assert "does not keep up" in warnings[0]
    release.set()
    tracker.close()
    tracker.wait(time.monotonic() + 10)
    assert tracker.report()["finished"] is True


def test_a_failed_run_says_so(tmp_path):
    tracker = FakeTracker()
    with pytest.raises(UserError), Trackers(TrackedRun("run", tmp_path, {}), {"fake": tracker}, print):
        raise UserError("the loss is not finite")
    expected = {"status": "failed", "reason": "UserError: the loss is not finite"}
    assert ("summary", expected) in tracker.calls
    assert expected.items() <= json.loads((tmp_path / SUMMARY).read_text()).items()


@pytest.mark.parametrize("name", list(BACKENDS))
def test_a_missing_library_is_named_with_its_remedy(name, config, monkeypatch):
    monkeypatch.setitem(sys.modules, BACKENDS[name][0], None)
    with pytest.raises(UserError, match=rf"--tracker {name}: .*pip install 'imf_jax\[{name}\]'"):
        loop.train(replace(config, tracker=(name,)))
    assert not config.out.exists(), "nothing is begun"


def test_libraries_stay_out_unless_named(config, monkeypatch):
    imported = []
    monkeypatch.setattr(tracker_backends.importlib, "import_module", imported.append)
    assert make_trackers((), "online") == {}
    assert not imported


def test_bad_names():
    with pytest.raises(ArgumentError, match="choose from: swanlab, wandb, tensorboard, trackio"):
        TrainConfig(tracker=("mlflow",))
    with pytest.raises(ArgumentError, match="twice"):
        TrainConfig(tracker=("wandb", "wandb"))
    with pytest.raises(ArgumentError, match="choose from: online, offline, disabled"):
        TrainConfig(tracker_mode="cloud")


def test_training_is_followed_and_resumed_under_one_name(config, monkeypatch):
    external = []

    def make(names, mode):
        external.append(FakeTracker())
        return dict.fromkeys(names, external[-1])

    monkeypatch.setattr(loop, "make_trackers", make)
    config = replace(config, tracker=("wandb",))
    assert loop.train(config) == EXIT_OK
    assert loop.train(replace(config, max_steps=6, resume=True, tracker_mode="offline")) == EXIT_OK
    first, second = (tracker.calls[0][1] for tracker in external)
    assert (first.first_step, first.resumed) == (0, False)
    assert (second.first_step, second.resumed) == (4, True)
    assert first.id == second.id
    assert [call[1] for call in external[1].calls if call[0] == "scalars"] == [6]
    summary = json.loads((config.out / SUMMARY).read_text())
    assert (summary["status"], summary["step"]) == ("done", 6)
    assert summary["best_checkpoint"]["path"] == "checkpoints/6"
    assert summary["trackers"]["wandb"]["finished"]
