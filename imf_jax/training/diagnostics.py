"""Diagnostics that tell a useful encoder from a collapsed one, on demonstrations that were held out.

The variance and the effective rank of embeddings show a collapse. Linear probes, fitted on frames that were trained
on, show what can be read from an embedding: where objects are, and the state of the robot. Each is given beside the
error of always guessing the mean.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from imf_jax.config import HeldOutConfig
from imf_jax.data.clips import EpisodeSplit, action_steps, frame_steps
from imf_jax.data.windows import Demonstrations
from imf_jax.models.world_model import LeWorldModel, predict
from imf_jax.spaces import Part, RobotSpaces
from imf_jax.training.validation import Validation
from imf_jax.training.vision import embedding_batch

COLLAPSED_VARIANCE = 0.05
"""Mean variance of the channels of an embedding below which an encoder has collapsed; training aims at 1."""

COLLAPSED_RANK = 2.0
"""Effective rank below which it has collapsed."""

RIDGE = 1e-3
"""Weight of the ridge of a probe, relative to the variance of a standardised channel."""

POSE = 7
"""Entries of the scene state per object: position xyz, quaternion wxyz."""

CM = 100.0

NUM_QUERIES, NUM_NEIGHBOURS = 8, 3
"""Held-out frames whose nearest neighbours are shown, and how many of each."""


@dataclass(frozen=True)
class Probe:
    """Result of a linear probe.

    Attributes:
        name: what is read from the embedding.
        unit: of the errors.
        error: mean error on held-out frames: of positions the distance, otherwise the absolute error of an entry.
        guess: the error of always guessing the mean of the training frames.
    """

    name: str
    unit: str
    error: float
    guess: float


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of an encoder after a training step.

    Attributes:
        step: the training step.
        num_frames: held-out frames that were embedded.
        variance: mean variance of the channels of their embeddings.
        rank: effective rank of their embeddings.
        dim: channels of an embedding.
        mse: held-out squared error of the predicted embeddings.
        still_mse: that of predicting no change.
        probes: what can be read from embeddings.
        neighbours: per query a step of a held-out episode, then the training steps nearest to it.
    """

    step: int
    num_frames: int
    variance: float
    rank: float
    dim: int
    mse: float
    still_mse: float
    probes: tuple[Probe, ...] = ()
    neighbours: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def warning(self) -> str | None:
        """What is wrong with a collapsed encoder; None if it is sound."""
        if self.variance >= COLLAPSED_VARIANCE and self.rank >= COLLAPSED_RANK:
            return None
        return (
            f"the encoder has collapsed: variance {self.variance:.3g} (bound {COLLAPSED_VARIANCE}), effective rank "
            f"{self.rank:.1f} of {self.dim} (bound {COLLAPSED_RANK:g}); a policy can learn little from it; train "
            "longer or raise --model.sigreg-weight"
        )

    def figures(self) -> dict[str, float]:
        """The figures by name, for metrics."""
        probes = {f"probe/{probe.name.replace(' ', '_')}_{probe.unit}": probe.error for probe in self.probes}
        spread = {"variance": self.variance, "effective_rank": self.rank}
        return {**spread, "mse": self.mse, "still_mse": self.still_mse, **probes}


