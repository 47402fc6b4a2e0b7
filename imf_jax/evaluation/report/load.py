"""Load an evaluation folder. Damaged or missing parts are reported, not raised."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imf_jax.errors import UserError
from imf_jax.evaluation.folder import MANIFEST, METRICS, RECORDS, read_records
from imf_jax.files import read_json
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.sim.tasks import get_task, task_names


@dataclass(frozen=True)
class Evaluation:
    """Evaluation as read from its folder.

    Attributes:
        folder: the evaluation folder.
        manifest: content of `manifest.json`; empty if it could not be read.
        metrics: content of `metrics.json`; empty if it could not be read, as after a kill.
        records: the episodes, in order of their index, each once.
        problems: one line for each file or record that could not be read.
    """

    folder: Path
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    records: tuple[EpisodeRecord, ...]
    problems: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name of the evaluated policy."""
        return str(self.manifest.get("policy", self.folder.resolve().name))

    @property
    def task(self) -> str | None:
        """Name of the task, as far as it is known."""
        name = self.manifest.get("task")
        return name if isinstance(name, str) else None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the task's stages; of a task in somebody's file as the metrics have them."""
        if self.task in task_names():
            return get_task(self.task).stages
        found = self.metrics.get("stages")
        stages = found if isinstance(found, list) else []
        return tuple(str(stage["name"]) for stage in stages if isinstance(stage, dict) and "name" in stage)

    @property
    def effectors(self) -> tuple[str, ...]:
        """Names of the end effectors; none if this version does not know the task."""
        return get_task(self.task).robot.spaces.effector_names if self.task in task_names() else ()


def read_evaluation(folder: Path) -> Evaluation:
    """Read an evaluation folder.

    Raises:
        UserError: it holds neither a manifest nor records, so that it is no evaluation.
    """
    problems: list[str] = []
    if not (folder / MANIFEST).exists() and not (folder / RECORDS).exists():
        raise UserError(f"{folder / MANIFEST} is not there; give the folder of an evaluation")
    manifest = _read(folder / MANIFEST, problems)
    metrics = _read(folder / METRICS, problems)
    records: dict[int, EpisodeRecord] = {}
    try:
        found, damaged = read_records(folder)
    except (UserError, OSError) as error:
        found, damaged = [], [str(error)]
    problems += damaged
    for record in found:
        if record.episode in records:
            problems.append(
                f"{folder / RECORDS}: episode {record.episode} is there more than once; the last one counts"
            )
        records[record.episode] = record
    return Evaluation(folder, manifest, metrics, tuple(records.values()), tuple(problems))


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_json(path)
    except UserError as error:
        # The folder of a report is right, so the advice to give another one is left out.
        problems.append(str(error).removesuffix("; give the folder of an evaluation"))
        return {}
