"""Look at an episode in Rerun: the scene in 3-D, paths, chunks, curves and pictures on one timeline.

Examples: python scripts/view.py evals/mine --episode 3; python scripts/view.py evals/mine --compare evals/other
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro

from imf_jax.cli import run_main
from imf_jax.config import require
from imf_jax.errors import UserError
from imf_jax.terminal import make_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imf_jax.viewing.episode import ViewedEpisode

SUFFIX = ".rrd"


def view(
    source: Annotated[Path, tyro.conf.Positional],
    episode: int = 0,
    compare: Path | None = None,
    out: Path | None = None,
    task: str | None = None,
) -> None:
    """Write an episode as a recording of Rerun, and open its viewer if there is a screen.

    Args:
        source: Folder of an evaluation with trajectories, or of demonstrations; or a dataset of another format.
        episode: Episode to show: its number in an evaluation, its place in other folders, counted from 0.
        compare: Another evaluation, whose episode of the same scene is put beside it.
        out: Recording to write (.rrd), without opening it; named after the source in the current folder if not given.
        task: Task whose scene is drawn; by default as the source says.
    """
    name = "_vs_".join(path.resolve().name for path in (source, compare) if path is not None)
    file = out or Path(f"{name}_{episode}{SUFFIX}")
    require(file.suffix == SUFFIX, f"--out {file} must end in {SUFFIX}")
    require(not file.is_dir(), f"--out {file} is a folder; name a file")
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.viewing.rrd import require_rerun, write_recording

    require_rerun()
    episodes = open_source(source, episode, compare, task)
    write_recording(file, episodes)
    console = make_console()
    for viewed in episodes:
        console.print(viewed.title)
        for note in viewed.notes:
            console.print(f"note: {note}")
    console.print(str(file))
    if out is None and has_screen():
        open_viewer(file)
    else:
        console.print(f"open it with: rerun {shlex.quote(str(file))}")


def open_source(source: Path, episode: int, compare: Path | None, task: str | None) -> "Sequence[ViewedEpisode]":
    """Open the episode of a source, and that of the evaluation that it is compared with.

    Raises:
        UserError, ArgumentError: one of them cannot be shown.
    """
    from imf_jax.data.episodes import holds_hdf5
    from imf_jax.data.readers.recognise import holds_lerobot
    from imf_jax.evaluation.viewing import holds_evaluation, open_compared, open_evaluated
    from imf_jax.viewing.demonstrations import open_demonstration

    if not source.exists():
        raise UserError(f"{source} is not there; give the folder of an evaluation, of demonstrations or a dataset")
    if compare is not None:
        for folder in (source, compare):
            require(holds_evaluation(folder), f"--compare is for two evaluations, and {folder} is none")
        return open_compared(source, compare, episode, task)
    if holds_evaluation(source):
        return [open_evaluated(source, episode, task)]
    if source.is_file() or holds_lerobot(source) or any(map(holds_hdf5, source.iterdir())):
        return [open_demonstration(source, episode, task)]
    raise UserError(
        f"{source} holds no evaluation (manifest.json), no HDF5 episodes (episode_000000.hdf5) and no LeRobot dataset "
        "(meta/info.json)"
    )


def has_screen() -> bool:
    """Whether this machine can open a window."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def open_viewer(file: Path) -> None:
    """Open the viewer, which stays when this process ends; by itself it would listen on all interfaces."""
    command = [sys.executable, "-m", "rerun", "--bind", "127.0.0.1", str(file)]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def main() -> None:
    """Parse the command line and show the episode."""
    tyro.cli(view, description=__doc__)


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)
