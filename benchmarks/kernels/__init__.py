"""What native and Triton kernels take, against PyTorch's, and how far they are off."""
