"""The storages that a trial table is kept in, and what they do when something is wrong."""
