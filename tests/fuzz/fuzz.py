"""Tries inputs that nobody would think of: a script for test_fuzz, and for you.

Usage: fuzz.py KIND COUNT [FIRST]. KIND is options, fields, files, cells, journals or caffe; fuzz_KIND.py says what it
tries.
Input n of a kind is the same each time, whatever was tried before it: FIRST goes on where an earlier run ended, and
`fuzz.py KIND 1 N` tries input N alone. It prints what became of the inputs, the longest time that one took and the
memory that all took, and each fault: what raised anything but a sentence of ours, ended the process, took more than
10 s of the processor or two gigabytes, or was believed and should not be. It ends with an exit code other than 0 where
there were faults.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

SECONDS = 10
ADDRESS_SPACE = 2 << 30
# Takes the random numbers of one input; returns what it is, and what tries it: that returns "works" or "refused", and
# anything else that it returns or raises is a fault.
Make = Callable[[random.Random], tuple[str, Callable[[], str]]]


def main(kind: str, count: int, first: int) -> int:
    """Try so many inputs; return the exit code."""
    place = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
    print(f"{kind}: inputs {first} to {first + count - 1}, in {place}", flush=True)
    make: Make = importlib.import_module(f"fuzz_{kind}").prepare(place)
    os.chdir(place)
    warnings.simplefilter("ignore")
    results, slowest, slowest_number, faults = Counter[str](), 0.0, first, 0
    try_one(make, kind, -1)  # once for all that is imported late
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ADDRESS_SPACE, resource.RLIM_INFINITY))
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for number in range(first, first + count):
        # Time of this process alone, however busy the machine is; and a long one, for whatever waits.
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS + 1, resource.RLIM_INFINITY))
        faulthandler.dump_traceback_later(10 * SECONDS, exit=True)
        start = time.process_time()
        what, result = try_one(make, kind, number)
        faulthandler.cancel_dump_traceback_later()
        took = time.process_time() - start
        if took > slowest:
            slowest, slowest_number = took, number
        results[result if result in ("works", "refused") else "fault"] += 1
        if result not in ("works", "refused"):
            faults += 1
            print(f"fault in input {number} ({what[:300]}): {result}", flush=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) >> 10
    print(
        f"{kind}: {count} inputs, {results['works']} work, {results['refused']} are refused, {faults} faults; slowest "
        f"{slowest:.2f} s (input {slowest_number}); memory grew by {grown} MiB; {time.monotonic() - began:.0f} s in all"
    )
    return min(faults, 1)


def try_one(make: Make, kind: str, number: int) -> tuple[str, str]:
    """Return what an input is, and what became of it."""
    what, tries = make(random.Random(f"{kind} {number}"))
    current[:] = [number, what]
    try:
        result = tries()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        result = f"{type(error).__name__}: {''.join(traceback.format_exception(error, limit=-4))[-1500:]}"
    return what, result


current: list[object] = []

if __name__ == "__main__":
    faulthandler.enable()
    signal.signal(signal.SIGXCPU, lambda *_: os.write(2, f"more than {SECONDS} s: {current}\n".encode()) and os.abort())
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0))
