"""What STAN brings in a model: the speed-up equation, and times on this machine."""
