"""ALOHA insertion from joint states and the poses of peg and socket, no cameras.

FIGURES
"""

from pathlib import Path

from imf_jax.config import HeadConfig, ObjectiveConfig, OptimizerConfig, PolicyConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    task="aloha-insertion",
    data=Path("demos/aloha-insertion"),
    out=Path("runs/aloha-insertion-state"),
    max_steps=10_000,
    batch_size=64,
    save_every=2_000,
    policy=PolicyConfig(
        head=HeadConfig(n_emb=64, n_layer=4, n_head=4, n_kv_head=4, pred_horizon=16, num_action_steps=8),
        objective=ObjectiveConfig(time_distribution="uniform", prediction="data"),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, ema_decay=0.995),
    validation=ValidationConfig(every=2_000, num_episodes=40, num_images=5),
)
