"""Searches of any objective: as one call, or by ask and tell."""
