"""Runs a simulated search in child processes that are killed, until one gets to the end: a script for test_store_kill.

Usage: killed_search.py PATH SEED; prints how many were killed. One child is killed after a number of calls of functions
that is drawn for it, the next after some milliseconds, which may end in the middle of a write.
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
from killing import kill_after

from stantune.search.plan.hyperband import plan
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store

PLAN = plan(27, 1, 3)
OUTCOME = simulated.outcome(3)
# The most until a child is killed.
CALLS, SECONDS = 300_000, 0.005


def run(path: Path) -> None:
    """Run or go on with the search."""
    with Store.open(sqlite_url(path), "killed", simulated.IDENTITY, simulated.SPACE, simulated.METRIC) as store:
        simulated.search(store, PLAN, OUTCOME)


def main() -> None:
    """Kill child after child until one is done."""
    path, moments = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Imports the rest of what a search needs, so that the children spend their lives on writing.
    run(path.with_name("warm.db"))
    killed = 0
    while True:
        by_calls, calls = killed % 2 == 0, moments.randint(0, CALLS)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if by_calls:
                    kill_after(calls)
                run(path)
                code = 0
            finally:
                os._exit(code)
        if not by_calls:
            time.sleep(moments.uniform(0.0, SECONDS))
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
