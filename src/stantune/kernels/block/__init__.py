"""A convolution, the fill of its entries, ReLU and pooling as one operation: by native code, or plainly."""
