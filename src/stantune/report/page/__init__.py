"""The report of searches as one page for a browser: its numbers, then its pictures, then its text."""
