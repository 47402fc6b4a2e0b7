"""`report.html`: one evaluation on one page that opens offline, with the pictures inside."""

import base64
import json
from pathlib import Path
from typing import Any

import jinja2

from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.statistics import success_line
from imf_jax.rollout.writers import MANIFEST, METRICS, REPORT, read_json, read_records, write_bytes

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("imf_jax.rollout"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(folder: Path) -> Path:
    """Make `report.html` from what an evaluation folder holds, replacing an older one.

    Returns:
        path of the page.

    Raises:
        UserError: the folder holds no finished evaluation.
    """
    manifest, metrics = read_json(folder / MANIFEST), read_json(folder / METRICS)
    records, problems = read_records(folder)
    page = _TEMPLATES.get_template("report.html.j2").render(
        title=_title(manifest),
        subtitle=_subtitle(manifest),
        metrics=metrics,
        headline=success_line(metrics),
        rates=_rates(manifest, metrics),
        records=records,
        pictures=_pictures(folder, records),
        problems=problems + metrics.get("capture_errors", []),
        configuration=json.dumps(manifest, indent=2),
    )
    path = folder / REPORT
    write_bytes(path, page.encode())
    return path


def _title(manifest: dict[str, Any]) -> str:
    return f"{manifest.get('task', 'evaluation')}: {manifest.get('policy', 'policy')}"


def _subtitle(manifest: dict[str, Any]) -> str:
    """When, on what, on which scenes: as much as the manifest knows."""
    seeds, device = manifest.get("seeds", {}), manifest.get("device", {})
    parts = (
        manifest.get("created"),
        f"{manifest['backend']} backend" if "backend" in manifest else None,
        f"{seeds['split']} scenes of seed {seeds['seed']}" if seeds else None,
        f"policy on {device['kind']}" if device else None,
        f"imf_jax {manifest.get('versions', {}).get('imf_jax', '')}",
    )
    return " · ".join(part for part in parts if part)


def _rates(manifest: dict[str, Any], metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the success chart: this evaluation, and the reference it is read beside if there is one."""
    rows = [{"label": manifest.get("policy", "policy"), **metrics}]
    reference = manifest.get("reference")
    if reference:
        rows.append(reference)
    return [row for row in rows if row["n_episodes"]]


def _pictures(folder: Path, records: list[EpisodeRecord]) -> list[dict[str, Any]]:
    """Every episode's picture as a data URI; a file that was moved away is left out."""
    pictures = []
    for record in records:
        name = record.artifacts.get("path_image")
        if name and (folder / name).is_file():
            content = base64.b64encode((folder / name).read_bytes()).decode()
            pictures.append({"record": record, "path": name, "uri": f"data:image/png;base64,{content}"})
    return pictures
