"""Packages of the wheel, the presets of `configs/` among them; all else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["imf_jax", "imf_jax.*"]), "imf_jax.configs", "imf_jax.configs.pretrain"],
    package_dir={"imf_jax.configs": "configs"},
)
