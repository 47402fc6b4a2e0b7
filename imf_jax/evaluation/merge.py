"""Merge the shares of several processes into one evaluation."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imf_jax.evaluation.cluster import PROCESSES, Cluster, move_artifacts, process_folder
from imf_jax.evaluation.folder import METRICS, read_records, write_merged
from imf_jax.evaluation.report.page import write_report
from imf_jax.evaluation.statistics import evaluation_metrics
from imf_jax.files import read_json
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.episode_log import RolloutResult
from imf_jax.rollout.recorders.base import EPISODES
from imf_jax.rollout.timing import merge_timing

SUMS = ("control_steps", "scene_steps", "live_scene_steps", "frames_rendered", "overflow_steps")
"""Measurements of a whole evaluation that are sums of those of its shares."""


def merge_shares(
    out: Path, cluster: Cluster, manifest: dict[str, Any], *, requested: int, stages: Sequence[str]
) -> tuple[dict[str, Any], list[EpisodeRecord]]:
    """Wait for all processes; process 0 merges their shares into one evaluation, with its report.

    Args:
        out: the evaluation folder.
        cluster: the processes; all of them call this function.
        manifest: of the whole evaluation.
        requested: number of requested episodes.
        stages: names of the task's stages.

    Returns:
        metrics and records of the whole evaluation, read from its folder.

    Raises:
        UserError: a process has failed, or the folder cannot be written.
    """
    cluster.wait("shares are written")
    if cluster.index == 0:
        folders = [process_folder(out, index) for index in range(cluster.count)]
        records = sorted((r for folder in folders for r in read_records(folder)[0]), key=lambda r: r.episode)
        shares = [read_json(folder / METRICS) for folder in folders]
        total = RolloutResult(
            **{name: max(share[name] for share in shares) for name in ("warmup_s", "wall_s", "capture_s")},
            **{name: sum(share[name] for share in shares) for name in SUMS},
            interrupted=any(share["interrupted"] for share in shares),
            capture_errors=[line for share in shares for line in share["capture_errors"]],
        )
        for folder in folders:
            move_artifacts(folder / EPISODES, out / EPISODES)
        merge_timing(folders, out)
        write_merged(out, manifest, records, evaluation_metrics(records, total, requested, stages))
        shutil.rmtree(out / PROCESSES)
        write_report(out)
    cluster.wait("shares are merged")
    return read_json(out / METRICS), read_records(out)[0]
