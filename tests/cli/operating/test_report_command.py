"""`stantune report`: writes the page of searches; what is wrong is one sentence."""

from __future__ import annotations

import shutil
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Stantune = Callable[..., Any]
DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_in_the_directory_or_where_it_is_asked_for(
    stantune: Stantune, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    file = tmp_path / "page.html"
    ran = stantune("report", whole.directory, whole.directory, "--out", file, "--open")
    assert (ran.code, ran.out, ran.err) == (0, f"the report is in {file}\n", "")
    assert opened == [file.as_uri()]
    assert "<h1>2 searches</h1>" in file.read_text(encoding="utf-8")
    ran = stantune("report", whole.directory)
    assert (ran.code, ran.out) == (0, f"the report is in {whole.directory / 'report.html'}\n")
    # The time and the words of the summary.
    assert "validation error" in (whole.directory / "report.html").read_text(encoding="utf-8")


def test_what_is_wrong_is_one_sentence(stantune: Stantune, whole: Any, tmp_path: Path) -> None:
    ran = stantune("report", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"stantune: there is no search in {tmp_path}; give the directory of one, as --out named it\n"
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    ran = stantune("report", whole.directory, "--out", mine)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"stantune: {mine} is there, and it is no report; name another file with --out, or move it away\n"
    assert mine.read_text() == "mine"


def test_a_study_is_shown_without_the_folders_that_are_gone(stantune: Stantune, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(DOCS / "study" / "lenet-tenth", study)
    *gone, left = sorted(path for path in study.iterdir() if path.is_dir())
    for folder in gone:
        shutil.rmtree(folder)
    ran = stantune("report", study)
    assert (ran.code, ran.out) == (0, f"the report is in {study / 'report.html'}\n")
    page = (study / "report.html").read_text(encoding="utf-8")
    assert str(left) in page
    assert not any(str(folder) in page for folder in gone)
    assert 'id="study"' in page
    shutil.rmtree(left)
    ran = stantune("report", study)
    assert ran.code == 2
    assert ran.err == (
        f"stantune: there is nothing to show of the study in {study}: the folders of its searches are gone\n"
    )


def test_no_search_begins_in_the_folder_of_a_study(stantune: Stantune, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(DOCS / "study" / "lenet-tenth", study)
    before = sorted(study.iterdir())
    ran = stantune("search", "lenet", "--quick", "--out", study)
    assert ran.code == 2
    assert ran.err == (
        f"stantune: {study} is the folder of a study, which has a folder for each of its searches; choose another "
        "directory with --out\n"
    )
    assert [path for path in sorted(study.iterdir()) if path.name != ".lock"] == before
    ran = stantune("status", study, "--json", study / "study.json")
    assert ran.code == 2
    assert (
        ran.err == f"stantune: --json {study / 'study.json'} is a file of what was searched in {study}; name another\n"
    )
