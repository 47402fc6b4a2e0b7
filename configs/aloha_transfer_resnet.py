"""ALOHA transfer from the camera above alone, 128 pixels: a small ResNet trained along, on one CPU core.

    pip install --no-deps gym-aloha==0.1.3
    python scripts/collect.py --task aloha-transfer --cameras top --image-size 128 --out demos/aloha-transfer-128

From 200 demonstrations 489 of 500 unseen scenes succeed (97.8 %, 95 % interval 96.1-98.8 %), trained in 28 minutes on
one core of two that had other work to do as well. Chunks by regression. The whole picture is read: the camera does not
move, and crops at random (--policy.encoder.crop-size 116) hide where in it the cube of five pixels is; with them 5 of
500 scenes succeed after three times as many steps. docs/benchmarks/pixels.md compares encoders.
"""

from pathlib import Path

from imf_jax.config import (
    AttnResConfig,
    OptimizerConfig,
    PolicyConfig,
    RegressionConfig,
    ResNetEncoderConfig,
    TrainConfig,
    ValidationConfig,
)

config = TrainConfig(
    task="aloha-transfer",
    data=Path("demos/aloha-transfer-128"),
    out=Path("runs/aloha-transfer-resnet"),
    max_steps=3_000,
    batch_size=32,
    save_every=1_000,
    policy=PolicyConfig(
        head=AttnResConfig(n_emb=128, n_layer=4, n_head=4, n_kv_head=4),
        objective=RegressionConfig(),
        encoder=ResNetEncoderConfig(cameras=("top",), image_size=128, crop_size=128, width=16, stride=16),
        obs_horizon=1,
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=200, ema_decay=0.995),
    validation=ValidationConfig(every=1_000, num_episodes=20),
)
