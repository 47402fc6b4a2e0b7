"""Scripted experts, one file a task."""
