"""Closed-loop evaluation: the loop itself, what it records, and what it leaves on disk."""
