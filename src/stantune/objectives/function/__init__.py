"""A function of your own as an objective."""
