"""A search's table for those who only look at it."""
