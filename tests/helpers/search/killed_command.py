"""Runs `stantune search` in child processes that are killed, until one gets to the end: a script for test_kill.

Usage: killed_command.py LOG SEED START_UPS MOST ARGUMENT... [+ LOG SEED START_UPS MOST ARGUMENT...]...

LOG is the file to which the tiny problem appends a line for each iteration that it trains. The first START_UPS children
are killed as they start up, the first at once. Each later child is killed after a number of iterations that is drawn
for it: in that iteration or, of about every second where START_UPS is not 0, a little later, in what a search does
between two segments. MOST is the largest number of iterations; 0 kills none.

A little later is a number of calls of functions, not of milliseconds, and it is the child that sends itself SIGKILL. So
a search is always killed at the same places, however fast the machine is and whatever else it does. Prints a line for
each child: its process, and "killed" or "done". Searches divided by a plus come one after the other.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
from itertools import groupby
from pathlib import Path

from killing import kill_after

from stantune.cli import main
from stantune.protocols import Metric
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store
from stantune.space import Space

# Calls and returns: an iteration takes about 1 100, 14 000 to 28 000 lie between one segment and the next, and 440 000
# before the first iteration of all.
LATER = 20_000
START_UP = 400_000


def child(arguments: list[str], iterations: int | None, calls: int) -> int:
    """Start a child that runs the command, and return its process.

    It is killed after so many iterations and calls then; None for the iterations kills none, 0 at the start.
    """
    process = os.fork()
    if process == 0:
        # Apart from the parent's output, which the test reads.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["stantune", *arguments]
        signal.signal(signal.SIGUSR1, lambda _signal, _frame: kill_after(calls))
        os.environ["TINY_KILL_AT"] = str(iterations or "never")
        code = 1
        try:
            if iterations == 0:
                kill_after(calls)
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)
    return process


def run(log: Path, moments: random.Random, start_ups: int, most: int, arguments: list[str]) -> None:
    """Kill child after child, the first few as they start, until one is done before its moment; most = 0 kills none."""
    children = 0
    os.environ["TINY_LOG"] = str(log)
    while True:
        if not most:
            process = child(arguments, None, 0)
        elif children < start_ups:
            process = child(arguments, 0, START_UP * children // start_ups)
        else:
            iterations = moments.randint(1, most)
            later = start_ups and moments.random() < 0.5
            process = child(arguments, iterations, moments.randint(1, LATER) if later else 0)
        _, status = os.waitpid(process, 0)
        children += 1
        print(process, "killed" if os.WIFSIGNALED(status) else "done")
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                sys.exit(os.WEXITSTATUS(status))
            return


if __name__ == "__main__":
    # What a search imports, sooner or later, so that the children spend their lives on searching. There must be no
    # tensor work before a fork.
    for module in (
        "cli.training.search",
        "images.objective",
        "objectives.choose",
        "report.live",
        "report.text",
        "tuning.tune",
    ):
        importlib.import_module(f"stantune.{module}")
    importlib.import_module("torch._dynamo")
    searches = [list(group) for divided, group in groupby(sys.argv[1:], "+".__eq__) if not divided]
    Store.open(sqlite_url(Path(searches[0][0]).with_name("warm.db")), "warm", {}, Space({}), Metric("")).release()
    for log, seed, start_ups, most, *arguments in searches:
        run(Path(log), random.Random(int(seed)), int(start_ups), int(most), arguments)
