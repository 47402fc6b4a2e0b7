"""Settings of the training objective of a policy."""

from dataclasses import dataclass
from typing import Literal

from imf_jax.config.base import require


@dataclass(frozen=True)
class ImfConfig:
    """The improved MeanFlow training objective."""

    # How the two times of a sample are drawn: sigmoid of a normal, or uniform on [0, 1].
    time_distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    # Mean of the normal under the sigmoid (logit_normal only).
    time_mean: float = -0.4
    # Standard deviation of the normal under the sigmoid (logit_normal only).
    time_std: float = 1.0
    # Share of a batch trained with r = t, which is plain flow matching.
    equal_time_fraction: float = 0.5
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
        require(
            0 <= self.equal_time_fraction <= 1,
            f"objective.equal_time_fraction {self.equal_time_fraction} must be in [0, 1]",
        )
        require(self.time_std > 0, f"objective.time_std {self.time_std} must be positive")
        require(self.huber_delta > 0, f"objective.huber_delta {self.huber_delta} must be positive")
