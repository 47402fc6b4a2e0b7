"""Vision encoders, and the names of weights in PyTorch checkpoints."""
