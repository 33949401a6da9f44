"""Two trainings of one segment, the first one lost from sight and still at work, leave one another's files alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import ExitStack

import pytest
from command_training import SPACE, TRAIN, segment
from segments import trained

from stantune.objectives.command.objective import CommandObjective
from stantune.objectives.command.own_folder import IN_USE, STATE, own_folder


def test_a_lost_training_and_the_one_in_its_place_are_in_folders_of_their_own(tmp_path, monkeypatch):
    lost, again = ExitStack(), ExitStack()
    first = lost.enter_context(own_folder(tmp_path))
    (first / STATE).mkdir()
    (first / STATE / "first").touch()
    monkeypatch.setattr(platform, "node", lambda: "another")
    second = again.enter_context(own_folder(tmp_path))
    assert [path.name for path in (first / STATE).iterdir()] == ["first"]
    (second / STATE).mkdir()
    (second / STATE / "second").touch()
    lost.close()
    assert [path.name for path in (second / STATE).iterdir()] == ["second"]
    again.close()
    assert not tmp_path.joinpath("attempt-2").exists()


def test_what_another_node_left_stays_and_is_not_used(tmp_path, script):
    objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
    folder = tmp_path / "kept" / "trial-7"
    (folder / STATE).mkdir(parents=True)
    (folder / STATE / "half").touch()
    (folder / IN_USE).write_text(f"{os.getpid()} another")
    trained(objective, segment(tmp_path, 0, 2))
    trained(objective, segment(tmp_path, 2, 4))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["attempt-2/stderr.log", "attempt-2/stdout.log", IN_USE, f"{STATE}/half"]
    assert f"{folder}/attempt-2/{STATE} 2 4 0.1" in (folder / "attempt-2" / "stdout.log").read_text()


@pytest.mark.parametrize("left", ["", "x", "{mine} {node}", "{dead} {node}", "1" + 40 * "0" + " {node}", None])
def test_a_folder_of_who_is_gone_is_used_again(tmp_path, left):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    if left is not None:
        (tmp_path / IN_USE).write_text(left.format(mine=os.getpid(), dead=gone.pid, node=platform.node()))
    (tmp_path / STATE).mkdir()
    (tmp_path / "log").touch()
    with own_folder(tmp_path) as own:
        assert own == tmp_path
        assert not (own / STATE).exists()
        assert (own / IN_USE).read_text() == f"{os.getpid()} {platform.node()}"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_folder_of_who_is_alive_is_left_alone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        (tmp_path / IN_USE).write_text(f"{alive.pid} {platform.node()}")
        with own_folder(tmp_path) as own:
            assert own == tmp_path / "attempt-2"
    with own_folder(tmp_path) as own:
        assert own == tmp_path
    assert not tmp_path.exists()
