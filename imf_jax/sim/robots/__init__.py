"""Robots, a folder each: how one is added to a scene, and how its actions become servo targets."""

from imf_jax.sim.robots.base import BoundRobot, Robot, Visual

__all__ = ["BoundRobot", "Robot", "Visual"]
