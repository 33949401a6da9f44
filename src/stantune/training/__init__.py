"""One training: its moving parts, its loop, what it keeps, and what is planned and measured for it."""
