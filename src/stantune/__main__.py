"""`python -m stantune` is the command `stantune`, of this very Python."""

import os
import sys

import stantune

# `-m` puts the working folder first: whatever is called like a module there would be run in its place, here and in
# workers. It stays where this package is found in it.
_here = os.getcwd()
if not sys.flags.safe_path and sys.path[:1] == [_here] and _here != os.path.dirname(stantune.__path__[0]):
    del sys.path[0]

if __name__ == "__main__":
    from stantune.cli import main

    main()
