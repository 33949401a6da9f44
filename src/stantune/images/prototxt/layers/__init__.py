"""Caffe's layers as PyTorch's modules."""
