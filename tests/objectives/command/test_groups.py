"""A command runs while its guard does: nobody would end it, were its guard and its worker killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stantune.errors import StantuneError
from stantune.objectives.command import groups

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups")


def run(words: list[str], folder: Path) -> int | None:
    return groups.run(
        words,
        shell=False,
        cwd=folder,
        env=dict(os.environ),
        output=groups.Output(folder / "out", folder / "err"),
        stop_early=lambda: False,
        heard=lambda line: None,
    )


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
        run([sys.executable, "-c", code], tmp_path)
    killing.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text().split()[0]), 0)


def test_a_guard_that_is_killed_before_it_leads_a_group_is_no_fault_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def killed() -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(["/bin/sh", "-c", "read -r line"], stdin=subprocess.PIPE) as guard:
            guard.kill()
            # Ended, and not waited for, as it is between its start and the command's.
            os.waitid(os.P_PID, guard.pid, os.WEXITED | os.WNOWAIT)
            yield guard

    told = tmp_path / "told"
    monkeypatch.setattr(groups, "guarded_group", killed)
    with pytest.raises(groups.GuardError, match="ended with -9"):
        run([sys.executable, "-c", f"open({str(told)!r}, 'w')"], tmp_path)
    assert not told.exists()


def test_a_command_that_may_not_be_run_is_said_to_be(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(StantuneError, match=r"cannot be started in .* \(Permission denied\)"):
        run([str(program)], tmp_path)
