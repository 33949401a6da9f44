"""Whether a search ends the same however often its processes are killed."""
