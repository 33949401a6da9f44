"""A command runs while its guard does: nobody would end it, were its guard and its worker killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stantune.errors import StantuneError
from stantune.objectives.command import groups

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups")


def run(words: list[str], folder: Path, stop_early: Callable[[], bool] = lambda: False) -> int | None:
    return groups.run(
        words,
        shell=False,
        cwd=folder,
        env=dict(os.environ),
        output=groups.Output(folder / "out", folder / "err"),
        stop_early=stop_early,
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


@pytest.mark.parametrize("code", [0, 3, 143, 130, 129, -signal.SIGTERM, -signal.SIGHUP])
def test_a_command_that_ends_with_the_search_is_interrupted(tmp_path: Path, code: int) -> None:
    ended = tmp_path / "ended"
    # A batch system's signal goes to it as well; it has ended by itself before anybody looks.
    how = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    words = [sys.executable, "-c", f"import os, sys; open({str(ended)!r}, 'w').close(); {how}"]
    asked, end = [], time.monotonic() + 60

    def stop_early() -> bool:
        # Not before the command is over, as the loop asks once more.
        while not ended.exists() and time.monotonic() < end:
            time.sleep(0.01)
        if not asked:
            time.sleep(0.5)
        asked.append(None)
        return len(asked) > 1

    assert run(words, tmp_path, stop_early) is None


@pytest.mark.parametrize(("code", "seconds"), [(143, 0.4), (-signal.SIGTERM, 0.4), (9, None), (0, None)])
def test_the_word_that_the_search_ends_may_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, seconds: float | None
) -> None:
    ended = tmp_path / "ended"
    how = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    words = [sys.executable, "-c", f"import os, sys; open({str(ended)!r}, 'w').close(); {how}"]

    def stop_early() -> bool:
        return seconds is not None and ended.exists() and time.time() > ended.stat().st_mtime + seconds

    # Other codes are not waited for: those of ordinary ends and failures.
    monkeypatch.setattr(groups, "WORD_SECONDS", 60)
    began = time.monotonic()
    assert run(words, tmp_path, stop_early) == (code if seconds is None else None)
    assert time.monotonic() - began < 45


def test_a_signal_that_is_for_the_command_alone_is_its_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "WORD_SECONDS", 0.1)
    assert run([sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"], tmp_path) == -signal.SIGTERM
