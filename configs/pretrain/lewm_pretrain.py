"""Pre-train the LEWM encoder of the source: ViT tiny at 224 pixels, three cameras in a row, batches of 128 clips.

Demonstrations: collect.py --cameras r_vis top front (256 pixels). It needs a GPU.
What the encoder is worth: waits for a GPU, not run.
"""

from pathlib import Path

from imf_jax.config import OptimizerConfig, PretrainConfig, WorldModelConfig

config = PretrainConfig(
    data=Path("demos/transfer-images"),
    out=Path("runs/lewm-pretrain"),
    max_steps=50_000,
    batch_size=128,
    save_every=5_000,
    model=WorldModelConfig(dtype="bfloat16", recompute=True),
    optimizer=OptimizerConfig(learning_rate=5e-5, beta2=0.999, clip_norm=1.0, ema_decay=0.0),
)
