"""Benchmarks of pictures and of datasets that are read."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imf_jax.config import require, require_counts

if TYPE_CHECKING:
    from imf_jax.benchmark.tables import Table


@dataclass(frozen=True)
class PicturesBenchmark:
    """Pictures per second of each renderer that works here, with whole and decimated meshes, at several sizes."""

    # Task whose scene is drawn.
    task: str = "transfer"
    # Cameras; by default all of the task.
    cameras: tuple[str, ...] = ()
    # Heights and widths of pictures [pixels].
    sizes: tuple[int, ...] = (64, 96, 128, 224, 256)
    # Scenes per call.
    scenes: int = 8
    # Rounds in which the sides take turns.
    rounds: int = 5
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as a table."""
        require_counts(self, "scenes", "rounds")
        require(bool(self.sizes) and min(self.sizes) >= 1, "--sizes must name at least one size of 1 pixel or more")
        from imf_jax.benchmark.picture_rates import measure_pictures
        from imf_jax.benchmark.tables import Table

        rates = measure_pictures(self.task, self.cameras, self.sizes, scenes=self.scenes, rounds=self.rounds)
        title = (
            f"Pictures of {self.task}; ratio = rate of a side / rate of Warp with whole meshes in the same round; "
            "difference from whole meshes, of 255"
        )
        return [Table(title, [asdict(rate) for rate in rates])]


@dataclass(frozen=True)
class ReadingBenchmark:
    """Frames per second of reading a LeRobot dataset of videos, beside LeRobot's own loader."""

    # Episodes of the dataset that is written for it.
    episodes: int = 10
    # Steps of an episode.
    steps: int = 100
    # Height of its pictures [pixels].
    height: int = 480
    # Width of its pictures [pixels].
    width: int = 640
    # Passes of each kind.
    rounds: int = 3
    # Python of an environment with lerobot, such as .venv-lerobot/bin/python of `make lerobot-check`.
    peer: Path | None = None
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as tables."""
        from imf_jax.benchmark.reading import measure
        from imf_jax.benchmark.tables import Table

        require_counts(self, "episodes", "steps", "height", "width", "rounds")
        speeds = measure(
            episodes=self.episodes,
            steps=self.steps,
            height=self.height,
            width=self.width,
            rounds=self.rounds,
            peer=self.peer,
        )
        title = "Reading a LeRobot dataset [frames/s]; ratio = imf_jax / lerobot in the same round"
        return [Table(title, [asdict(speed) for speed in speeds])]
