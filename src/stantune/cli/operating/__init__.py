"""Commands that look at searches in their directories, and act on them."""
