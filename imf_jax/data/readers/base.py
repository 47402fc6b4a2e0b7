"""Interface of recorded episodes, whatever files hold them.

Windows, pictures, features, statistics, inspection and playback use nothing but this.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from imf_jax.config import PictureStyle
from imf_jax.spaces import RobotSpaces

ROLES = ("action", "state", "env_state")
"""What a column of numbers can be for a policy."""


@dataclass(frozen=True)
class Column:
    """A named column of numbers, D of them at every step.

    Attributes:
        names: of its D entries.
        unit: of the entries, in words; empty where the dataset does not say.
    """

    names: tuple[str, ...]
    unit: str = ""


@dataclass(frozen=True)
class EpisodeInfo:
    """Description of an episode.

    Attributes:
        name: of its file, or its number, for messages.
        number: its index in the dataset.
        steps: control steps T, each with a row of every column and a picture of every camera.
        tasks: what is done in it.
        success: whether it succeeded; None if nobody says so.
        hz: control steps per second; None if nobody says so.
        cameras: names of the cameras of this episode.
        robot: action and state of its robot, where the file describes them.
        held_out: the dataset itself keeps it for validation.
    """

    name: str
    number: int
    steps: int
    tasks: tuple[str, ...]
    success: bool | None
    hz: float | None
    cameras: tuple[str, ...]
    robot: RobotSpaces | None = None
    held_out: bool = False


class DatasetReader(Protocol):
    """Interface of an opened dataset. Its length is the number of its episodes.

    Attributes:
        kind: name of the format, for people.
        path: the folder or file.
        robot: name of the robot; empty if nobody says so.
        fixed_size: a simulator drew the pictures in the size in which policies read them: they are not resized.
    """

    kind: str
    path: Path
    robot: str
    fixed_size: bool

    def __len__(self) -> int: ...

    @property
    def columns(self) -> dict[str, Column]:
        """All columns of numbers.

        Raises:
            UserError: no episode can be read.
        """
        ...

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """Role (see `ROLES`) -> the columns that have it unless the user names others, joined in this order."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of all cameras.

        Raises:
            UserError: no episode can be read.
        """
        ...

    @property
    def tasks(self) -> tuple[str, ...] | None:
        """All tasks; None where every episode names its own and all must have the same."""
        ...

    @property
    def style(self) -> PictureStyle | None:
        """How the pictures were drawn; None if nobody says so."""
        ...

    def info(self, index: int) -> EpisodeInfo:
        """Description of an episode, counted from 0 in the order of the dataset.

        Raises:
            UserError: it cannot be read.
        """
        ...

    def read(self, index: int, names: Collection[str]) -> dict[str, np.ndarray]:
        """Columns of an episode: name -> (T, D), numbers of any type.

        Raises:
            UserError: they cannot be read.
        """
        ...

    def timestamps(self, index: int) -> np.ndarray | None:
        """Times of the steps of an episode, float64 (T,) [s]; None if the format has none.

        Raises:
            UserError: they cannot be read.
        """
        ...

    def picture_size(self, index: int, camera: str) -> tuple[int, int]:
        """Height and width of the pictures of a camera in an episode [pixels].

        Raises:
            UserError: it has none, or they are not pictures.
        """
        ...

    def pictures(self, index: int, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Pictures of the steps start .. stop - 1 of an episode, uint8 (H, W, 3) each, RGB.

        Raises:
            UserError: one cannot be read.
        """
        ...

    def fingerprint(self, cameras: Sequence[str]) -> str:
        """Hash that changes when the pictures of these cameras change, without reading them all.

        Raises:
            UserError: see `picture_size`.
        """
        ...

    def check_statistics(self, found: Any) -> None:
        """Refuse statistics stored with the dataset, if there are any to rely on, that do not fit it.

        Args:
            found: `DatasetStatistics` computed from the episodes.

        Raises:
            UserError: says what differs.
        """
        ...

    def write_statistics(self) -> tuple[dict[str, dict[str, Any]], Path]:
        """Compute statistics of all episodes and store them where the format keeps them.

        Returns:
            column -> `min`, `max`, `mean`, `std`, and the file.

        Raises:
            UserError: an episode cannot be read, or the format keeps none.
        """
        ...

    def problems(self, index: int) -> list[str]:
        """What is wrong with an episode whose description can be read, one line each; most pictures are not decoded."""
        ...

    def dataset_problems(self) -> list[str]:
        """What is wrong with the dataset as a whole, one line each."""
        ...

    def notes(self) -> list[str]:
        """What is not read or contradicts itself without harm, one line each."""
        ...
