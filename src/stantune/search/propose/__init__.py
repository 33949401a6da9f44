"""Which settings a search tries."""
