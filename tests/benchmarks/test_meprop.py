"""benchmarks/trainings/meprop.py: what is trained once, how records are gone on with, and the table of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.trainings import meprop


def test_plain_training_is_once_in_each_setting_and_ours_ends_where_its_space_does() -> None:
    assert meprop.cells(["authors", "ours"], ["per-example", "unified"], [0, 160]) == [
        ("authors", "plain", 0),
        ("ours", "plain", 0),
        ("authors", "per-example", 160),
        ("authors", "unified", 160),
    ]


def test_trainings_go_on_where_they_were_and_the_table_is_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, trained = tmp_path / "kept.jsonl", []

    def train(key: tuple[str, str, int, int]) -> dict[str, float]:
        trained.append(key)
        return {"last": 2.0 + key[2] / 100 + key[3], "best": 1.0, "best_at": 9, "development": 1.0, "seconds": 1.0}

    monkeypatch.setattr(meprop, "trained", train)
    cells = [("ours", "plain", 0), ("ours", "unified", 10)]
    meprop.train(file, cells, [0])
    with file.open("a") as lines:
        lines.write('{"setting": "ours", "form')  # it was killed here
    meprop.train(file, cells, [0, 1])
    assert trained == [(*cell, seed) for seed in (0, 1) for cell in cells]
    meprop.records_in(file).add(meprop.Record("ours", "unified", 10, -1, {"backward_gain": 3.0, "step_gain": 1.5}))
    capsys.readouterr()
    meprop.print_table(file)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()][2:]
    assert rows[0][:4] == ["ours", "plain", "", "2"]
    # 2 and 3; 2.1 and 3.1; in pairs 0.1 and 0.1.
    assert rows[0][4] == "2.50 ± 0.50"
    assert rows[1] == [
        "ours", "unified", "10", "2", "2.60 ± 0.50", "1.00 ± 0.00", "+0.10 ± 0.00", "+0.00 ± 0.00", "3.00", "1.50",
    ]  # fmt: skip
