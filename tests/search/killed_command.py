"""Runs `stantune search` in child processes that are killed, until one gets to the end: a script for test_kill.

Usage: killed_command.py LOG SEED START_UPS MOST ARGUMENT... [+ LOG SEED START_UPS MOST ARGUMENT...]...

LOG is the file to which the tiny problem appends a line for each iteration that it trains. The first children are
killed as they start up: the first at once, each of the others a little later. Each later child stops itself after a
number of iterations that is drawn for it, and is killed there or, where some are killed as they start up, a little
later. So with START_UPS 0 a search is always killed at the same places. Prints a line for each child: its process, and
"killed" or "done". Searches divided by a plus come one after the other.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
from itertools import groupby
from pathlib import Path

from stantune.cli import main
from stantune.search.storage import sqlite_url
from stantune.search.store import Store
from stantune.space import Space


def child(arguments: list[str]) -> int:
    """Start a child that runs the command, and return its process."""
    process = os.fork()
    if process == 0:
        # Apart from the parent's output, which the test reads.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["stantune", *arguments]
        code = 1
        try:
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
        starting = most > 0 and children < start_ups
        os.environ["TINY_STOP_AT"] = "never" if starting or not most else str(moments.randint(1, most))
        process = child(arguments)
        if starting:
            time.sleep(0.1 * children)
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            if start_ups and moments.random() < 0.5:
                # Into the end of a segment, its checkpoint, its evaluation, its record: all take milliseconds.
                os.kill(process, signal.SIGCONT)
                time.sleep(moments.uniform(0.0, 0.02))
            os.kill(process, signal.SIGKILL)
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
    reports, parts = ("live", "summary", "text"), ("loop", "training", "workers")
    for module in ("cli.search", *(f"report.{name}" for name in reports), *(f"search.{name}" for name in parts)):
        importlib.import_module(f"stantune.{module}")
    importlib.import_module("torch._dynamo")
    searches = [list(group) for divided, group in groupby(sys.argv[1:], "+".__eq__) if not divided]
    Store.open(sqlite_url(Path(searches[0][0]).with_name("warm.db")), "warm", {}, Space({})).release()
    for log, seed, start_ups, most, *arguments in searches:
        run(Path(log), random.Random(int(seed)), int(start_ups), int(most), arguments)
