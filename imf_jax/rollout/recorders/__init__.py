"""Captures that can be attached to a rollout; none of them changes what happens in it."""
