"""The end of a process by SIGKILL after so much work, for scripts that are killed at many moments."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def kill_after(calls: int) -> None:
    """Kill this process when so many functions were called or came back, at once for 0.

    Work, unlike milliseconds, is the same on each machine, whatever else that does.
    """
    left = calls

    def count(_frame: FrameType | None, _event: str, _argument: object) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)
