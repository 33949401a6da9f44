"""A command line as an objective."""
