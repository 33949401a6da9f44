"""The report page: its numbers are the search's, its pictures are Plotly's, and nothing in it is taken for HTML."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import stantune as st
from stantune.errors import StantuneError, UsageError
from stantune.protocols import Metric
from stantune.report.page import importance, numbers
from stantune.report.page.contract import ReportNumbers
from stantune.report.page.page import MARK, _plotly, page
from stantune.report.page.pictures.figures import compared, pictures_of, resolved
from stantune.report.page.sections.sentences import sentences
from stantune.report.page.writing import write_report
from stantune.search.table.directory import SearchDirectory
from stantune.search.table.store import Store
from tests import tiny_problem

ODD = "</script><script>document.title='taken'</script><b>x</b>"
SPACE = st.Space(
    {
        "lr": st.Float(1e-3, 10, log=True),
        "width": st.Integer(1, 64),
        "kind": st.Categorical((ODD, True, 2)),
        "never": st.Categorical(("this", "other")),
        "depth": st.Integer(1, 3),
    },
    when={"depth": {"kind": (True,)}},
)


def train(run: st.Run) -> dict[str, float]:
    """Diverge at large rates, fail where the width is a multiple of nine, and else come to what the setting says."""
    for epoch in run.steps():
        run.loss(1 / (epoch + 1))
    if run.params["width"] % 9 == 0:
        raise ValueError(f"no data {ODD}")
    value = math.nan if run.params["lr"] > 3 else run.params["lr"] + run.params["width"] / 100 + 1 / (epoch + 1)
    return {"cost": value, f"other {ODD}": 1.0}


def _quick(run: st.Run) -> dict[str, float]:
    for epoch in run.steps():
        run.loss(1 / (epoch + 1))
    return {"cost": run.params["lr"]}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> st.SearchResult:
    """A whole search, with every fate that a trial can have."""
    return st.tune(
        train,
        SPACE,
        minimize="cost",
        max_resource=27,
        name=ODD,
        unit="epoch",
        fixed={"never": "this"},
        retries=0,
        out=tmp_path_factory.mktemp("page") / "a & b",
    )


@pytest.fixture(scope="module")
def text(result: st.SearchResult) -> str:
    """Its page."""
    return result.report().read_text(encoding="utf-8")


class _Scripts(HTMLParser):
    """Collects what the elements with an id hold, and each address that the page names."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.addresses: list[str] = []
        self.shown: list[str] = []
        self.tags: list[str] = []
        self._of: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        told = dict(attrs)
        self.addresses += [told[name] or "" for name in ("src", "href", "action") if name in told]
        self._of = told.get("id") if tag in ("script", "style") else None

    def handle_data(self, data: str) -> None:
        if self._of is not None:
            self.texts[self._of] = self.texts.get(self._of, "") + data
        else:
            self.shown.append(data)


def parsed(text: str) -> _Scripts:
    parser = _Scripts()
    parser.feed(text)
    return parser


