"""The built-in objective: classification of images by networks, data and solvers that are plain values."""
