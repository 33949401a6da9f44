"""Copies of a process know whether that one had other threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="told by Linux's /proc")

SAY = """
import os, sys, threading
{before}
def copy(say):
    if not (child := os.fork()):
        say()
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def say():
    from stantune.process.forked import forked
    print(forked())

say() if "import" in {before!r} else print(False)
copy(say)
copy(lambda: copy(say))
end = threading.Event()
threading.Thread(target=end.wait).start()
copy(say)
copy(lambda: copy(say))
end.set()
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("import stantune.process.forked", "False False False True True"),
        # What forked it is not known then.
        ("", "False True True True True"),
    ],
)
def test_of_copies(before: str, said: str) -> None:
    script = SAY.format(before=before)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == said.split(), done.stderr
