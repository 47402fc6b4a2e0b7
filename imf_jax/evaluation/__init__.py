"""Evaluations from start to report: which episodes, what is kept, what the figures say."""
