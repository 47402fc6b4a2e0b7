"""Settings of pre-training a LEWM encoder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imf_jax.config.base import IMAGE_SIZE, VIEWS, require, require_views
from imf_jax.config.policy import EncoderDtype
from imf_jax.config.training import ColumnsConfig, OptimizerConfig, RunConfig


@dataclass(frozen=True)
class WorldModelConfig:
    """LeWorldModel: encoder, action encoder, predictor, loss. The defaults are those of the source."""

    # Cameras whose pictures are encoded together, in the order in which they are laid out.
    cameras: tuple[str, ...] = VIEWS
    # Height and width of the camera pictures, as they were recorded [pixels].
    image_size: int = IMAGE_SIZE
    # Layout of the views in the one picture that is encoded: side by side, or 2 x 2 (at most four cameras).
    fusion: Literal["row", "grid"] = "row"
    # Shorter side to which that picture is scaled [pixels]; a multiple of the patch.
    resolution: int = 224
    # Side of a square patch [pixels].
    patch: int = 14
    # Width of the vision transformer [channels].
    hidden: int = 192
    # Its layers.
    layers: int = 12
    # Its attention heads.
    heads: int = 3
    # Width of its MLP [channels].
    mlp: int = 768
    # Width of an embedding [channels]; the predictor has the same.
    embedding: int = 192
    # Channels between the two layers of the projector, and of that of predictions.
    projector_hidden: int = 2048
    # Transformer blocks of the predictor.
    predictor_layers: int = 6
    # Its attention heads.
    predictor_heads: int = 16
    # Width of one of them [channels].
    predictor_head_dim: int = 64
    # Width of its MLP [channels].
    predictor_mlp: int = 2048
    # Dropout of the predictor.
    dropout: float = 0.1
    # Frames that the predictor sees.
    history: int = 3
    # Control steps from one frame to the next; the actions between them are joined.
    frameskip: int = 5
    # Weight of SIGReg beside the squared error of the prediction.
    sigreg_weight: float = 0.09
    # Random directions along which SIGReg compares embeddings with a Gaussian.
    sketches: int = 1024
    # Operands of matrix products; bfloat16 is faster on accelerators, and less exact.
    dtype: EncoderDtype = "float32"
    # Compute the inside of the encoder's layers again for the gradient instead of keeping it: less memory, more time.
    recompute: bool = False

    def __post_init__(self) -> None:
        for name in (
            "image_size", "resolution", "patch", "hidden", "layers", "heads", "mlp", "embedding", "projector_hidden",
            "predictor_layers", "predictor_heads", "predictor_head_dim", "predictor_mlp", "history", "frameskip",
            "sketches",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"model.{name} is {getattr(self, name)}; it must be at least 1")
        require_views("model", self.cameras, self.fusion)
        require(
            self.resolution % self.patch == 0,
            f"model.resolution {self.resolution} must be a multiple of model.patch {self.patch}",
        )
        require(
            self.hidden % self.heads == 0, f"model.hidden {self.hidden} must be a multiple of model.heads {self.heads}"
        )
        require(0 <= self.dropout < 1, f"model.dropout {self.dropout} must be in [0, 1)")
        require(self.sigreg_weight >= 0, f"model.sigreg_weight {self.sigreg_weight} must not be negative")

    @property
    def span(self) -> int:
        """Control steps from the first frame of a window to its last."""
        return self.history * self.frameskip


@dataclass(frozen=True)
class HeldOutConfig:
    """Demonstrations that are not trained on, and diagnostics of the encoder on them."""

    # Share of the demonstrations that is held out, at least one.
    share: float = 0.1
    # Training steps between two diagnostics; 0 makes them at the end only.
    every: int = 0
    # Frames that diagnostics embed, at most, of each side.
    frames: int = 2000

    def __post_init__(self) -> None:
        require(0 < self.share < 1, f"validation.share {self.share} must be in (0, 1)")
        require(self.every >= 0, f"validation.every {self.every} must not be negative")
        require(self.frames >= 2, f"validation.frames {self.frames} must be at least 2")


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """Pre-training of a LEWM encoder on demonstrations with pictures."""

    # Task of the demonstrations; none for data of a robot without a scene.
    task: str = "transfer"
    # Folder that receives the run; must not hold a run yet unless --resume.
    out: Path = Path("runs/lewm-pretrain")
    # Whole LeWM weights to start from, a folder that converters/lewm.py --whole or an earlier run wrote; by default the
    # weights are random.
    init: Path | None = None
    # The model.
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    # The optimizer.
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-5, beta2=0.999, clip_norm=1.0, ema_decay=0.0)
    )
    # Demonstrations that are not trained on.
    validation: HeldOutConfig = field(default_factory=HeldOutConfig)
    # Names of columns and cameras in the dataset.
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
