"""`report.html`: one evaluation on one page that opens offline. Parts that cannot be read are listed as problems."""

import json
from pathlib import Path
from typing import Any

import jinja2

from imf_jax.config import flat_flags
from imf_jax.errors import UserError
from imf_jax.evaluation.folder import REPORT
from imf_jax.evaluation.report.charts import shade
from imf_jax.evaluation.report.comparison import Comparison, conclusion
from imf_jax.evaluation.report.levels import level_curves
from imf_jax.evaluation.report.load import Evaluation, read_evaluation
from imf_jax.evaluation.report.parts import EpisodeRow, episode_rows, path_plots, timing_rows, training_charts
from imf_jax.evaluation.statistics import episode_statistics, flipped_line, ranking_warning, success_line
from imf_jax.files import write_bytes
from imf_jax.rollout.episode import STATUSES

MAX_PROBLEMS = 30
"""Problems listed on a page; a folder whose files were moved away has one for each."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("imf_jax.evaluation.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(folder: Path) -> Path:
    """Write `report.html` from the files of an evaluation folder, replacing an older one.

    Returns:
        path of the page.

    Raises:
        UserError: the folder holds no evaluation, or the page cannot be written.
    """
    evaluation = read_evaluation(folder)
    problems = list(evaluation.problems)
    rows = episode_rows(evaluation, problems)
    plots, num_drawn = path_plots(rows)
    page = _TEMPLATES.get_template("report.html.j2").render(
        **_headline(evaluation),
        reference=_reference(evaluation.manifest),
        facts=_facts(evaluation.metrics),
        rows=rows,
        remarks=any(record.error for record in evaluation.records),
        num_thumbnails=sum(row.thumbnail is not None for row in rows),
        statuses=[(status, sum(row.record.status == status for row in rows)) for status in STATUSES],
        stage_legend=_stage_legend(evaluation, rows),
        plots=plots,
        num_drawn=num_drawn,
        effectors=evaluation.effectors or [f"end effector {i + 1}" for i in range(_num_paths(rows))],
        timing=timing_rows(folder, problems),
        charts=training_charts(evaluation, problems),
        problems=_shortened(problems + _strings(evaluation.metrics.get("capture_errors"))),
        configuration=json.dumps(evaluation.manifest, indent=2),
    )
    return _write(folder / REPORT, page)


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write the page of a comparison, replacing an older one; returns its path.

    Raises:
        UserError: it cannot be written.
    """
    page = _TEMPLATES.get_template("comparison.html.j2").render(
        title=f"Comparison of {len(comparison.evaluations)} evaluations: {comparison.evaluations[0].task}",
        comparison=comparison,
        pairs=[(pair, conclusion(comparison, pair)) for pair in comparison.pairs],
        rates=[
            rate
            for label, figures in zip(comparison.labels, comparison.statistics, strict=True)
            for rate in _both_rates(label, figures)
        ],
        curves=level_curves(comparison),
        discordant=_discordant(comparison),
        settings=_settings_that_differ(comparison),
        problems=_shortened(list(comparison.warnings)),
    )
    return _write(path, page)


def render_page(path: Path, template: str, **values: Any) -> Path:
    """Write a page from one of the templates beside this module, replacing an older one; returns its path.

    Raises:
        UserError: it cannot be written.
    """
    return _write(path, _TEMPLATES.get_template(template).render(**values))


def _write(path: Path, page: str) -> Path:
    try:
        write_bytes(path, page.encode(errors="backslashreplace"))
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from None
    return path


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    """Title and success, recomputed from the records: they are the truth, whatever else is missing."""
    figures = episode_statistics(evaluation.records, evaluation.stages)
    interrupted = evaluation.metrics.get("interrupted", not evaluation.metrics)
    return {
        "title": f"{evaluation.task or 'evaluation'}: {evaluation.label}",
        "subtitle": _subtitle(evaluation.manifest),
        "figures": figures,
        "headline": success_line(figures),
        "rates": _both_rates(evaluation.label, figures) if evaluation.records else [],
        "unfinished": f"{len(evaluation.records)} of {_requested(evaluation)} episodes" if interrupted else None,
        "warning": ranking_warning(len(evaluation.records)) if evaluation.records else None,
        "repeats": _repeats(evaluation.metrics),
    }


def _repeats(metrics: dict[str, Any]) -> str | None:
    """Comparison with repetitions of the evaluation, if there are any."""
    try:
        return flipped_line(metrics["repeats"])
    except (TypeError, KeyError):
        return None


