"""What is done with a rollout: count it, record it, watch it for moments worth keeping, or correct it and learn."""
