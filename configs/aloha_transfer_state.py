"""ALOHA transfer from joint states and the pose of the cube, no cameras.

Chunks by regression: the scripted expert has one answer and never waits. From 300 demonstrations three trainings
master 1,500 of 1,500 unseen scenes (at least 99.7 %), trained in three minutes on one core; from 50 demonstrations
481 of 500 (96.2 %, 95 % interval 94.1-97.6 %). Improved MeanFlow with the same network, 9,000 steps and two function
evaluations masters 485 (97.0 %, 95.1-98.2 %) from 50: add --policy.objective imf --policy.objective.time-distribution
uniform --policy.objective.prediction data --policy.sampling-steps 2 --max-steps 9000. docs/benchmarks/objectives.md
compares more.
"""

from pathlib import Path

from imf_jax.config import AttnResConfig, OptimizerConfig, PolicyConfig, RegressionConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    task="aloha-transfer",
    data=Path("demos/aloha-transfer"),
    out=Path("runs/aloha-transfer-state"),
    max_steps=3_000,
    batch_size=64,
    save_every=1_500,
    policy=PolicyConfig(
        head=AttnResConfig(n_emb=64, n_layer=4, n_head=4, n_kv_head=4),
        pred_horizon=16,
        num_action_steps=8,
        objective=RegressionConfig(),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, ema_decay=0.995),
    validation=ValidationConfig(every=1_500, num_episodes=40, num_images=5),
)
