"""STAN: training with fewer computations; knows nothing of search, data sets or files."""
