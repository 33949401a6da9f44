"""Other programs that keep cores busy are noticed, and told where threads would wait for one another beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import stantune as st
from stantune.process import crowding as ours
from stantune.process.crowding import WAITING, busy_beside, crowding


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ours, "usable_cores", lambda: 4)
    monkeypatch.setattr(ours, "_limited", lambda: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


@pytest.mark.parametrize(
    ("threads", "processes", "others", "said"),
    [
        (4, 1, 1, True),
        (3, 1, 1, False),
        (2, 2, 1, True),
        (1, 4, 4, False),
        (8, 1, 0, False),
        (8, 1, -1, False),
        (4, 1, None, False),
    ],
)
def test_it_is_told_where_there_is_no_room_for_all(
    threads: int, processes: int, others: int | None, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "busy_beside", lambda: others)
    sentence = crowding(threads, processes)
    assert bool(sentence) is said
    if said:
        assert f"keep {others} of 4 cores busy" in sentence
        assert f"{threads} threads" in sentence


def test_nothing_is_told_of_some_of_the_cores_or_to_who_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "busy_beside", lambda: 4)
    assert crowding(4)
    with monkeypatch.context() as patch:
        patch.setattr(ours, "usable_cores", lambda: 2)
        assert not crowding(4)
    with monkeypatch.context() as patch:
        patch.setattr(ours, "_limited", lambda: True)
        assert not crowding(4)
    for name in WAITING:
        with monkeypatch.context() as patch:
            patch.setenv(name, "passive")
            assert not crowding(4)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_busy_program_is_noticed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as busy:
        try:
            assert busy.stdout is not None
            busy.stdout.readline()
            found = busy_beside()
        finally:
            busy.kill()
    assert found is not None
    assert found >= 1


def test_a_search_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "busy_beside", lambda: 3)
    said: list[str] = []
    space = st.Space({"x": st.Float(0, 1)})
    for threads in (1, 2):
        st.tune(
            lambda run: run.params["x"],
            space,
            minimize="x",
            max_resource=2,
            threads=threads,
            out=tmp_path / str(threads),
            say=said.append,
        )
        assert any("cores busy" in line for line in said) is (threads == 2)
