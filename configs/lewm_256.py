"""Transfer from three cameras through the frozen LEWM encoder, smaller policy: 12 layers of 256, chunks of 16.

Demonstrations and encoder as for lewm-384, and the cached features of one serve the other.
Success on unseen scenes: waits for a GPU, not run.
"""

from pathlib import Path

from imf_jax.config import AttnResConfig, LewmEncoderConfig, PolicyConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    data=Path("demos/transfer-images"),
    out=Path("runs/lewm-256"),
    max_steps=50_000,
    policy=PolicyConfig(head=AttnResConfig(n_emb=256, n_layer=12), encoder=LewmEncoderConfig()),
    validation=ValidationConfig(every=10_000, num_episodes=10),
)
