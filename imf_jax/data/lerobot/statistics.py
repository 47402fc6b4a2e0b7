"""Statistics that LeRobot keeps of every episode and of all frames, and how they are merged."""

from collections.abc import Mapping, Sequence

import numpy as np

Statistics = dict[str, np.ndarray]
"""`min`, `max`, `mean`, `std` and the quantiles `q01` ... `q99`, each (D,), or (3, 1, 1) of pictures; `count` (1,)."""

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
NAMES = ("min", "max", "mean", "std", "count", *(f"q{round(100 * q):02d}" for q in QUANTILES))

LONGEST_SIDE = 64
"""Pictures are thinned out to about this side length before they are counted [pixels]."""


def column_statistics(values: np.ndarray) -> Statistics:
    """Statistics of one feature over the frames of an episode; values (T, D)."""
    values = values.astype(np.float64)
    quantiles = np.quantile(values, QUANTILES, axis=0)
    moments = (values.min(axis=0), values.max(axis=0), values.mean(axis=0), values.std(axis=0))
    return dict(zip(NAMES, (*moments, np.array([len(values)]), *quantiles), strict=True))


class PictureHistogram:
    """Counts the brightness of pictures per channel, from which all statistics follow without keeping a picture."""

    def __init__(self) -> None:
        self.num_frames = 0
        self.counts = np.zeros((3, 256), np.int64)

    def add(self, picture: np.ndarray) -> None:
        """Count a picture, uint8 (H, W, 3)."""
        stride = max(1, max(picture.shape[:2]) // LONGEST_SIDE)
        thinned = picture[::stride, ::stride]
        for channel in range(3):
            self.counts[channel] += np.bincount(thinned[..., channel].ravel(), minlength=256)
        self.num_frames += 1

    def result(self) -> Statistics:
        """Statistics of brightness scaled to 0..1, each (3, 1, 1); count is in frames."""
        level = np.arange(256) / 255
        share = self.counts / self.counts.sum(axis=1, keepdims=True)
        mean = share @ level
        std = np.sqrt(np.maximum(share @ level**2 - mean**2, 0))
        cumulated = np.cumsum(share, axis=1)
        low, high = (self.counts > 0).argmax(axis=1), 255 - (self.counts[:, ::-1] > 0).argmax(axis=1)
        quantiles = [level[np.minimum((cumulated < q).sum(axis=1), high)] for q in QUANTILES]
        per_channel = [level[low], level[high], mean, std, *quantiles]
        shaped = [values.reshape(3, 1, 1) for values in per_channel]
        return dict(zip(NAMES, (*shaped[:4], np.array([self.num_frames]), *shaped[4:]), strict=True))


def merge(parts: Sequence[Mapping[str, Statistics]]) -> dict[str, Statistics]:
    """Statistics of several episodes together, per feature.

    Minimum, maximum, mean and standard deviation are exact; a quantile is the mean of the parts' quantiles weighted by
    their frames, as in LeRobot, because the frames themselves are gone.
    """
    return {name: _merge([part[name] for part in parts]) for name in parts[0]}


def _merge(parts: list[Statistics]) -> Statistics:
    count = sum(int(part["count"][0]) for part in parts)
    weights = [int(part["count"][0]) / count for part in parts]

    def average(name: str, power: int = 1) -> np.ndarray:
        return np.sum([weight * part[name] ** power for weight, part in zip(weights, parts, strict=True)], axis=0)

    mean = average("mean")
    spread = [w * (part["std"] ** 2 + (part["mean"] - mean) ** 2) for w, part in zip(weights, parts, strict=True)]
    merged = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(np.sum(spread, axis=0)),
        "count": np.array([count]),
    }
    return merged | {name: average(name) for name in NAMES[5:]}
