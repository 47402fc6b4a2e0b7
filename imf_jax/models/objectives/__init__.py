"""Training objectives and their samplers."""
