"""Runs a simulated search in child processes that are killed, until one gets to the end: a script for test_store_kill.

Usage: killed_search.py PATH SEED; prints how many were killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import optuna
import simulated

from stantune.search.hyperband import plan
from stantune.search.storage import sqlite_url
from stantune.search.store import Store

PLAN = plan(27, 1, 3)
OUTCOME = simulated.outcome(3)


def run(path: Path) -> None:
    """Run or go on with the search."""
    with Store.open(sqlite_url(path), "killed", simulated.IDENTITY, simulated.SPACE) as store:
        simulated.search(store, PLAN, OUTCOME)


def main() -> None:
    """Kill child after child, each a little later than the last one was on the average."""
    path, moments = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Imports the rest of what a search needs, so that the children spend their lives on writing.
    run(path.with_name("warm.db"))
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(path)
                code = 0
            finally:
                os._exit(code)
        time.sleep(moments.uniform(0.0, 0.1 + 0.02 * killed))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        elif os.waitstatus_to_exitcode(status) == 0:
            break
        else:
            sys.exit("a child failed")
    print(killed)


if __name__ == "__main__":
    main()
