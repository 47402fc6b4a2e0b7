"""Settings of the network of a policy."""

from dataclasses import dataclass

from imf_jax.config.base import require


@dataclass(frozen=True)
class HeadConfig:
    """The IMF-AttnRes transformer."""

    # Entries of an action; by default those of the robot of the task.
    action_dim: int | None = None
    # Observations the policy sees: the newest one and those before it [control steps].
    obs_horizon: int = 2
    # Length of a predicted chunk of actions [control steps].
    pred_horizon: int = 16
    # Actions executed from a chunk before planning again [control steps].
    num_action_steps: int = 8
    # Width of the transformer [channels].
    n_emb: int = 384
    # Transformer layers; each is one attention and one SwiGLU sub-layer.
    n_layer: int = 12
    # Query heads.
    n_head: int = 8
    # Key/value heads; fewer than query heads means grouped-query attention.
    n_kv_head: int = 8
    # Mask attention so that a token sees only earlier tokens.
    causal: bool = False

    def __post_init__(self) -> None:
        for name in ("action_dim", "obs_horizon", "pred_horizon", "n_emb", "n_layer", "n_head", "n_kv_head"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"head.{name} is {value}; it must be at least 1")
        require(
            self.n_emb % (2 * self.n_head) == 0,
            f"head.n_emb {self.n_emb} must be a multiple of 2 x n_head {self.n_head} (rotary pairs per head)",
        )
        require(
            self.n_head % self.n_kv_head == 0,
            f"head.n_head {self.n_head} must be a multiple of head.n_kv_head {self.n_kv_head}",
        )
        longest = self.pred_horizon - self.obs_horizon + 1
        require(
            1 <= self.num_action_steps <= longest,
            f"head.num_action_steps {self.num_action_steps} must be in [1, {longest}] "
            f"(pred_horizon {self.pred_horizon} - obs_horizon {self.obs_horizon} + 1)",
        )
