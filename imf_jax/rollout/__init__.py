"""Closed loop of policy and simulator: the loop itself, the planners, the records and captures of its episodes."""
