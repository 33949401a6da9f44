"""Another thread of this process that trains, and has the turn until it is told to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stantune.process.alone import alone


@contextmanager
def elsewhere(begins: Callable[[], None] = lambda: None, ends: Callable[[], None] = lambda: None) -> Iterator[Callable]:
    """Have another thread train within, until what is given is called; it does these things as it begins and ends."""
    begun, end = threading.Event(), threading.Event()

    def train() -> None:
        with alone():
            begins()
            begun.set()
            end.wait(60)
            ends()

    thread = threading.Thread(target=train)
    thread.start()
    assert begun.wait(60), "it has no turn"
    try:
        yield end.set
    finally:
        end.set()
        thread.join()
