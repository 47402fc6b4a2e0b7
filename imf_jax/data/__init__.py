"""Demonstrations: files, statistics, and the windows a policy is trained on."""
