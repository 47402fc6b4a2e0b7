"""ALOHA insertion from joint states and the poses of peg and socket, no cameras.

From 50 demonstrations (8,000 steps): 356 of 500 unseen scenes succeed (71.2 %, 95 % interval 67.1-75.0 %; with one
function evaluation 242, 48.4 %). From 300: 368 of 500 (73.6 %, 69.6-77.3 %; with one 294, 58.8 %). Trained in 8 to 9
minutes on two CPU cores that had other work to do as well.
"""

from pathlib import Path

from imf_jax.config import HeadConfig, ObjectiveConfig, OptimizerConfig, PolicyConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    task="aloha-insertion",
    data=Path("demos/aloha-insertion"),
    out=Path("runs/aloha-insertion-state"),
    max_steps=9_000,
    batch_size=64,
    save_every=2_000,
    policy=PolicyConfig(
        head=HeadConfig(n_emb=64, n_layer=4, n_head=4, n_kv_head=4, pred_horizon=16, num_action_steps=8),
        objective=ObjectiveConfig(time_distribution="uniform", prediction="data"),
        sampling_steps=2,
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, ema_decay=0.995),
    validation=ValidationConfig(every=2_000, num_episodes=40, num_images=5),
)
