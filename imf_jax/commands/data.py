"""Look into, convert and play demonstrations and recordings. Example: python scripts/data.py inspect demos/transfer"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro
from rich.table import Table

from imf_jax.cli import run_main
from imf_jax.config import require
from imf_jax.errors import EXIT_FAILED, EXIT_OK, EXIT_SOME_ERRORED, UserError
from imf_jax.files import write_bytes, write_json
from imf_jax.terminal import make_console, make_table, stage_progress

console = make_console()


@dataclass(frozen=True)
class Inspect:
    """Show episodes, steps, cameras, success and ranges of a dataset, and what is wrong with it.

    Problems make the exit code 1; notes are about what is legal but looks wrong.
    """

    # Dataset of any format that can be read: demonstrations, LeRobot, ACT, robomimic.
    data: tyro.conf.Positional[Path]
    # File that receives all of it as JSON.
    json: Path | None = None

    def run(self) -> int:
        """Run the subcommand; returns the exit code."""
        from imf_jax.data.inspection import inspect_folder

        found = inspect_folder(self.data)
        steps = sum(episode.steps for episode in found.episodes)
        length = f", {steps / found.hz:,.0f} s at {found.hz:g} Hz" if found.hz else ""
        outcomes = [episode.success for episode in found.episodes if episode.success is not None]
        succeeded = f"{sum(outcomes)} of {len(outcomes)} succeeded"
        console.print(f"{found.kind} in {found.folder}, {found.num_bytes / 2**20:,.1f} MiB")
        console.print(f"{len(found.episodes)} episodes, {steps:,} steps{length}; {succeeded}")
        shown: dict[tuple[Any, ...], int] = {}
        for episode in found.sound:
            pictures = ", ".join(f"{camera} {h}x{w}" for camera, (h, w) in episode.cameras.items())
            shown[episode.task, pictures or "none"] = shown.get((episode.task, pictures or "none"), 0) + 1
        for (task, pictures), count in shown.items():
            console.print(f"{count} episodes of {task}; cameras: {pictures}")
        if found.ranges:
            console.print(statistics_table(found.ranges))
        for line in (*found.notes, *found.findings):
            console.print(f"note: {line}", markup=False)
        problems = [*found.problems, *(line for episode in found.episodes for line in episode.problems)]
        for line in problems:
            console.print(f"problem: {line}", style="red", markup=False)
        if not problems:
            console.print("no problems found")
        if self.json is not None:
            write_json(self.json, {**asdict(found), "folder": str(found.folder)})
        return found.exit_code


@dataclass(frozen=True)
class Stats:
    """Compute the statistics that policies normalise with, write them into the folder, and show them."""

    # Folder of demonstrations (writes stats.json), or a LeRobot dataset (writes meta/stats.json).
    data: tyro.conf.Positional[Path]

    def run(self) -> int:
        """Run the subcommand; returns the exit code."""
        from imf_jax.data.readers.recognise import open_reader

        reader = open_reader(self.data)
        statistics, path = reader.write_statistics()
        console.print(statistics_table(statistics))
        console.print(f"{len(reader)} episodes; written to {path}")
        return EXIT_OK


@dataclass(frozen=True)
class Export:
    """Write demonstrations as a LeRobot v3.0 dataset (needs the extra `datasets`)."""

    # Folder of demonstrations.
    data: tyro.conf.Positional[Path]
    # Folder of the dataset; must not exist or be empty.
    out: Path
    # Cameras whose pictures are exported; all if none is given.
    cameras: tuple[str, ...] = ()

    def run(self) -> int:
        """Run the subcommand; returns the exit code."""
        from imf_jax.data.lerobot.export import export_demonstrations
        from imf_jax.sim.tasks import get_task, task_names

        def spaces_of(task: str) -> Any:
            return get_task(task).robot.spaces if task in task_names() else None

        with stage_progress("read episodes", console=console) as show:
            summary = export_demonstrations(
                self.data,
                self.out,
                spaces_of=spaces_of,
                cameras=self.cameras or None,
                on_episode=lambda done, total: show(done, total=total),
            )
        for line in summary.refused:
            console.print(f"left out: {line}", style="red")
        console.print(f"{summary.episodes} episodes, {summary.frames:,} frames in {self.out}")
        if summary.refused:
            return EXIT_SOME_ERRORED if summary.episodes else EXIT_FAILED
        return EXIT_OK


@dataclass(frozen=True)
class Import:
    """Bring HDF5 episodes that others recorded, in the layout of ACT, into a folder of demonstrations."""

    # Folder with the files, *.hdf5 or *.h5.
    source: tyro.conf.Positional[Path]
    # Folder that receives the demonstrations, stats.json and import.json; must not exist or be empty.
    out: Path
    # Task that they demonstrate.
    task: str = "transfer"
    # Control steps per second [Hz].
    control_hz: float = 50.0
    # Success of episodes that do not state it themselves.
    success: bool = True
    # Cameras whose pictures are imported; all if none is given.
    cameras: tuple[str, ...] = ()
    # Height and width of the pictures, after cutting out their middle square [pixels]; kept as they are if not given.
    image_size: int | None = None
    # Channel order of JPEG pictures: as OpenCV swaps them in ACT's own recordings, or plain RGB.
    jpeg_order: Literal["opencv", "rgb"] = "opencv"

    def run(self) -> int:
        """Run the subcommand; returns the exit code."""
        from imf_jax.data.act_import import REPORT, import_episodes
        from imf_jax.data.act_reader import ImportSettings
        from imf_jax.sim.tasks import get_task

        task = get_task(self.task)
        settings = ImportSettings(
            task.name,
            task.robot.spaces,
            self.control_hz,
            self.success,
            self.cameras or None,
            self.image_size,
            self.jpeg_order,
        )
        with stage_progress("read files", console=console) as show:
            report = import_episodes(
                self.source,
                self.out,
                settings,
                lambda done, total: show(done, total=total),
            )
        rows = []
        for file in report.files:
            cameras = ", ".join(f"{camera} {h}x{w}" for camera, (h, w) in file.cameras.items())
            what = "; ".join(file.notes) if file.refused is None else "refused"
            rows.append((file.file, file.episode, file.steps, cameras, what))
        console.print(make_table(("file", "episode", "steps", "cameras", "notes"), rows))
        for file in report.files:
            if file.refused is not None:
                console.print(f"refused: {file.file}: {file.refused}", style="red")
        console.print(
            f"{len(report.imported)} of {len(report.files)} imported into {self.out}; report in {self.out / REPORT}",
        )
        return report.exit_code


@dataclass(frozen=True)
class Play:
    """Show the pictures of an episode: a contact sheet, or a video."""

    # Dataset of any format that can be read.
    data: tyro.conf.Positional[Path]
    # Episode to show, counted from 0 in the order of the folder.
    episode: int = 0
    # Picture (.png) or video (.mp4) to write; named after the data if not given, in the current folder.
    out: Path | None = None
    # Pictures of each camera on the contact sheet.
    columns: int = 8
    # Write a video in real time instead of a contact sheet (needs the extra `datasets`).
    video: bool = False

    def run(self) -> int:
        """Run the subcommand; returns the exit code."""
        from imf_jax.data.playback import contact_sheet, open_episode, write_video

        require(2 <= self.columns <= 50, f"--columns {self.columns} must be in [2, 50]")
        suffix = ".mp4" if self.video else ".png"
        out = self.out or Path(f"{self.data.resolve().name}_{self.episode}{suffix}")
        require(out.suffix == suffix, f"--out {out} must end in {suffix}" + ("" if self.video else "; or add --video"))
        episode = open_episode(self.data, self.episode)
        try:
            if self.video:
                out.parent.mkdir(parents=True, exist_ok=True)
                write_video(out, episode)
            else:
                write_bytes(out, contact_sheet(episode, self.columns))
        except OSError as error:
            raise UserError(f"cannot write {out} ({error.strerror}); choose another --out") from error
        console.print(f"{episode.title}: {out}")
        return EXIT_OK


Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Stats, tyro.conf.subcommand("stats")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Play, tyro.conf.subcommand("play")]
)


def main() -> int:
    """Parse the command line and run the subcommand."""
    command: Inspect | Stats | Export | Import | Play = tyro.cli(Command, description=__doc__)
    return command.run()


def statistics_table(arrays: dict[str, dict[str, Any]]) -> Table:
    """Make a table with a row per channel of every array; those of a matrix are counted row by row."""
    import numpy as np

    figures = ("min", "max", "mean", "std")
    rows: list[Sequence[object]] = []
    for name, values in arrays.items():
        for channel, row in enumerate(zip(*(np.ravel(values[key]) for key in figures), strict=True)):
            rows.append((None if channel else name, channel, *(f"{value:.4g}" for value in row)))
    return make_table(("array", "channel", *figures), rows)


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)
