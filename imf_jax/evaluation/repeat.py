"""Repetitions of an evaluation, and the episodes that ended otherwise in one of them.

On the backend `native`, and on CPUs, a repetition gives the same records to the bit. On CUDA scenes and keys are the
same, but MuJoCo Warp orders contacts as they come, and physics amplifies the rounding: some episodes flip.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imf_jax.evaluation.evaluate import Summary
from imf_jax.evaluation.folder import METRICS
from imf_jax.evaluation.report.page import write_report
from imf_jax.files import reported_write_errors, write_json
from imf_jax.rollout.episode import EpisodeRecord


def repeat_folder(out: Path, number: int) -> Path:
    """Folder of run 2, 3, ... of an evaluation, within its own."""
    return out / f"repeat_{number}"


def repeat_figures(runs: Sequence[Sequence[EpisodeRecord]]) -> dict[str, Any]:
    """Compare runs of the same scenes.

    Returns:
        `n_runs`; `n_compared` episodes that all runs have; `n_success` of each run among them; `n_flipped` that
        succeeded in some runs only, and which: `flipped`; `n_identical` whose records are equal to the bit.
    """
    tables = [{record.episode: _outcome(record) for record in run} for run in runs]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    succeeded = {episode: [table[episode].status == "success" for table in tables] for episode in common}
    flipped = [episode for episode in common if len(set(succeeded[episode])) > 1]
    return {
        "n_runs": len(runs),
        "n_compared": len(common),
        "n_success": [sum(succeeded[episode][run] for episode in common) for run in range(len(runs))],
        "n_flipped": len(flipped),
        "flipped": flipped,
        "n_identical": sum(all(table[episode] == tables[0][episode] for table in tables) for episode in common),
    }


def add_repeats(summary: Summary, repeats: Sequence[Summary]) -> Summary:
    """Add the comparison with its repetitions to metrics and report of an evaluation.

    Raises:
        UserError: the folder cannot be written.
    """
    runs = [summary, *repeats]
    figures = repeat_figures([run.records for run in runs])
    figures["interrupted"] = any(run.metrics["interrupted"] for run in repeats)
    metrics = summary.metrics | {"repeats": figures}
    with reported_write_errors(summary.folder):
        write_json(summary.folder / METRICS, metrics)
    write_report(summary.folder)
    return replace(summary, metrics=metrics)


def _outcome(record: EpisodeRecord) -> EpisodeRecord:
    """A record without the place and time at which it ran, and without captures."""
    return replace(record, env_slot=0, start_step=0, end_step=0, artifacts={})
