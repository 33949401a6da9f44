"""Whole comparisons of exact training with STAN's."""
