"""The report's page as a file: nothing in it is taken for HTML or loaded, and what it says in words of any searches."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from read_page import ODD, SPACE, numbers_in, parsed, train

import stantune as st
from stantune.errors import StantuneError, UsageError
from stantune.protocols import Metric
from stantune.report.page import importance
from stantune.report.page.contract import ReportNumbers
from stantune.report.page.page import MARK, _plotly, page
from stantune.report.page.sections.sentences import sentences
from stantune.report.page.writing import write_report
from stantune.search.directory.directory import SearchDirectory
from stantune.search.table.store import Store


def test_what_users_named_is_text(text: str) -> None:
    page_ = parsed(text)
    # Those of the page itself.
    assert page_.tags.count("script") == 4
    assert "b" not in page_.tags
    shown = "".join(page_.shown)
    assert ODD in shown
    assert f"no data {ODD}" in shown
    for picture in json.loads(page_.texts["pictures"]):
        # Plotly takes tags for its own everywhere but at the marks of parallel axes.
        assert picture["data"][0]["type"] == "parcoords" or "<b>" not in json.dumps(picture)


def test_nothing_is_loaded_from_elsewhere(text: str) -> None:
    page_ = parsed(text)
    assert {address for address in page_.addresses if not address.startswith("#")} == {"data:,"}
    assert "default-src 'none'" in text
    assert "url(" not in text.partition("</style>")[0]
    assert len(text) < 2_500_000


def test_words_say_what_was_found(result: st.SearchResult, text: str) -> None:
    [search] = ReportNumbers.model_validate(numbers_in(text)).searches
    words = " ".join(sentences(search))
    best, final = result.best, result.final
    assert best is not None
    assert final is not None
    assert f"The best is trial {best.number}, with cost {best.value:.4g}" in words
    assert f"came to cost {final.value:.4g}" in words
    assert "for the lowest cost" in words
    assert re.search(r"Stopping early saved about .*, \d+% against training every trial to the end", words)


def begun(path: Path, metric: Metric) -> tuple[SearchDirectory, dict[str, Any]]:
    identity = {
        "problem": "mine",
        "unit": "epoch",
        "seed": 0,
        "max-iterations": 9,
        "min-iterations": 3,
        "eta": 3,
        "brackets": "all",
        "variant": "algorithm1",
        "sampler": "a sampler of mine",
        "threads": 1,
        "device": "cpu",
    }
    return SearchDirectory(path), identity


def test_a_search_that_runs_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    space, metric = st.Space({"lr": st.Float(0.1, 10.0)}), Metric("score", "maximize")
    directory, identity = begun(tmp_path / "search", metric)
    with directory.locked(), Store.open(directory.url, directory.study, identity, space, metric) as store:
        directory.note_storage()
        [search] = numbers_in(write_report([directory.path], tmp_path / "none.html").read_text())["searches"]
        assert search["trials"]["status"] == []
        for number in range(3):
            store.create(number, {"lr": 0.5 + number}, 1)
        store.record(0, 3, {"score": 0.75})
        text = write_report([directory.path], tmp_path / "some.html").read_text()
        [search] = numbers_in(text)["searches"]
        assert search["state"] == "running"
        assert search["trials"]["value"] == [0.75, None, None]
        assert search["flow"][0]["open"] == 3
        assert "It is running: of at most" in text
        assert "by a sampler of mine" in text
    text = write_report([directory.path], tmp_path / "some.html").read_text()
    assert "It was interrupted, and the same call goes on" in text


def test_several_searches_are_side_by_side(result: st.SearchResult, tmp_path: Path) -> None:
    other = st.tune(train, SPACE, minimize="cost", max_resource=3, seed=1, retries=0, out=tmp_path / "other")
    text = write_report([result.path, other.path], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "<h1>2 searches</h1>" in text
    assert [search["name"] for search in numbers_in(text)["searches"]] == ["a & b", "other"]
    assert "1. a &amp; b" in text
    assert len(json.loads(parsed(text).texts["pictures"])[0]["data"]) == 2


def test_a_file_that_is_no_report_is_left_alone(result: st.SearchResult, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(UsageError, match=r"mine.html is there, and it is no report; name another file with `out`"):
        result.report(mine)
    assert mine.read_text() == "<p>mine</p>"
    file = result.report(tmp_path / "page.html")
    assert MARK in file.read_text(encoding="utf-8")
    assert result.report(file) == file


def test_a_folder_that_is_not_there_is_named(result: st.SearchResult, tmp_path: Path) -> None:
    with pytest.raises(StantuneError, match=r"the report cannot be written to .*nowhere/page.html \(No such file"):
        result.report(tmp_path / "nowhere" / "page.html")


def test_without_plotly_the_install_line_is_said(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    _plotly.cache_clear()
    with pytest.raises(StantuneError, match=r"Plotly, which is not installed; pip install 'stantune\[report\]'"):
        page(ReportNumbers.model_validate(numbers_in(text)))


def test_without_scikit_learn_importance_is_left_out(
    result: st.SearchResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importance, "find_spec", lambda name: None)
    text = result.report(tmp_path / "without.html").read_text(encoding="utf-8")
    [search] = numbers_in(text)["searches"]
    assert search["importance"] is None
    assert "scikit-learn, which is not installed; pip install 'stantune[report]'" in search["without_importance"]
    assert "scikit-learn, which is not installed" in "".join(parsed(text).shown)
