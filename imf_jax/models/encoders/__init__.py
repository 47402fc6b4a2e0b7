"""Vision encoders, and what converts their weights."""
