"""The layers that STAN puts in place of PyTorch's."""
