"""HTML report of an evaluation, and comparisons of evaluations."""
