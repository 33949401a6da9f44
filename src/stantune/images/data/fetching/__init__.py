"""How built-in data sets come to this machine."""
