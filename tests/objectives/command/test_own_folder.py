"""Two trainings of one segment, the first one lost from sight and still at work, leave one another's files alone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from command_training import SPACE, TRAIN, segment
from segments import trained

from stantune.objectives.command import own_folder as module
from stantune.objectives.command.objective import CommandObjective
from stantune.objectives.command.own_folder import IN_USE, STATE, own_folder


def beside(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that is at work in a folder until it is killed or told to end; wait until it is."""
    code = """
        import sys
        from pathlib import Path
        from stantune.objectives.command.own_folder import own_folder
        with own_folder(Path(sys.argv[1])) as own:
            (own / "state").mkdir()
            (own / "state" / "first").touch()
            print(own, flush=True)
            sys.stdin.read()
    """
    line = [sys.executable, "-c", textwrap.dedent(code), str(folder)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_a_lost_training_and_the_one_in_its_place_are_in_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.1)
    with beside(tmp_path / "trial") as lost, ExitStack() as again:
        second = again.enter_context(own_folder(tmp_path / "trial"))
        assert second == tmp_path / "trial" / "attempt-2"
        assert [path.name for path in (tmp_path / "trial" / STATE).iterdir()] == ["first"]
        (second / STATE).mkdir()
        (second / STATE / "second").touch()
        lost.communicate()
        assert [path.name for path in (second / STATE).iterdir()] == ["second"]
    with own_folder(tmp_path / "trial") as own:
        assert own == tmp_path / "trial"
    assert not own.exists()


def test_a_folder_that_its_last_holder_deletes_meanwhile_is_made_again(tmp_path, monkeypatch):
    usual, gone = os.open, []

    def late(path, *arguments, **more):
        if not gone:
            gone.append(path)
            (tmp_path / "trial").rmdir()
        return usual(path, *arguments, **more)

    monkeypatch.setattr(module.os, "open", late)
    with own_folder(tmp_path / "trial") as own:
        assert own == tmp_path / "trial"
        assert own.exists()
    assert gone == [tmp_path / "trial" / IN_USE]


def test_one_that_was_killed_leaves_its_folder_to_the_next(tmp_path):
    with beside(tmp_path / "trial") as killed:
        # As the worker of a search that was killed does: it ends while the next one begins.
        threading.Thread(target=lambda: (time.sleep(0.3), killed.kill())).start()
        with own_folder(tmp_path / "trial") as own:
            assert own == tmp_path / "trial"
            assert not (own / STATE).exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["", "12 a node", None])
def test_what_nobody_has_locked_is_used_again(tmp_path, script, left):
    objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
    folder = tmp_path / "kept" / "trial-7"
    (folder / STATE).mkdir(parents=True)
    (folder / STATE / "half").touch()
    if left is not None:
        (folder / IN_USE).write_text(left)
    trained(objective, segment(tmp_path, 0, 2))
    trained(objective, segment(tmp_path, 2, 4))
    assert sorted(path.name for path in folder.rglob("*")) == ["stderr.log", "stdout.log"]


def test_a_file_in_the_place_of_a_folder_is_said_at_once(tmp_path):
    (tmp_path / "trial").touch()
    began = time.monotonic()
    with pytest.raises(FileExistsError), own_folder(tmp_path / "trial"):
        pass
    assert time.monotonic() - began < module.PATIENCE_SECONDS / 2
