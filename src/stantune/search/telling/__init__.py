"""What a search tells while it runs: to terminals, to log files, to loggers."""
