"""Command lines that turn trained PyTorch weights into files of imf_jax, without PyTorch and without running them."""
