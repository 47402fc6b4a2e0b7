"""Settings of the training objective of a policy."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from imf_jax.config.base import require


@dataclass(frozen=True)
class ObjectiveConfig:
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
    # Longest delay of a plan for which the policy also learns to continue chunks whose first actions are given [control
    # steps]; needed to evaluate with --prefix. 0 turns it off.
    prefix_training: Annotated[int, tyro.conf.arg(prefix_name=False)] = 0

    def __post_init__(self) -> None:
        require(self.prefix_training >= 0, f"--prefix-training {self.prefix_training} must not be negative")
        require(
            not self.prefix_training or self.action_representation == "time",
            "--prefix-training needs objective.action_representation time: a coefficient of the DCT mixes all actions",
        )
        require(
            0 <= self.equal_time_fraction <= 1,
            f"objective.equal_time_fraction {self.equal_time_fraction} must be in [0, 1]",
        )
        require(self.time_std > 0, f"objective.time_std {self.time_std} must be positive")
        require(self.huber_delta > 0, f"objective.huber_delta {self.huber_delta} must be positive")
