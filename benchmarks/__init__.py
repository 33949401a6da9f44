"""Scripts that print the figures of the docs, each run as a module from the repository's root; README.md lists them."""
