"""Perturbations of scenes, one per file; `imf_jax.config.perturbation` lists them."""
