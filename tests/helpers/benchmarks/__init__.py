"""The scripts in benchmarks/ as tests and their worker processes import them.

The root of the repository is on no path of theirs: the tests' own modules would be found there, too.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[3] / "benchmarks")]
