"""Suites: many training runs and their evaluations, described in one file, run to the end and compared."""
