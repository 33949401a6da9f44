"""A search's directory keeps other searches out and is tidy after a kill."""

from __future__ import annotations

import pytest

from stantune.errors import StoreError
from stantune.search.directory import SearchDirectory


def test_half_written_files_of_a_killed_search_are_swept_and_whole_ones_kept(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    parts = [tmp_path / ".result.json.0a.part", checkpoints / ".trial-000001.pt.ff.part"]
    whole = [tmp_path / "final.pt", checkpoints / "trial-000001.pt", tmp_path / "notes.part"]
    for file in (*parts, *whole):
        file.write_bytes(b"x")
    with SearchDirectory(tmp_path).locked():
        assert not any(file.exists() for file in parts)
    assert all(file.exists() for file in whole)


def test_a_second_search_is_kept_out_and_sweeps_nothing(tmp_path):
    with SearchDirectory(tmp_path).locked():
        part = tmp_path / ".final.pt.0a.part"
        part.write_bytes(b"x")
        with pytest.raises(StoreError, match="another search is running"), SearchDirectory(tmp_path).locked():
            pass
        assert part.exists()