def numbers_in(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(parsed(text).texts["numbers"])
    return found


def test_numbers_are_those_of_the_result(result: st.SearchResult, text: str) -> None:
    [search] = numbers_in(text)["searches"]
    assert search["summary"] == json.loads((result.path / "result.json").read_text(encoding="utf-8"))
    trials = result.trials()
    assert search["trials"]["status"] == [trial.status for trial in trials]
    assert {"dropped", "diverged", "failed", "finished"} == set(search["trials"]["status"])
    assert search["trials"]["reached"] == [trial.resource for trial in trials]
    values = [trial.value for trial in trials]
    assert search["trials"]["value"] == [None if value is None else float(f"{value:.6g}") for value in values]
    columns = {column["name"]: column for column in search["trials"]["params"]}
    assert columns["width"]["values"] == [trial.params["width"] for trial in trials]
    kinds = [ODD, True, 2]
    for place, trial in zip(columns["kind"]["values"], trials, strict=True):
        there = kinds[int(place)]
        assert type(there) is type(trial.params["kind"])
        assert there == trial.params["kind"]
    assert columns["never"]["untried"] == ["other"]
    assert [value is None for value in columns["depth"]["values"]] == ["depth" not in t.params for t in trials]
    points = {}
    for curves in search["curves"]:
        for at, value, trial in zip(curves["at"], curves["value"], curves["trial"], strict=True):
            if at is not None:
                points[trial, at] = value
    assert points == {
        (trial.number, at): float(f"{value:.6g}") for trial in trials for at, value in trial.curve.items()
    }


def test_losses_are_those_of_the_trainings(result: st.SearchResult, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few trials all; of many the best, and evenly of the others; trials that failed at once have none."""

    def shown(search: dict[str, Any]) -> dict[tuple[str, int], list[tuple[int, float]]]:
        found: dict[tuple[str, int], list[tuple[int, float]]] = {}
        for losses in search["losses"]:
            for at, mean, trial in zip(losses["at"], losses["mean"], losses["trial"], strict=True):
                if at is not None:
                    found.setdefault((losses["status"], trial), []).append((at, mean))
        return found

    [search] = numbers_in(text)["searches"]
    rows = [row for row in result.state.rows if row.losses]
    all_ = {(search["trials"]["status"][row.number], row.number): row.loss_curve.points for row in rows}
    assert shown(search) == all_
    assert {status for status, _ in all_} == {"dropped", "diverged", "finished"}
    assert search["losses_shown"] == len(rows) < len(result.state.rows)
    monkeypatch.setattr(numbers, "LOSSES", 8)
    monkeypatch.setattr(numbers, "BEST_OF_LOSSES", 4)
    [search] = numbers_in(result.report().read_text(encoding="utf-8"))["searches"]
    some = shown(search)
    assert search["losses_shown"] == len(some) == 8
    assert all(all_[place] == points for place, points in some.items())
    assert {leader["trial"] for leader in search["summary"]["leaders"][:4]} <= {trial for _, trial in some}


def test_the_directory_tells_what_the_result_does(result: st.SearchResult, text: str, tmp_path: Path) -> None:
    file = write_report([result.path], tmp_path / "again.html")
    assert numbers_in(file.read_text(encoding="utf-8")) == numbers_in(text)


def test_the_flow_has_each_trial_of_each_rung_once(result: st.SearchResult, text: str) -> None:
    [search] = numbers_in(text)["searches"]
    kinds = ("promoted", "finished", "dropped", "diverged", "failed", "open")
    before = None
    for rung in search["flow"]:
        members = sum(rung[kind] for kind in kinds)
        if before is not None and before["bracket"] == rung["bracket"]:
            assert members == before["promoted"]
        before = rung
    counts = result.summary.counts
    for kind in ("dropped", "diverged", "failed"):
        assert sum(rung[kind] for rung in search["flow"]) == getattr(counts, kind)


def test_the_best_so_far_ends_with_all_that_was_trained(result: st.SearchResult, text: str) -> None:
    [search] = numbers_in(text)["searches"]
    best = search["best"]
    assert best["iterations"][-1] == result.summary.iterations_trained
    assert best["value"][-1] == min(value for trial in result.trials() for value in trial.curve.values())
    assert best["value"] == sorted(best["value"], reverse=True)
    assert best["seconds"] == sorted(best["seconds"])


def test_plotly_takes_every_picture(text: str) -> None:
    graphs = pytest.importorskip("plotly.graph_objects")
    plain = numbers_in(text)
    report = ReportNumbers.model_validate(plain)
    pictures = [*pictures_of(report, 0), *compared(report)]
    names = [picture.name for picture in pictures]
    assert names[:7] == ["curves", "losses", "best-iterations", "best-seconds", "flow", "importance", "parallel"]
    for picture in pictures:
        data = resolved(picture.data, plain)
        for trace in data:
            # What the script is told: to take the logarithm.
            for axis in trace.get("dimensions", ()):
                assert len(axis["values"]) == len(plain["searches"][0]["sample"])
        graphs.Figure(data, picture.layout)
        assert picture.caption or picture.name.startswith("slice")


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


def test_importance_finds_the_parameter_that_matters(text: str) -> None:
    [search] = numbers_in(text)["searches"]
    important = search["importance"]
    assert important["names"][0] == "lr"
    assert sum(important["shares"]) == pytest.approx(1)
    # Not in all settings, or the same in all.
    assert not {"depth", "never"} & set(important["names"])


def test_the_sample_has_the_best_and_some_of_all(monkeypatch: pytest.MonkeyPatch, result: st.SearchResult) -> None:
    monkeypatch.setattr(numbers, "SAMPLE", 10)
    monkeypatch.setattr(numbers, "BEST_OF_SAMPLE", 4)
    best = [trial.number for trial in result.trials() if trial.value is not None]
    assert len(best) > 10
    sample = numbers._sample(result.state)
    assert len(set(sample)) == 10
    assert set(sample) <= set(best)
    leaders = {leader.trial for leader in result.summary.leaders[:4]}
    assert leaders <= set(sample)


CHROMIUM = shutil.which("chromium")


@pytest.fixture
def browsed(tmp_path: Path) -> Callable[[Path], tuple[_Scripts, str, str]]:
    """A real browser, which gives the page as it is after its script has run, and what it said in the console."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium")

    def browse(file: Path) -> tuple[_Scripts, str, str]:
        assert CHROMIUM is not None
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1000,800",
            # The script's time, which goes on only while there is something to do.
            "--virtual-time-budget=60000",
            "--enable-logging=stderr",
            "--dump-dom",
            file.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=540)
        said = "\n".join(
            line for line in done.stderr.splitlines() if "CONSOLE" in line and "GL Driver Message" not in line
        )
        return parsed(done.stdout), done.stdout, said

    return browse


