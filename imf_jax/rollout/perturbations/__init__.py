"""Perturbations of observations and actions, one per file; `imf_jax.config.perturbation` lists them."""