def _both_rates(label: str, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Success rate of all episodes; if some ended in an error, also of those that did not."""
    rates = [_rate(label, figures)]
    if figures["n_error"]:
        completed = {**figures["completed"], "n_success": figures["n_success"]}
        rates.append(_rate(f"without its {figures['n_error']} that ended in an error", completed))
    return rates


def _rate(label: str, figures: dict[str, Any]) -> dict[str, Any]:
    low, high = figures["pc_success_ci95"]
    return {
        "label": label,
        "n": figures["n_episodes"],
        "k": figures["n_success"],
        "percent": figures["pc_success"],
        "low": low,
        "high": high,
    }


def _reference(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Evaluation that this one is compared with, if its figures are there."""
    reference = _object(manifest.get("reference"))
    try:
        rate = _rate(str(reference["label"]), reference)
        numbers = [rate[name] + 0.0 for name in ("n", "k", "percent", "low", "high")]
    except (TypeError, KeyError, ValueError):
        return None
    return rate if numbers[0] else None


def _subtitle(manifest: dict[str, Any]) -> str:
    """Subtitle with date, device and scenes, as far as the manifest has them."""
    seeds, device, versions = (_object(manifest.get(name)) for name in ("seeds", "device", "versions"))
    parts = (
        manifest.get("created"),
        f"{manifest['backend']} backend" if "backend" in manifest else None,
        f"{seeds['split']} scenes of seed {seeds['seed']}" if {"split", "seed"} <= seeds.keys() else None,
        f"policy on {device['kind']}" if "kind" in device else None,
        f"imf_jax {versions['imf_jax']}" if "imf_jax" in versions else None,
    )
    return " · ".join(str(part) for part in parts if part)


def _requested(evaluation: Evaluation) -> str:
    episodes = _object(evaluation.manifest.get("seeds")).get("episodes")
    if isinstance(episodes, list) and len(episodes) == 2 and all(isinstance(number, int) for number in episodes):
        return str(episodes[1] - episodes[0] + 1)
    return str(evaluation.metrics.get("n_requested", "an unknown number of"))


def _facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Times and speeds of the run, as far as `metrics.json` has them."""
    wanted = (
        ("control_steps_per_s", "control steps per second", "{:,.0f}"),
        ("useful_share", "of the simulated steps belong to an episode", "{:.0%}"),
        ("wall_s", "closed loop", "{:.1f} s"),
        ("capture_s", "waiting for captures", "{:.1f} s"),
        ("warmup_s", "start-up, compilation", "{:.1f} s"),
    )
    return [
        (label, form.format(metrics[name]))
        for name, label, form in wanted
        if isinstance(metrics.get(name), (int, float))
    ]


def _stage_legend(evaluation: Evaluation, rows: list[EpisodeRow]) -> list[tuple[int, str]]:
    """Shade and name of every stage, if any episode shows its stages."""
    if not any(row.strip for row in rows):
        return []
    names = ("no stage", *evaluation.stages)
    return [(shade(number, len(evaluation.stages)), name.replace("_", " ")) for number, name in enumerate(names)]


def _num_paths(rows: list[EpisodeRow]) -> int:
    """End effectors of which there are paths."""
    return max((len(row.paths) for row in rows if row.paths is not None), default=0)


def _discordant(comparison: Comparison) -> list[dict[str, Any]]:
    """Episodes whose outcome differs between evaluations: number, and every record."""
    tables = [{record.episode: record for record in evaluation.records} for evaluation in comparison.evaluations]
    return [
        {"episode": episode, "records": [table[episode] for table in tables]}
        for episode in tables[0]
        if len({table[episode].status == "success" for table in tables}) > 1
    ]


def _settings_that_differ(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Entries in which the manifests differ, without those that always do."""
    manifests = [evaluation.manifest for evaluation in comparison.evaluations]
    # By flag: which group holds a flag has changed between versions.
    flat = [
        dict(_flatten(manifest | {"config": flat_flags(_object(manifest.get("config")))})) for manifest in manifests
    ]
    names = sorted(set().union(*flat))
    skipped = ("created", "config.out", "reference")
    return [
        (name, [values.get(name, "–") for values in flat])
        for name in names
        if not name.startswith(skipped) and len({values.get(name) for values in flat}) > 1
    ]


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return rows


def _shortened(problems: list[str]) -> list[str]:
    more = len(problems) - MAX_PROBLEMS
    return problems if more <= 0 else [*problems[:MAX_PROBLEMS], f"and {more} more of this kind"]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> list[str]:
    return [str(line) for line in value] if isinstance(value, list) else []
