"""The built-in networks, each in its module with the solver that its source gives it."""
