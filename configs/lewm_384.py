"""Transfer from three cameras through the frozen LEWM encoder, large policy: 12 layers of 384, chunks of 16.

Demonstrations with pictures, then the encoder, converted from a PyTorch checkpoint:

    python scripts/collect.py --episodes 200 --cameras r_vis top front --out demos/transfer-images
    python converters/lewm.py --checkpoint lewm.ckpt --out encoders/lewm

The first run embeds all pictures once and keeps the features beside the demonstrations.
Success on unseen scenes: waits for a GPU, not run.
"""

from pathlib import Path

from imf_jax.config import AttnResConfig, LewmEncoderConfig, PolicyConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    data=Path("demos/transfer-images"),
    out=Path("runs/lewm-384"),
    max_steps=50_000,
    policy=PolicyConfig(head=AttnResConfig(n_emb=384, n_layer=12), encoder=LewmEncoderConfig()),
    validation=ValidationConfig(every=10_000, num_episodes=10),
)
