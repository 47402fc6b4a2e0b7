"""Settings of the networks of policies; `HeadConfig` lists those there are."""

from dataclasses import dataclass

from imf_jax.config.base import require


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes of a transformer over the tokens of a chunk."""

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
        for name in ("n_emb", "n_layer", "n_head", "n_kv_head"):
            require(getattr(self, name) >= 1, f"head.{name} is {getattr(self, name)}; it must be at least 1")
        require(
            self.n_emb % (2 * self.n_head) == 0,
            f"head.n_emb {self.n_emb} must be a multiple of 2 x n_head {self.n_head} (rotary pairs per head)",
        )
        require(
            self.n_head % self.n_kv_head == 0,
            f"head.n_head {self.n_head} must be a multiple of head.n_kv_head {self.n_kv_head}",
        )

    @property
    def horizon_unit(self) -> int:
        """Number of actions of which a chunk must be a multiple."""
        return 1

    @property
    def size(self) -> str:
        """Size in short: width/layers."""
        return f"{self.n_emb}/{self.n_layer}"


@dataclass(frozen=True)
class AttnResConfig(TransformerSizes):
    """The IMF-AttnRes transformer, whose layers read a learned mixture of the outputs of all layers before them."""


@dataclass(frozen=True)
class TransformerConfig(TransformerSizes):
    """The same transformer with ordinary residuals: layers read the sum of the outputs before them."""


@dataclass(frozen=True)
class UnetConfig:
    """A 1-D convolutional U-Net over the steps of a chunk, as in Diffusion Policy."""

    # Channels of each level; from one to the next the steps of a chunk are halved. An objective that predicts noise or
    # a velocity needs wide ones: all noise of a chunk has to pass the last level. Narrow ones want
    # objective.prediction data.
    widths: tuple[int, ...] = (256, 512, 1024)
    # Steps that a convolution sees; odd.
    kernel_size: int = 5
    # Groups of the group normalisation.
    groups: int = 8
    # Channels of the embedded times.
    time_dim: int = 128

    def __post_init__(self) -> None:
        require(len(self.widths) > 0, "head.widths is empty; name the channels of at least one level")
        require(self.groups >= 1, f"head.groups is {self.groups}; it must be at least 1")
        wrong = [width for width in self.widths if width < 1 or width % self.groups]
        require(not wrong, f"head.widths {wrong[:1]} must be positive multiples of head.groups {self.groups}")
        odd = self.kernel_size >= 1 and self.kernel_size % 2 == 1
        require(odd, f"head.kernel_size {self.kernel_size} must be odd and at least 1")
        even = self.time_dim >= 2 and self.time_dim % 2 == 0
        require(even, f"head.time_dim {self.time_dim} must be even and at least 2")

    @property
    def horizon_unit(self) -> int:
        """Number of actions of which a chunk must be a multiple: it is halved between the levels."""
        return 2 ** (len(self.widths) - 1)

    @property
    def size(self) -> str:
        """Size in short: the channels of the levels."""
        return "/".join(map(str, self.widths))


HeadConfig = AttnResConfig | TransformerConfig | UnetConfig
"""The networks a policy can have; the first one is that of configurations which name none."""
