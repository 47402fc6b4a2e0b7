"""Settings of the training objectives of policies; `ObjectiveConfig` lists those there are."""

from dataclasses import dataclass
from typing import Literal

from imf_jax.config.base import require


class Abilities:
    """What the policies of an objective can do."""

    @property
    def most_steps(self) -> int | None:
        """Function evaluations that a plan can have; None for any number."""
        return None

    @property
    def prefix_problem(self) -> str | None:
        """What a policy needs to learn to continue given actions (--prefix-training); None if nothing is amiss."""
        return None

    @property
    def guidance_problem(self) -> str | None:
        """What a policy needs to be drawn to given actions (--guidance); None if nothing is amiss."""
        return "needs a velocity to guide: objective imf, meanflow or flow"


@dataclass(frozen=True)
class PathTimes(Abilities):
    """Times of a path from data (0) to noise (1) in training."""

    # Distribution of the times: sigmoid of a normal, or uniform on [0, 1].
    time_distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    # Mean of the normal under the sigmoid (logit_normal only).
    time_mean: float = -0.4
    # Standard deviation of the normal under the sigmoid (logit_normal only).
    time_std: float = 1.0

    def __post_init__(self) -> None:
        require(self.time_std > 0, f"objective.time_std {self.time_std} must be positive")

    @property
    def guidance_problem(self) -> str | None:
        """What a policy needs to be drawn to given actions (--guidance); None if nothing is amiss."""
        return None


@dataclass(frozen=True)
class IntervalTimes(PathTimes):
    """Intervals [r, t] of a path in training: two times of it, or one for both."""

    # Share of a batch trained with r = t, which is plain flow matching.
    equal_time_fraction: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.equal_time_fraction <= 1,
            f"objective.equal_time_fraction {self.equal_time_fraction} must be in [0, 1]",
        )


@dataclass(frozen=True)
class ImfConfig(IntervalTimes):
    """Improved MeanFlow: the average velocity over any interval of time, so that one step is enough."""

    # Regression loss between the compound velocity V and e - x.
    loss: Literal["pseudo_huber", "mse"] = "pseudo_huber"
    # Error at which the pseudo-Huber loss turns from quadratic to linear [normalised action units].
    huber_delta: float = 1.0
    # Output of the network: the average velocity, or the data at the end of the path, from which the velocity follows.
    # The velocity holds the noise of the path too, and the network must pass it through exactly; for precise actions
    # from few demonstrations predict the data.
    prediction: Literal["velocity", "data"] = "velocity"
    # Representation of a chunk: the actions themselves, or their orthonormal DCT-II over the horizon.
    action_representation: Literal["time", "dct"] = "time"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.huber_delta > 0, f"objective.huber_delta {self.huber_delta} must be positive")

    @property
    def prefix_problem(self) -> str | None:
        """What a policy needs to learn to continue given actions (--prefix-training); None if nothing is amiss."""
        if self.action_representation == "time":
            return None
        return "needs objective.action_representation time: a coefficient of the DCT mixes all actions"

    @property
    def guidance_problem(self) -> str | None:
        """What a policy needs to be drawn to given actions (--guidance): what it needs to be given them."""
        return self.prefix_problem


@dataclass(frozen=True)
class MeanFlowConfig(IntervalTimes):
    """MeanFlow: the average velocity by its derivative along the known path, with errors weighted by their size."""

    # Share of a batch trained with r = t, which is plain flow matching.
    equal_time_fraction: float = 0.75
    # Power p of the weight 1 / (|error|^2 + weight_offset)^p of a chunk; 0 is the plain squared error.
    weight_power: float = 1.0
    # Offset in that weight [normalised action units squared, summed over the chunk].
    weight_offset: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.weight_power >= 0, f"objective.weight_power {self.weight_power} must not be negative")
        require(self.weight_offset > 0, f"objective.weight_offset {self.weight_offset} must be positive")


@dataclass(frozen=True)
class FlowConfig(PathTimes):
    """Flow matching: the velocity of the path, followed in Euler steps."""

    # Output of the network: the velocity, or the data at the end of the path, from which the velocity follows.
    prediction: Literal["velocity", "data"] = "velocity"


@dataclass(frozen=True)
class DiffusionConfig(Abilities):
    """Diffusion: DDPM training on the squared cosine schedule, DDIM sampling without noise."""

    # Noise levels of training, and the most function evaluations per plan.
    train_steps: int = 100
    # Output of the network: the noise, or the velocity sqrt(a) e - sqrt(1 - a) x, which also holds where there is
    # nothing but noise and so suits few function evaluations.
    prediction: Literal["epsilon", "v"] = "epsilon"
    # Bound of the predicted actions while sampling [normalised action units]: 1 is the range of the demonstrations with
    # normalization min_max. None for no bound.
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        require(self.train_steps >= 1, f"objective.train_steps {self.train_steps} must be at least 1")
        require(self.clip is None or self.clip > 0, f"objective.clip {self.clip} must be positive, or None")

    @property
    def most_steps(self) -> int | None:
        """Function evaluations that a plan can have: one per noise level."""
        return self.train_steps


@dataclass(frozen=True)
class RegressionConfig(Abilities):
    """Regression: the chunk itself by its mean absolute error, from no noise and in one step."""

    @property
    def most_steps(self) -> int | None:
        """Function evaluations that a plan can have."""
        return 1


ObjectiveConfig = ImfConfig | FlowConfig | RegressionConfig | DiffusionConfig | MeanFlowConfig
"""The objectives a policy can be trained with; the first one is that of configurations which name none."""
