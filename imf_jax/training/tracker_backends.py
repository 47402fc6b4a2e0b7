"""Trackers that a user can name: SwanLab, Weights & Biases, TensorBoard, Trackio; their libraries are imported then."""

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from typing_extensions import override

from imf_jax.config import TrackerMode, TrackerName
from imf_jax.errors import UserError
from imf_jax.images import read_image
from imf_jax.training.trackers import IMAGES, TrackedRun, Tracker

PROJECT = "imf_jax"


class SwanLabTracker(Tracker):
    """Tracker for SwanLab; offline runs lie in `<run>/swanlab` and are sent by `swanlab sync`."""

    def __init__(self, library: ModuleType, mode: TrackerMode) -> None:
        self._swanlab, self._mode = library, mode

    @override
    def start(self, run: TrackedRun) -> str | None:
        folder = run.folder / "swanlab"
        folder.mkdir(exist_ok=True)
        identity = {"id": run.id, "resume": "allow"} if self._mode == "online" else {}
        started = self._swanlab.init(
            project=PROJECT,
            name=run.name,
            group=run.group,
            log_dir=str(folder),
            mode=self._mode,
            config=dict(run.config),
            # No question at the terminal of a run that may be unattended; no copy of its output.
            settings=self._swanlab.Settings(interactive=False, terminal={"proxy_type": "none"}),
            **identity,
        )
        return _address(started, self._mode)

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._swanlab.log(dict(values), step=step)

    @override
    def images(self, step: int, paths: Sequence[Path]) -> None:
        pictures = [self._swanlab.Image(str(path), caption=path.parent.name) for path in paths]
        self._swanlab.log({IMAGES: pictures}, step=step)

    @override
    def summary(self, values: Mapping[str, Any]) -> None:
        """Add to the run's configuration, the place for values that are no curves."""
        self._swanlab.config.update({"summary": dict(values)})

    @override
    def finish(self) -> None:
        self._swanlab.finish()


class WandbTracker(Tracker):
    """Tracker for Weights & Biases; offline runs lie in `<run>/wandb` and are sent by `wandb sync`."""

    def __init__(self, library: ModuleType, mode: TrackerMode) -> None:
        self._wandb, self._mode = library, mode

    @override
    def start(self, run: TrackedRun) -> str | None:
        identity = {"id": run.id, "resume": "allow"} if self._mode == "online" else {}
        self._run = self._wandb.init(
            project=PROJECT,
            name=run.name,
            group=run.group,
            dir=str(run.folder),
            mode=self._mode,
            config=dict(run.config),
            settings=self._wandb.Settings(console="off", silent=True),
            **identity,
        )
        return _address(self._run, self._mode)

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    @override
    def images(self, step: int, paths: Sequence[Path]) -> None:
        pictures = [self._wandb.Image(str(path), caption=path.parent.name) for path in paths]
        self._run.log({IMAGES: pictures}, step=step)

    @override
    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    @override
    def finish(self) -> None:
        self._run.finish()


class TensorBoardTracker(Tracker):
    """Tracker for TensorBoard: event files in `<run>/tensorboard`; nothing is ever sent, online or offline."""

    def __init__(self, library: ModuleType, mode: TrackerMode) -> None:
        self._library, self._mode = library, mode

    @override
    def start(self, run: TrackedRun) -> str | None:
        """Start a run; of a resumed one, figures after its first step are marked as void."""
        self._writer = self._library.SummaryWriter(
            logdir=str(run.folder / "tensorboard"),
            purge_step=run.first_step + 1 if run.resumed else None,
            write_to_disk=self._mode != "disabled",
        )
        self._writer.add_text("config", _as_code(run.config), run.first_step)
        return None if self._mode == "disabled" else str((run.folder / "tensorboard").resolve())

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    @override
    def images(self, step: int, paths: Sequence[Path]) -> None:
        for path in paths:
            self._writer.add_image(f"{IMAGES}/{path.parent.name}", read_image(path), step, dataformats="HWC")
        self._writer.flush()

    @override
    def summary(self, values: Mapping[str, Any]) -> None:
        self._writer.add_text("summary", _as_code(values), int(values.get("step", 0)))

    @override
    def finish(self) -> None:
        self._writer.close()


class TrackioTracker(Tracker):
    """Tracker for Trackio, whose database is on this machine and shown by `trackio show`; see `SENDS`."""

    SENDS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
    """Variables of the environment that let Trackio send runs elsewhere."""

    def __init__(self, library: ModuleType, mode: TrackerMode) -> None:
        self._trackio, self._mode = library, mode
        self._run: Any = None

    @override
    def start(self, run: TrackedRun) -> str | None:
        """Start a run; its name holds its `id`, because Trackio knows resumed runs by their names.

        Raises:
            UserError: it would be sent although the mode is offline.
        """
        if self._mode == "disabled":
            return None
        for name in self.SENDS:
            if self._mode == "offline" and os.environ.get(name):
                raise UserError(f"{name} is set, so that Trackio would send; unset it, or use --tracker-mode online")
        self._run = self._trackio.init(
            project=PROJECT,
            name=f"{run.name}-{run.id[:8]}",
            group=run.group,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return None

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, values)

    @override
    def images(self, step: int, paths: Sequence[Path]) -> None:
        names = {f"{IMAGES}/{path.parent.name}": path for path in paths}
        if self._run is not None:
            self._log(step, {name: self._trackio.Image(str(path)) for name, path in names.items()})

    @override
    def summary(self, values: Mapping[str, Any]) -> None:
        self._log(int(values.get("step", 0)), {f"summary/{name}": value for name, value in values.items()})

    @override
    def finish(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if self._run is not None:
            self._run.log(dict(values), step=step)


BACKENDS: dict[TrackerName, tuple[str, type]] = {
    "swanlab": ("swanlab", SwanLabTracker),
    "wandb": ("wandb", WandbTracker),
    "tensorboard": ("tensorboardX", TensorBoardTracker),
    "trackio": ("trackio", TrackioTracker),
}
"""Name on the command line, which is the extra's name as well -> library and adapter."""


def make_trackers(names: Sequence[TrackerName], mode: TrackerMode) -> dict[str, Tracker]:
    """Make the trackers of these names, not started yet.

    Raises:
        UserError: a library is not installed; the message says how to install it.
    """
    return {name: _make(name, mode) for name in names}


def _make(name: TrackerName, mode: TrackerMode) -> Tracker:
    library, adapter = BACKENDS[name]
    try:
        return adapter(importlib.import_module(library), mode)
    except ImportError as error:
        reason = "is not installed" if error.name == library else f"cannot be imported ({error})"
    except Exception as error:
        reason = f"cannot be imported ({type(error).__name__}: {error})"
    raise UserError(
        f"--tracker {name}: the library {library} {reason}; install it with `pip install 'imf_jax[{name}]'` "
        f"or leave the tracker away"
    )


def _address(run: Any, mode: TrackerMode) -> str | None:
    """Page of a run that a library has started; None where it has none, as offline."""
    if mode != "online":
        return None
    with suppress(Exception):  # the run goes on without a link
        return getattr(run, "url", None)
    return None


def _as_code(values: Mapping[str, Any]) -> str:
    """Format JSON so that TensorBoard's Markdown shows it unchanged: every line indented by four spaces."""
    lines = json.dumps(dict(values), indent=2, default=str).splitlines()
    return "\n".join(f"    {line}" for line in lines)
