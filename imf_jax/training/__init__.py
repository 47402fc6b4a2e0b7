"""Training: optimizer, compiled steps, checkpoints, metrics and rollout validation."""
