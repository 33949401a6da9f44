"""STAN in other libraries' training loops: one callback each; none of them is imported before its module is."""
