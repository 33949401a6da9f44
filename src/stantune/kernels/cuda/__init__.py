"""Reduced convolutions on CUDA devices."""
