"""A Lightning module as an objective."""
