"""Writing while other trainings of the process have their turns."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait

# Seconds that a turn looks whether it is written: where all others wait, too, the thread that writes has the time.
LOOK = 0.001


def written(write: Callable[[], None]) -> Generator[None, None, None]:
    """Have `write` done by a thread, and give way until it is; raises what it raises. It is done, too, where this ends.

    What it writes must not change meanwhile.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="stantune writes") as thread:
        future = thread.submit(write)
        while not future.done():
            yield
            wait([future], LOOK)
        future.result()
