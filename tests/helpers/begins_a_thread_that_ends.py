"""A module that begins a thread as it is imported, and ends it where the process is copied; as OpenBLAS does."""

import os
import threading

_end = threading.Event()
_thread = threading.Thread(target=_end.wait, daemon=True)
_thread.start()


def _before() -> None:
    _end.set()
    _thread.join()


os.register_at_fork(before=_before)
