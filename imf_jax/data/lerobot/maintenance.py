"""Mend what readers take from a dataset as a whole."""

from pathlib import Path
from typing import Any

from imf_jax.data.lerobot import layout
from imf_jax.data.lerobot.reader import open_dataset
from imf_jax.data.lerobot.statistics import PictureHistogram, Statistics, column_statistics, merge
from imf_jax.errors import UserError


def rewrite_statistics(folder: Path) -> dict[str, dict[str, Any]]:
    """Compute `stats.json` again from all rows and pictures, and write it.

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
    layout.write_statistics(folder, merged)
    vectors = [name for name, feature in dataset.features.items() if feature.dtype == "float32" and name != "timestamp"]
    return {name: {key: value.tolist() for key, value in merged[name].items()} for name in vectors}
