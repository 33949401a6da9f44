"""The trial table and the directory that a search is kept in."""
