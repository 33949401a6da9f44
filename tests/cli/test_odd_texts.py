"""Texts that JSON and databases have not: in what a network raises, in names, in paths."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage

from stantune.search.table.storages.opening import connect, release, sqlite_url

Stantune = Callable[..., Any]
ODD = """

class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no")

class Nets(nn.Sequential):
    made = 0
    def forward(self, x):
        if self.training:
            Nets.made += 1
            if Nets.made in RAISED:
                raise RAISED[Nets.made]
        return super().forward(x)

RAISED = {2: RuntimeError("bad \\udcff \\0 \\x1b[31mname"), 9: Odd(), 20: RuntimeError("x" * 10**7)}

import dataclasses
problem = dataclasses.replace(problem, network=lambda: Nets(*network()))
named = dataclasses.replace(problem, name="a\\udcffb")
ended = dataclasses.replace(problem, name="a\\0b")
"""
SEARCH = ("--max-iterations", 6, "--min-iterations", 2, "--threads", 1, "--retries", 0)


@pytest.fixture
def odd_file(tiny_file: Path, tmp_path: Path) -> Path:
    """The tiny problem, with failures of which one cannot be written and another cannot be told."""
    file = tmp_path / "odd.py"
    file.write_text(tiny_file.read_text() + ODD)
    return file


def test_whatever_a_network_raises_is_kept_and_shown(stantune: Stantune, odd_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("search", f"{odd_file}:problem", *SEARCH, "--out", out)
    run = stantune(*command, "--json", "-")
    assert run.code == 3, run.err
    causes = [failure["cause"] for failure in run.json["failures"]]
    assert causes[0].startswith("RuntimeError: bad \\udcff \\x00 \\x1b[31mname (odd.py:")
    assert causes[1].startswith("Odd: ")
    assert causes[2].startswith("RuntimeError: xxx")
    assert len(causes[2]) < 300
    assert json.loads((out / "result.json").read_text()) == run.json
    assert stantune(*command, "--json", "-").json == run.json, "the same is read from the table"


def test_a_table_of_before_can_be_read(stantune: Stantune, odd_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("search", f"{odd_file}:problem", *SEARCH, "--out", out, "--json", "-")
    first = stantune(*command).json["failures"][0]
    storage, _ = connect(sqlite_url(out / "search.db"))
    study = storage.get_all_studies()[0]._study_id
    trial = storage.get_trial_id_from_study_id_trial_number(study, first["trial"])
    assert isinstance(storage, RDBStorage)
    raw = json.dumps([[first["iterations"], "bad \udcff name"]])
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(
            "update trial_user_attributes set value_json = ? where trial_id = ? and key = 'stantune:failures'",
            (raw, trial),
        )
    release(storage)
    assert stantune(*command).json["failures"][0]["cause"] == "bad \\udcff name"


@pytest.mark.parametrize(("name", "shown"), [("named", "'a\\udcffb'"), ("ended", "'a\\x00b'")])
def test_a_name_that_nothing_can_hold_is_refused(stantune: Stantune, odd_file: Path, name: str, shown: str) -> None:
    run = stantune("brackets", f"{odd_file}:{name}")
    assert (run.code, run.out) == (2, "")
    assert run.err == f"stantune: the name {shown} holds a character that is none in UTF-8, or NUL; leave it out\n"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--out", "{}/\udcff", "name that is no text in UTF-8"), ("--storage", "sqlite:///\udcff.db", "no storage URL")],
)
def test_a_place_that_nothing_can_hold_is_refused(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, option: str, value: str, said: str
) -> None:
    run = stantune("search", f"{tiny_file}:problem", "--out", tmp_path / "out", option, value.format(tmp_path))
    assert (run.code, run.out) == (2, "")
    assert said in run.err
    assert "\\udcff" in run.err


def test_other_files_may_have_any_name(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"\xff")
    command = ("train", f"{tiny_file}:problem", "--iterations", 2, "--threads", 1)
    run = stantune(*command, "--checkpoint", f"{name}.pt", "--json", f"{name}.json")
    assert run.code == 0, run.err
    assert json.loads(Path(f"{name}.json").read_text())["iterations"] == 2
