"""What is written while others have their turns: it is there, or what hindered it is raised."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stantune.training.together.turns import drained
from stantune.training.together.writing import written


def test_it_gives_way_until_it_is_written(tmp_path: Path) -> None:
    may_write, file = threading.Event(), tmp_path / "file"

    def write() -> None:
        assert may_write.wait(20)
        file.write_text("all")

    turns = written(write)
    for _ in range(3):
        next(turns)
        assert not file.exists()
    may_write.set()
    drained(turns)
    assert file.read_text() == "all"


def test_what_hinders_it_is_raised() -> None:
    def write() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        drained(written(write))


def test_without_another_thread_it_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    file = tmp_path / "file"
    assert list(written(file.touch)) == []
    assert file.exists()


def test_one_is_written_after_the_other() -> None:
    writing, most = 0, 0

    def write() -> None:
        nonlocal writing, most
        writing += 1
        most = max(most, writing)
        threading.Event().wait(0.02)
        writing -= 1

    row = [written(write) for _ in range(4)]
    for turns in row:
        next(turns)
    for turns in row:
        drained(turns)
    assert most == 1


def test_where_turns_end_it_is_written_first(tmp_path: Path) -> None:
    began, file = threading.Event(), tmp_path / "file"

    def write() -> None:
        began.set()
        threading.Event().wait(0.05)
        file.write_text("all")

    turns = written(write)
    next(turns)
    assert began.wait(20)
    turns.close()
    assert file.read_text() == "all"
