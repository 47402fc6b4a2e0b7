"""`report.html` of a pre-training: what the encoder is worth, curves, and pictures of nearest neighbours."""

import base64
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from imf_jax.config import PretrainConfig, to_dict
from imf_jax.data.clips import EpisodeSplit
from imf_jax.evaluation.report.charts import Series, line_chart
from imf_jax.evaluation.report.page import render_page
from imf_jax.files import read_metrics
from imf_jax.images import encode_image
from imf_jax.models.encoders.preprocess import fuse_views
from imf_jax.models.world_model import LeWorldModel
from imf_jax.training.diagnostics import COLLAPSED_RANK, COLLAPSED_VARIANCE, Diagnostics

REPORT = "report.html"

CURVES = (
    ("loss", "loss"),
    ("mse", "squared error of the prediction"),
    ("sigreg", "SIGReg"),
    ("embedding_std", "standard deviation of embeddings, in training batches"),
    ("validation/variance", "variance of held-out embeddings"),
    ("validation/effective_rank", "effective rank of held-out embeddings"),
)
"""Figure of the metrics -> title of its chart."""


class Neighbours(NamedTuple):
    """Pictures of a held-out frame and of the training frames nearest to it, as addresses of embedded JPEG files."""

    query: str
    nearest: list[str]


def write_pretraining_report(
    config: PretrainConfig, diagnostics: Diagnostics, split: EpisodeSplit, model: LeWorldModel, images: np.ndarray
) -> Path:
    """Write `report.html` into the run folder, replacing an older one; returns its path.

    Raises:
        UserError: it cannot be written.
    """
    return render_page(
        config.out / REPORT,
        "pretraining.html.j2",
        title=f"LEWM pre-training: {config.task}, cameras {', '.join(config.model.cameras)}",
        subtitle=f"{split.num_training} demonstrations, {split.num_held_out} held out · step {diagnostics.step}",
        diagnostics=diagnostics,
        variance_bound=COLLAPSED_VARIANCE,
        rank_bound=COLLAPSED_RANK,
        charts=training_curves(config.out),
        neighbours=neighbour_pictures(model, images, diagnostics.neighbours),
        configuration=json.dumps(to_dict(config), indent=2),
    )


def training_curves(run: Path) -> list[tuple[str, Markup]]:
    """Charts of the figures in `metrics.jsonl` that there are."""
    lines = read_metrics(run)
    charts = []
    for name, title in CURVES:
        points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), (int, float))]
        x, y = np.array(points, float).reshape(-1, 2).T
        marked = name.startswith("validation/")
        charts.append((title, line_chart([Series(name, x, y, marked)], title=title, x_label="training step")))
    return [(title, chart) for title, chart in charts if chart]


def neighbour_pictures(
    model: LeWorldModel, images: np.ndarray, neighbours: tuple[tuple[int, ...], ...]
) -> list[Neighbours]:
    """The fused pictures of every query and of its neighbours."""
    config = model.config
    rows = []
    for steps in neighbours:
        frames = images[list(steps)]
        views = {camera: frames[:, c] for c, camera in enumerate(config.cameras)}
        fused = np.asarray(fuse_views(views, config.fusion, config.cameras))
        query, *nearest = map(_address, fused)
        rows.append(Neighbours(query, nearest))
    return rows


def _address(picture: np.ndarray) -> str:
    content = encode_image(picture, ".jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
