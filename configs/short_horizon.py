"""Transfer from three cameras with short chunks: 8 actions predicted, 4 executed before planning again.

Demonstrations and encoder as for the preset resnet. Validation keeps a picture of the executed path per episode.
Success on unseen scenes: waits for a GPU, not run.
"""

from pathlib import Path

from imf_jax.config import AttnResConfig, PolicyConfig, ResNetEncoderConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    data=Path("demos/transfer-images"),
    out=Path("runs/short-horizon"),
    max_steps=50_000,
    policy=PolicyConfig(
        head=AttnResConfig(n_emb=384, n_layer=12), pred_horizon=8, num_action_steps=4, encoder=ResNetEncoderConfig()
    ),
    validation=ValidationConfig(every=10_000, num_episodes=5, num_images=5),
)
