"""The entries of a layer's output: which are computed, how, and how the others are filled."""
