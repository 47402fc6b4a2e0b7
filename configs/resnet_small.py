"""Transfer from three cameras of 128 pixels, a ResNet of a quarter of ResNet-18's width per camera, on two CPU cores.

    python scripts/collect.py --cameras r_vis top front --image-size 128 --out demos/transfer-128

461 of 500 unseen scenes succeed (92.2 %, 95 % interval 89.5-94.2 %), trained in 55 minutes on one core of a server
that had other work to do, with pictures that OpenGL made of decimated meshes (--renderer opengl --visual decimated);
454 do with whole pictures (--policy.encoder.crop-size 128). A frozen encoder gives more in less time: preset
efficientnet. Where a camera does not move and what matters is small, read whole pictures: aloha-transfer-resnet.
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