def test_a_browser_draws_it_all_without_a_complaint(
    result: st.SearchResult, tmp_path: Path, browsed: Callable[[Path], tuple[_Scripts, str, str]]
) -> None:
    seen, dom, said = browsed(result.report(tmp_path / "page.html"))
    assert said == ""
    pictures = json.loads(seen.texts["pictures"])
    assert f'data-drawn="{len(pictures)}"' in dom
    assert dom.count("js-plotly-plot") >= len(pictures)
    first, took = (int(re.findall(rf'data-{name}="(\d+)"', dom)[0]) for name in ("first", "took"))
    assert first < took
    assert "taken" not in dom.partition("</title>")[0]
    trials = result.trials()
    assert f"1 to {min(50, len(trials))} of {len(trials)} trials" in dom
    # The table begins with the best, and names of choices are text in it.
    rows = re.findall(r"<tr>(<td.*?)</tr>", dom.partition('id="trials-0"')[2])
    cells = re.findall(r"<td[^>]*>(.*?)</td>", rows[0])
    best = min((trial for trial in trials if trial.value is not None), key=lambda trial: (trial.value, trial.number))
    assert cells[0] == str(best.number)
    assert float(cells[4]) == float(f"{best.value:.6g}")
    assert "&lt;b&gt;x&lt;/b&gt;" in "".join(rows)


# A page that is never idle, and is printed after a while; what was drawn by then, and which pictures are live then.
PRINTED = """<script>
requestIdleCallback = () => {};
setTimeout(() => {
  document.body.dataset.before = document.body.dataset.drawn ?? 0;
  dispatchEvent(new Event("beforeprint"));
  setTimeout(() => {
    const live = [...document.querySelectorAll("[data-name=parallel]")].map((host) =>
      [...host.querySelectorAll(".gl-container canvas")].map(
        (canvas) => canvas.getContext("webgl")?.isContextLost() ?? "image"));
    document.body.dataset.live = live.map((each) => [...new Set(each)].join()).join(" ");
  }, 2000);
}, 5000);
</script>"""


@pytest.mark.slow
def test_printing_draws_what_was_not_in_view_and_loses_no_picture_of_many(
    tmp_path: Path, browsed: Callable[[Path], tuple[_Scripts, str, str]]
) -> None:
    """Six searches side by side have more pictures by WebGL than a browser keeps; of those some become images."""
    space = st.Space({"lr": st.Float(1e-3, 1), "width": st.Categorical((1, 2))})
    one = st.tune(_quick, space, minimize="cost", max_resource=3, out=tmp_path / "0")
    others = [Path(shutil.copytree(one.path, tmp_path / str(number))) for number in range(1, 6)]
    file = write_report([one.path, *others], tmp_path / "page.html")
    file.write_text(file.read_text(encoding="utf-8").replace("<body>", f"<body>{PRINTED}"), encoding="utf-8")
    seen, dom, said = browsed(file)
    assert said == ""
    pictures = json.loads(seen.texts["pictures"])
    assert f'data-drawn="{len(pictures)}"' in dom
    assert int(re.findall(r'data-before="(\d+)"', dom)[0]) < len(pictures) / 2
    assert re.findall(r'data-live="(.*?)"', dom) == ["image image false false false false"]


def test_a_browser_draws_the_maps_of_layers(
    tmp_path: Path, browsed: Callable[[Path], tuple[_Scripts, str, str]]
) -> None:
    found = st.tune(
        tiny_problem.problem,
        stan=st.Stan(rate=0.5),
        max_resource=6,
        min_resource=2,
        fixed={"lr": 1e-3, "momentum": 0.5},
        brackets=1,
        device="cpu",
        out=tmp_path / "tiny",
    )
    _, dom, said = browsed(found.report())
    assert said == ""
    # Of three images the image itself, what is computed, the exact and the filled output, and the errors.
    drawn = dom.partition('<div class="maps"')[2].partition("<figcaption>")[0]
    assert re.findall(r'<canvas width="(\d+)" height="(\d+)"', drawn) == [("8", "8")] * 15
    assert re.findall("<span>(.*?)</span>", drawn) == ["image", "computed", "exact", "filled", "errors"]
