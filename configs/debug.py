"""See a training run through, in seconds on two cores.

The policy is far too small to learn anything. 20 steps, checkpoints at 10 and 20, no validation.
"""

from pathlib import Path

from imf_jax.config import AttnResConfig, OptimizerConfig, PolicyConfig, TrainConfig, ValidationConfig

config = TrainConfig(
    out=Path("runs/debug"),
    max_steps=20,
    batch_size=8,
    save_every=10,
    log_every=5,
    policy=PolicyConfig(head=AttnResConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=2)),
    optimizer=OptimizerConfig(warmup_steps=5, decay_steps=20, ema_decay=0.9),
    validation=ValidationConfig(num_episodes=0),
)
