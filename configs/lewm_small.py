"""Transfer from three cameras through a LEWM encoder pre-trained here, on two CPU cores.

    python scripts/collect.py --cameras r_vis top front --image-size 128 --out demos/transfer-128
    python scripts/pretrain.py lewm-pretrain-small

The policy reads keypoints of the patch tokens. From 200 demonstrations 469 of 500 unseen scenes succeed (93.8 %, 95 %
interval 91.3-95.6 %). With the one embedding of all views (`--policy.encoder.features embedding`), after 4,000 steps,
78 of 200 do (39.0 %, 32.5-45.9 %): see docs/benchmarks/pixels.md. Trained in 15 minutes on two CPU cores that had
other work to do. An encoder that is not pre-trained (pretrain.py lewm-pretrain-small --max-steps 1) does as well for
patches, 485 of 500 (97.0 %, 95.1-98.2 %, from other demonstrations): pre-train for the embedding.
"""

from pathlib import Path

from imf_jax.config import (
    AttnResConfig,
    LewmEncoderConfig,
    OptimizerConfig,
    PolicyConfig,
    TrainConfig,
    ValidationConfig,
)

config = TrainConfig(
    data=Path("demos/transfer-128"),
    out=Path("runs/lewm-small"),
    max_steps=6_000,
    save_every=2_000,
    policy=PolicyConfig(
        head=AttnResConfig(n_emb=128, n_layer=4, n_head=4, n_kv_head=4),
        encoder=LewmEncoderConfig(weights=Path("runs/lewm-pretrain-small/encoder"), image_size=128, features="patches"),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, ema_decay=0.995),
    validation=ValidationConfig(every=2_000, num_episodes=20),
)
