"""Caffe's files, a network and its solver: read as a problem, and written as Python."""
