"""Import demonstrations that others recorded in the HDF5 layout of ACT and its relatives, see `act_reader`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from imf_jax.config import require
from imf_jax.data.act_reader import ImportSettings, numbered, read_act_episode
from imf_jax.data.episodes import holds_hdf5, write_episode
from imf_jax.data.statistics import write_statistics
from imf_jax.data.untrusted_hdf5 import Refused
from imf_jax.errors import EXIT_FAILED, EXIT_OK, EXIT_SOME_ERRORED, ArgumentError, UserError
from imf_jax.files import write_json

REPORT = "import.json"


@dataclass
class ImportedFile:
    """Result of one file: its episode, or the reason why there is none."""

    file: str
    episode: int | None = None
    steps: int | None = None
    cameras: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: str | None = None


@dataclass(frozen=True)
class ImportReport:
    """Results of all files."""

    files: list[ImportedFile]

    @property
    def imported(self) -> list[ImportedFile]:
        """The files that are episodes now."""
        return [file for file in self.files if file.refused is None]

    @property
    def exit_code(self) -> int:
        """0 if all were imported, 3 if some were refused, 1 if all were."""
        if not self.imported:
            return EXIT_FAILED
        return EXIT_OK if len(self.imported) == len(self.files) else EXIT_SOME_ERRORED


def import_episodes(
    source: Path,
    target: Path,
    settings: ImportSettings,
    on_file: Callable[[int, int], None] = lambda done, total: None,
) -> ImportReport:
    """Convert a folder of HDF5 episodes to the layout of this project, with `stats.json` and a report, `import.json`.

    Args:
        source: folder with the files.
        target: receives the demonstrations; must not exist or be empty.
        settings: what the files do not say.
        on_file: called with the number of files that were read, and of all.

    Raises:
        ArgumentError: the source holds no HDF5 file, or the target is taken.
        UserError: the target cannot be written.
    """
    require(source.is_dir(), f"{source} is not a folder; give the folder with the HDF5 episodes")
    paths = [path for path in source.iterdir() if holds_hdf5(path)]
    require(bool(paths), f"{source} holds no .hdf5 or .h5 file; give the folder with the HDF5 episodes")
    taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    require(not taken, f"{target} is not empty; choose another --out")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"cannot create {target} ({error.strerror}); choose another --out") from error
    report = ImportReport([])
    try:
        _import_files(numbered(paths), target, settings, report, on_file)
        if report.imported:
            write_statistics(target)
    finally:
        _write_report(target / REPORT, source, settings, report)
    return report


def _import_files(
    numbered: list[tuple[int, Path]],
    target: Path,
    settings: ImportSettings,
    report: ImportReport,
    on_file: Callable[[int, int], None],
) -> None:
    env_state_dim = None
    for done, (number, path) in enumerate(numbered):
        on_file(done, len(numbered))
        entry = ImportedFile(path.name)
        try:
            episode = read_act_episode(path, number, settings, entry.notes)
            width = episode.env_state.shape[1]
            if env_state_dim not in (None, width):
                raise Refused(f"env_state has {width} channels, but {env_state_dim} in the episodes before")
        except Refused as error:
            entry.refused = str(error)
        else:
            write_episode(target, episode)
            env_state_dim = width
            entry.episode, entry.steps = number, len(episode)
            entry.cameras = {name: images.shape[1:3] for name, images in episode.images.items()}
        report.files.append(entry)
    on_file(len(numbered), len(numbered))


def _write_report(path: Path, source: Path, settings: ImportSettings, report: ImportReport) -> None:
    settings_json = {**asdict(settings), "spaces": settings.spaces.name, "source": str(source)}
    try:
        write_json(path, {"settings": settings_json, "files": [asdict(file) for file in report.files]})
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); free space or choose another --out") from error
