"""Scenes, tasks, control and the backends that simulate them."""

from imf_jax.sim.headless import import_mujoco

mujoco = import_mujoco()
