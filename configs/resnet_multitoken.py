"""Transfer from three cameras as in the preset resnet, with a condition token per camera: three per observation.

Success on unseen scenes: waits for a GPU, not run.
"""

from pathlib import Path

from imf_jax.config import PolicyConfig, ResNetEncoderConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    data=Path("demos/transfer-images"),
    out=Path("runs/resnet-multitoken"),
    max_steps=50_000,
    policy=PolicyConfig(encoder=ResNetEncoderConfig(token_per_camera=True)),
    validation=ValidationConfig(every=10_000, num_episodes=10),
)
