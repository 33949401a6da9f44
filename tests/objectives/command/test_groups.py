"""A command whose guard is killed ends with it: nobody would end it, were its worker killed, too."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from stantune.objectives.command import groups

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups")


def test_a_command_whose_guard_is_killed_is_ended_and_fails(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"import os, time; open({str(told)!r}, 'w').write(f'{{os.getpid()}} {{os.getpgrp()}}'); time.sleep(600)"

    def kill_guard() -> None:
        while not (told.exists() and len(told.read_text().split()) == 2):
            time.sleep(0.01)
        # The leader of the command's group.
        os.kill(int(told.read_text().split()[1]), signal.SIGKILL)

    killing = threading.Thread(target=kill_guard)
    killing.start()
    with pytest.raises(groups.GuardError, match="ended with -9"):
        groups.run(
            [sys.executable, "-c", code],
            shell=False,
            cwd=tmp_path,
            env=dict(os.environ),
            output=groups.Output(tmp_path / "out", tmp_path / "err"),
            stop_early=lambda: False,
            heard=lambda line: None,
        )
    killing.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text().split()[0]), 0)
