"""Pre-train a small LEWM encoder on two CPU cores: a ViT of 4 layers at 96 pixels, three cameras in a row.

Demonstrations: collect.py --cameras r_vis top front --image-size 128.
From 200 demonstrations of `transfer`, 20 of which are held out: 1,500 steps in 36 minutes on two CPU cores that had
other work to do as well. A linear probe finds the box to 1.8 cm (guessing its mean: 15 cm) and the joints to 0.017 rad.
What a policy makes of it: see `lewm-small`.
"""

from pathlib import Path

from imf_jax.config import HeldOutConfig, OptimizerConfig, PretrainConfig, WorldModelConfig

config = PretrainConfig(
    data=Path("demos/transfer-128"),
    out=Path("runs/lewm-pretrain-small"),
    max_steps=1_500,
    batch_size=32,
    save_every=500,
    log_every=20,
    model=WorldModelConfig(
        image_size=128,
        resolution=96,
        patch=16,
        hidden=96,
        layers=4,
        heads=3,
        mlp=384,
        embedding=96,
        projector_hidden=512,
        predictor_layers=3,
        predictor_heads=4,
        predictor_head_dim=32,
        predictor_mlp=384,
        sketches=512,
    ),
    optimizer=OptimizerConfig(learning_rate=5e-4, beta2=0.999, warmup_steps=100, clip_norm=1.0, ema_decay=0.0),
    validation=HeldOutConfig(every=500, frames=1_000),
)
