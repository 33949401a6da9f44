"""The directory that a search is kept in: its lock, the names of its files, and what is noted of it there."""
