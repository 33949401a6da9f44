"""Writing while other trainings of the process have their turns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

# Seconds that a turn looks whether it is written: where all others wait, too, the thread that writes has the time.
LOOK = 0.001
# What is written takes memory several times: trainings that end together write one after the other.
_TURN = threading.Lock()


def written(write: Callable[[], None]) -> Generator[None, None, None]:
    """Have `write` done by a thread, and give way until it is; raises what it raises.

    What it writes must not change meanwhile. Where this is closed or thrown into, it ends when `write` has, and what
    hindered that is not told: what was there before is there.
    """
    hindered: list[BaseException] = []

    def work() -> None:
        with _TURN:
            try:
                write()
            except BaseException as error:
                hindered.append(error)

    thread = threading.Thread(target=work, name="stantune writes")
    try:
        thread.start()
    except RuntimeError:  # there can be no more threads
        work()
    else:
        try:
            while thread.is_alive():
                yield
                thread.join(LOOK)
        finally:
            thread.join()
    if hindered:
        raise hindered[0]
