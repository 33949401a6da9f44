"""The trial table."""
