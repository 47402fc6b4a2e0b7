"""Readers of files of weights, those of PyTorch and safetensors; nothing in them is executed."""
