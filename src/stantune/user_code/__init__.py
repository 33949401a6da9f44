"""User's code: found, read, and told apart by what it does."""
