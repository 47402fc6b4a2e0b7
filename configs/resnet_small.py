"""Transfer from three cameras of 128 pixels, a ResNet of a quarter of ResNet-18's width per camera, on two CPU cores.

    python scripts/collect.py --cameras r_vis top front --image-size 128 --out demos/transfer-128

370 of 500 unseen scenes succeed (74.0 %, 95 % interval 70.0-77.7 %), trained in 47 minutes on one core of a server,
with pictures that OpenGL made of decimated meshes (--renderer opengl --visual decimated). A frozen encoder gives more
in less time: preset efficientnet. Of its three cameras this policy sees through two: the features of `top` died in
training, and with one camera alone a policy can become blind (docs/benchmarks/pixels.md).
"""

from pathlib import Path

from imf_jax.config import (
    AttnResConfig,
    OptimizerConfig,
    PolicyConfig,
    ResNetEncoderConfig,
    TrainConfig,
    ValidationConfig,
)

config = TrainConfig(
    data=Path("demos/transfer-128"),
    out=Path("runs/resnet-small"),
    max_steps=3_000,
    batch_size=32,
    save_every=1_000,
    policy=PolicyConfig(
        head=AttnResConfig(n_emb=128, n_layer=4, n_head=4, n_kv_head=4),
        encoder=ResNetEncoderConfig(image_size=128, crop_size=116, width=16, stride=16),
        obs_horizon=1,  # half of the pictures, in which most of the time goes
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=200, ema_decay=0.995),
    validation=ValidationConfig(every=1_000, num_episodes=20),
)
