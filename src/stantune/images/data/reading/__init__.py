"""Data as they lie in files and in other libraries, read into memory."""
