"""Rewrite the statistics of a whole dataset."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.data.lerobot import layout
from imf_jax.data.lerobot.reader import open_dataset
from imf_jax.data.lerobot.statistics import PictureHistogram, Statistics, column_statistics, merge
from imf_jax.errors import UserError


def rewrite_statistics(folder: Path) -> dict[str, dict[str, Any]]:
    """Compute `stats.json` again from all rows and pictures, and write it.

    Features that are not supported keep the statistics that they have.

    Features that are not supported keep the statistics that they have.

    Returns:
        what was written of vectors: feature -> `min`, `max`, `mean`, `std`, each a list with one number per channel.

    Raises:
        UserError: the dataset has no episode or is damaged.
    """
    dataset = open_dataset(folder)
    if not dataset.episodes:
        raise UserError(f"{folder} has no episode to compute statistics of; record some first")
    merged: dict[str, Statistics] = {}
    for episode in dataset.episodes:
        statistics = {name: column_statistics(values) for name, values in dataset.columns(episode).items()}
        for camera in dataset.cameras:
            histogram = PictureHistogram()
            for picture in dataset.pictures(episode, camera):
                histogram.add(picture)
            statistics[camera] = histogram.result()
        merged = merge([merged, statistics]) if merged else statistics
    layout.write_statistics(folder, _stored(folder, dataset.left_out) | merged)
    vectors = [name for name in merged if dataset.features[name].dtype.startswith("float") and name != "timestamp"]
    return {name: {key: value.tolist() for key, value in merged[name].items()} for name in vectors}


def _stored(folder: Path, names: Iterable[str]) -> dict[str, Statistics]:
    """What `stats.json` says of some features; nothing if it is absent or damaged."""
    try:
        stored = json.loads((folder / layout.STATS).read_text(encoding="utf-8"))
        return {n: {key: np.asarray(value) for key, value in stored[n].items()} for n in names if n in stored}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