def effective_rank(embeddings: np.ndarray) -> float:
    """Exponential of the entropy of the normalised singular values of centred embeddings (Roy and Vetterli, 2007).

    Args:
        embeddings: float (N, D).

    Returns:
        between 1 and D; 1 if all embeddings are equal.
    """
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    values = np.linalg.svd(centred, compute_uv=False)
    total = values.sum()
    if total < 1e-12 * max(1.0, float(np.abs(embeddings).max())) * len(embeddings):
        return 1.0
    share = values / total
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def ridge_predictions(train: np.ndarray, targets: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fit a linear map with intercept from embeddings to targets, and apply it.

    Args:
        train: float (N, D).
        targets: float (N, K).
        test: float (M, D).

    Returns:
        float64 (M, K).
    """
    train, test, targets = (values.astype(np.float64) for values in (train, test, targets))
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x, centre = (train - mean) / scale, targets.mean(axis=0)
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1])
    return (test - mean) / scale @ np.linalg.solve(gram, x.T @ (targets - centre)) + centre


def probe(
    name: str, unit: str, train: np.ndarray, targets: np.ndarray, test: np.ndarray, truth: np.ndarray, distance: bool
) -> Probe:
    """Fit a probe and measure it; `distance`: the entries of a target are one position."""
    guess = np.broadcast_to(targets.mean(axis=0, dtype=np.float64), truth.shape)
    errors = []
    for predicted in (ridge_predictions(train, targets, test), guess):
        difference = predicted - truth
        errors.append(np.linalg.norm(difference, axis=1) if distance else np.abs(difference))
    return Probe(name, unit, *(float(values.mean()) for values in errors))


def probes(
    train: np.ndarray,
    test: np.ndarray,
    train_steps: np.ndarray,
    test_steps: np.ndarray,
    data: Demonstrations,
    spaces: RobotSpaces,
    poses: tuple[str, ...] | None,
) -> tuple[Probe, ...]:
    """Probes of every position in the scene state [cm] and of every kind of part of the robot's state.

    Args:
        train: embeddings (N, D) of training frames.
        test: embeddings (M, D) of held-out frames.
        train_steps: int (N,) their steps.
        test_steps: int (M,) their steps.
        data: the demonstrations.
        spaces: names the parts of the robot's state.
        poses: names of the poses in the scene state, objects first; None if it is of another form.
    """
    found = []
    env_state, state = np.asarray(data.env_state), np.asarray(data.state)
    count = 0 if poses is None else env_state.shape[1] // POSE
    for number in range(count):
        position = CM * env_state[:, POSE * number : POSE * number + 3]
        name = poses[number] if poses and count == len(poses) else f"object {number + 1}"
        found.append(probe(name, "cm", train, position[train_steps], test, position[test_steps], True))

    def kind_of(part: Part) -> tuple[str, str]:
        return (part.name if part.kind == "value" else part.kind), part.unit

    for kind, unit in dict.fromkeys(map(kind_of, spaces.state)):
        columns = np.concatenate(
            [np.arange(state.shape[1])[place] for part, place in spaces.state_parts if kind_of(part) == (kind, unit)]
        )
        scale, shown = (CM, "cm") if unit == "m" else (1.0, unit or "1")
        values = scale * state[:, columns]
        found.append(probe(kind, shown, train, values[train_steps], test, values[test_steps], False))
    return tuple(found)


def nearest(train: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` rows of `train` nearest to each query, the nearest first: int (Q, count)."""
    distances = np.square(queries[:, None].astype(np.float64) - train[None]).sum(axis=-1)
    return np.argsort(distances, axis=1, kind="stable")[:, :count]


def evenly(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the values, evenly spread over them."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))]


class EncoderDiagnostics:
    """Diagnoses the encoder of a model; call it with the model and its training step.

    Args:
        wanted: how many frames.
        data: the demonstrations.
        images: uint8 (N, C, H, W, 3), their pictures, in main memory.
        split: which steps are held out.
        held_out_starts: int32 (M,) steps of held-out episodes at which a clip may begin.
        spaces, poses: see `probes`.
        on_warning: receives the warning about a collapsed encoder.

    Attributes:
        last: the newest diagnostics.
    """

    def __init__(
        self,
        wanted: HeldOutConfig,
        data: Demonstrations,
        images: np.ndarray,
        split: EpisodeSplit,
        held_out_starts: np.ndarray,
        spaces: RobotSpaces,
        poses: tuple[str, ...] | None,
        on_warning: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._wanted, self._data, self._images = wanted, data, images
        self._spaces, self._poses = spaces, poses
        self._train_steps = evenly(split.training, wanted.frames)
        self._starts = held_out_starts
        self.on_warning = on_warning
        self.last: Diagnostics | None = None

    def __call__(self, model: LeWorldModel, step: int) -> Validation:
        """Diagnose, and keep the result in `last`."""
        config = model.config
        starts = evenly(self._starts, max(self._wanted.frames // (config.history + 1), 1))
        frames = frame_steps(jnp.asarray(starts), history=config.history, frameskip=config.frameskip)
        actions = model.actions(self._data.action[action_steps(frames, config.frameskip)])
        test_steps = np.asarray(frames).reshape(-1)
        train, test = self._embed(model, self._train_steps), self._embed(model, test_steps)
        embeddings = test.reshape(*frames.shape, -1)
        predictions = predict(model.arrays(), jnp.asarray(embeddings[:, :-1]), actions, model.sizes)
        queries = evenly(np.arange(len(test)), NUM_QUERIES)
        found = nearest(train, test[queries], NUM_NEIGHBOURS)
        self.last = Diagnostics(
            step,
            len(test),
            variance=float(test.var(axis=0, dtype=np.float64).mean()),
            rank=effective_rank(test),
            dim=test.shape[1],
            mse=float(np.square(np.asarray(predictions) - embeddings[:, 1:]).mean()),
            still_mse=float(np.square(embeddings[:, :-1] - embeddings[:, 1:]).mean()),
            probes=probes(train, test, self._train_steps, test_steps, self._data, self._spaces, self._poses),
            neighbours=tuple(
                (int(test_steps[query]), *map(int, self._train_steps[near]))
                for query, near in zip(queries, found, strict=True)
            ),
        )
        if self.last.warning:
            self.on_warning(f"warning: {self.last.warning}")
        return Validation(self.last.figures())

    def _embed(self, model: LeWorldModel, steps: np.ndarray) -> np.ndarray:
        """Embeddings of the frames of these steps, float32 (N, D), by the frozen encoder as policies compute them."""
        encoder, size = model.encoder(), embedding_batch()
        padded = np.concatenate([steps, np.zeros(-len(steps) % size, steps.dtype)])
        found = []
        for first in range(0, len(padded), size):
            images = self._images[padded[first : first + size]]
            found.append(np.asarray(encoder({camera: images[:, c] for c, camera in enumerate(encoder.cameras)})))
        return np.concatenate(found)[: len(steps)]


def diagnostics_line(figures: dict[str, float]) -> str:
    """The figures in one line, as in "variance 0.93, effective rank 41.2, object 2.1 cm, joint 0.05 rad"."""
    found = [f"variance {figures['variance']:.3g}", f"effective rank {figures['effective_rank']:.1f}"]
    for name, value in figures.items():
        if name.startswith("probe/"):
            what, unit = name.removeprefix("probe/").rsplit("_", 1)
            found.append(f"{what.replace('_', ' ')} {value:.3g}{'' if unit == '1' else f' {unit}'}")
    return ", ".join(found)
