"""The folder of a study: what killed processes left there goes, and nothing else."""

from __future__ import annotations

from pathlib import Path

from stantune.compare.study.folder import locked
from stantune.files import whole
from stantune.search.table.directory import STUDY_RESULT


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
