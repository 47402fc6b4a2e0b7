"""Resume an evaluation that was interrupted or killed: check that it is the same one, and read its episodes."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imf_jax.config import CaptureConfig, RendererName, flag, flat_flags, to_dict
from imf_jax.config.perturbation import active
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.folder import MANIFEST, METRICS, RECORDS, REPORT
from imf_jax.files import PARTIAL, read_json, remove_partials, reported_write_errors, write_bytes
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.outcome import POLICY_ERROR
from imf_jax.rollout.recorders.base import EPISODES

DAMAGED = "episodes.damaged.jsonl"
"""File for lines of a record file that cannot be read."""

IGNORED_KEYS = {
    "created", "versions", "device", "devices", "num_envs", "matmul_precision",
    "policy", "training", "reference", "config", "perturbations",
}  # fmt: skip
"""Entries of a manifest that may differ between the parts of one evaluation, or are compared by their flags."""

_FREE_FLAGS = {
    "backend",
    "checkpoint",
    "cluster",
    "continue_on_error",
    "delays",
    "devices",
    "jobs",
    "out",
    "perturb",
    "plot",
    "policy",
    "policy_timeout_s",
    "policy_token_file",
    "reference",
    "repeat",
    "resume",
}
"""Flags that may differ; checkpoint, policy, backend, delay and perturbations are compared by their resolved values."""


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the settings in which two manifests differ so that their episodes do not belong together."""

    def identity_fields(manifest: dict[str, Any]) -> dict[str, Any]:
        # On C MuJoCo results do not depend on how many scenes run at once; elsewhere rounding does.
        free = _FREE_FLAGS | ({"num_envs"} if manifest.get("backend") == "native" else set())
        flags = {name: value for name, value in (manifest.get("config") or {}).items() if name not in free}
        checkpoint = manifest.get("checkpoint") or {}
        captures = to_dict(CaptureConfig().with_default("front"))
        return {
            **{name: value for name, value in manifest.items() if name not in IGNORED_KEYS},
            "checkpoint": checkpoint.get("sha256"),
            "served": _without_version((manifest.get("served") or {}).get("metadata")),  # whatever its address
            flag("perturb"): active(manifest.get("perturbations") or {}),
            # A capture that was not known yet was not made, and its camera was this one.
            **{flag(name): value for name, value in (captures | flat_flags(flags)).items()},
        }

    first, second = identity_fields(json.loads(json.dumps(before))), identity_fields(json.loads(json.dumps(now)))
    if "--precision" not in first:  # older versions did not know it
        second.pop("--precision", None)
    for name in ("visual", "--visual"):  # nor other meshes
        if name in second:
            first.setdefault(name, second[name] and "mesh")
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def _without_version(metadata: Any) -> Any:
    """Metadata of a policy server without the version of its software."""
    return {**metadata, "version": None} if isinstance(metadata, dict) else metadata


def started(path: Path) -> bool:
    """True if an evaluation has been started in this folder."""
    return (path / MANIFEST).is_file()


def stored_num_envs(path: Path) -> int | None:
    """Scenes that the evaluation in a folder simulated at once; None if there is none, or it does not say."""
    return read_json(path / MANIFEST).get("num_envs") if started(path) else None


def recorded_renderer(path: Path) -> RendererName | None:
    """Renderer of the evaluation in a folder; None if there is none, or its policy sees no pictures."""
    return read_json(path / MANIFEST).get("renderer") if started(path) else None


def prepare_resume(path: Path, manifest: dict[str, Any]) -> tuple[list[EpisodeRecord], list[str]]:
    """Prepare a folder for the episodes that are missing.

    Lines that cannot be read are moved to `episodes.damaged.jsonl`, and artifacts without a record are removed: those
    episodes run again, and so do those that ended because a policy elsewhere gave no plan. Complete records and their
    artifacts stay as they are.

    Args:
        path: a folder in which an evaluation was started.
        manifest: of the evaluation as it would be started now.

    Returns:
        the records that are complete, and lines about those that are not.

    Raises:
        ArgumentError: the folder holds another evaluation.
        UserError: its manifest is damaged, or the folder cannot be written.
    """
    before = read_json(path / MANIFEST)
    differing = differences(before, manifest)
    if differing:
        raise ArgumentError(
            f"{path} holds an evaluation with another {', '.join(differing)}; repeat its command with --resume, or "
            "choose another --out"
        )
    with reported_write_errors(path):
        records, damaged, problems = _read_lines(path / RECORDS)
        unplanned = [record for record in records if (record.error or "").startswith(POLICY_ERROR)]
        if unplanned:
            records = [record for record in records if record not in unplanned]
            problems.append(f"{len(unplanned)} episodes whose policy gave no plan run again")
        if damaged:
            with open(path / DAMAGED, "ab") as aside:
                aside.writelines(damaged)
        # Also cures a line without its end, to which the next record would be appended.
        write_bytes(path / RECORDS, "".join(record.to_json() + "\n" for record in records).encode())
        remove_partials(path)
        for name in (METRICS, REPORT):
            (path / name).unlink(missing_ok=True)
        _remove_artifacts(path, keep={record.episode for record in records})
    return records, problems


def _read_lines(path: Path) -> tuple[list[EpisodeRecord], list[bytes], list[str]]:
    """Read the records in order of the file, the damaged lines, and the problems of these."""
    records: dict[int, EpisodeRecord] = {}
    damaged, problems = [], []
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("the line was cut off")
            record = EpisodeRecord.from_json(line.decode())
        except ValueError as error:
            damaged.append(line if line.endswith(b"\n") else line + b"\n")
            problems.append(f"{path}:{number}: {error}; the line is kept in {DAMAGED} and its episode runs again")
            continue
        records.setdefault(record.episode, record)
    return list(records.values()), damaged, problems


def _remove_artifacts(path: Path, keep: Iterable[int]) -> None:
    from imf_jax.rollout.recorders.base import episode_folder

    kept = {Path(episode_folder(episode)).name for episode in keep}
    folder = path / EPISODES
    for artifacts in folder.iterdir() if folder.is_dir() else ():
        if artifacts.name not in kept:
            shutil.rmtree(artifacts, ignore_errors=True)
        else:
            for partial in artifacts.glob(".*"):
                partial.unlink(missing_ok=True)


def require_resumable(path: Path) -> None:
    """Refuse to resume in a folder without an evaluation, unless the folder is empty or missing.

    Raises:
        ArgumentError: the folder holds something else.
        UserError: it cannot be read.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"{path} is a file; choose a folder for --out")
    try:
        content = [entry for entry in path.iterdir() if not entry.name.endswith(PARTIAL)] if path.is_dir() else []
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); choose another --out") from None
    processes = path / "processes"
    if content and not started(path) and not processes.is_dir():
        raise ArgumentError(f"{path} holds no evaluation that could be resumed; choose another --out")
