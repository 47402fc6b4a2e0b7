"""Transfer from three cameras, a ResNet-18 with spatial softmax per camera, trained with the policy.

    python scripts/collect.py --episodes 200 --cameras r_vis top front --out demos/transfer-images

All pictures are kept in main memory: 590 kB a step at 256 pixels, so about 18 GB for 200 demonstrations.
Success on unseen scenes: waits for a GPU, not run.
"""

from pathlib import Path

from imf_jax.config import PolicyConfig, ResNetEncoderConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    data=Path("demos/transfer-images"),
    out=Path("runs/resnet"),
    max_steps=50_000,
    policy=PolicyConfig(encoder=ResNetEncoderConfig()),
    validation=ValidationConfig(every=10_000, num_episodes=10),
)
