"""`python -m stantune` is the command `stantune`, of this very Python."""

from stantune.cli import main

if __name__ == "__main__":
    main()
