"""The folder of a study: what killed processes left there goes, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kept_locks import keep_locks

from stantune.compare.study.folder import locked
from stantune.files import whole
from stantune.search.directory.names import STUDY_RESULT


def test_what_a_killed_process_was_writing_is_swept(tmp_path: Path) -> None:
    result = tmp_path / STUDY_RESULT
    with whole(result) as file:
        [part] = tmp_path.glob(".*.part")
        file.write(b"{}")
    others = [tmp_path / ".backup.tar.part", tmp_path / f"{STUDY_RESULT}.part", tmp_path / ".part"]
    for left in (part, *others):
        left.write_bytes(b"half of it")
    with locked(tmp_path):
        assert not part.exists()
        assert all(other.exists() for other in others)
    assert result.read_bytes() == b"{}"


def test_another_thread_may_close_what_one_has_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_locks(monkeypatch, "stantune.compare.study.folder")
    for _ in range(2):
        opened = locked(tmp_path)
        with ThreadPoolExecutor(1) as one:
            one.submit(opened.__enter__).result(60)
        with ThreadPoolExecutor(1) as another:
            another.submit(opened.__exit__, None, None, None).result(60)
