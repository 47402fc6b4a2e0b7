"""Evaluations from start to report: episodes, folders, resuming, statistics, comparison."""
