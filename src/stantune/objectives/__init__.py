"""What can be searched besides built-in problems: your own function, and how anything at all becomes an objective."""
