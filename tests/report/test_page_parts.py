"""What the report page says beside the search itself: the estimate, failures, where it ran, predicted times, layers."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from read_page import numbers_of

import stantune as st
from stantune.images.problem.built_in import BUILT_IN
from stantune.outcome import Cost
from stantune.process.machine import this_machine
from stantune.report.page import numbers as numbers_module
from stantune.report.page.page import page
from stantune.report.page.sections import searched
from stantune.report.page.sections.entries import SIDE, _middle
from stantune.report.page.sections.foretold import foretold
from stantune.report.page.sections.repeating import call_of
from stantune.report.page.sections.sentences import sentences
from stantune.report.page.sections.stan import stan_section
from stantune.report.page.writing import write_report
from stantune.search.plan.hyperband import plan
from stantune.search.plan.values import FinalResult, TrialRow
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.stan.config import Memo
from stantune.stan.layers.meprop import MeProp
from stantune.tuning.compose import compose
from tests import tiny_problem


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> st.SearchResult:
    """A search of a small network under STAN."""
    return st.tune(
        tiny_problem.problem,
        stan=st.Stan(rate=0.5, layers=("*",), tail=5, pretrain=3, iterations=60),
        max_resource=18,
        min_resource=6,
        fixed={"lr": 1e-3, "momentum": 0.5},
        brackets=1,
        threads=1,
        device="cpu",
        out=tmp_path_factory.mktemp("page") / "tiny",
    )


@pytest.fixture(scope="module")
def report(result: st.SearchResult) -> Path:
    """Its page."""
    return result.report()


def test_the_estimate_is_that_of_the_first_trials_pace() -> None:
    # 9 trials of 1, 3 of 3, 1 of 9 epochs: 9 + 6 + 6 epochs, and 9 of the final training.
    brackets = plan(9, 1, 3, "algorithm1", 1)
    first = TrialRow(0, 2, {}, {1: 0.5}, costs={1: Cost(exact=1, exact_seconds=2.0, evaluation_seconds=0.5)})
    other = TrialRow(1, 2, {}, {}, diverged_at=1, costs={1: Cost(exact=1, exact_seconds=1.0)})
    final = FinalResult({}, 9, {"cost": 0.4}, None, Cost(exact=9, exact_seconds=9.0, evaluation_seconds=1.0))
    state = SearchState(brackets, [other, first], {0: final}, st.Metric("cost"), True)
    settings = SearchSettings(seed=0, max_resource=9, min_resource=1)
    found = foretold(state, settings)
    assert found is not None
    assert (found.trial, found.iterations) == (0, 1)
    assert found.seconds == pytest.approx(2.0 * (9 + 6 + 6 + 9) + 0.5 * (9 + 3 + 1 + 3))
    assert found.taken == pytest.approx(2.5 + 1 + 10)
    assert foretold(state._replace(complete=False), settings) is None
    assert foretold(state._replace(rows=[other]), settings) is None
    longer = foretold(state, replace(settings, final_resource=20))
    assert longer is not None
    assert longer.seconds == pytest.approx(2.0 * (9 + 6 + 6 + 20) + 0.5 * (9 + 3 + 1 + 4))
    # The weights are there already, and evaluated once more.
    continued = foretold(state, replace(settings, final="continue"))
    assert continued is not None
    assert continued.seconds == pytest.approx(2.0 * (9 + 6 + 6) + 0.5 * (9 + 3 + 1 + 1))


def test_the_estimate_is_said_in_words(report: Path) -> None:
    [search] = numbers_of(report).searches
    assert search.foretold is not None
    seconds = search.summary.seconds
    assert search.foretold.taken == pytest.approx(seconds.training + seconds.evaluation)
    for taken, words in ((75.0, "25% less"), (150.0, "50% more"), (100.0, "as long"), (1234.0, "12.3 times as long")):
        told = search.foretold.model_copy(update={"seconds": 100.0, "taken": taken})
        said = sentences(search.model_copy(update={"foretold": told}))
        assert any("was to take about 1 min 40 s; it took " in line and f", {words}." in line for line in said), said


def test_where_it_ran_is_on_the_page(result: st.SearchResult, report: Path) -> None:
    [search] = numbers_of(report).searches
    assert search.machine == this_machine()
    assert {"processor", "system", "python", "torch", "stantune"} <= search.machine.keys()
    assert json.loads((result.path / "last-run.json").read_text())["machine"] == search.machine
    text = report.read_text(encoding="utf-8")
    for value in (*search.machine.values(), search.digest):
        assert f"<td>{value}</td>" in text


@pytest.mark.parametrize(
    "asked",
    [
        {"stan": st.Stan(rate=0.25, period=2, tail=5, iterations=27, layers=("*",)), "finalists": 2, "mode": "async"},
        {"stan": st.Stan(period=9, layers=("1",)), "rates": (0.25, 0.5, 1.0), "brackets": 2, "seed": 7},
        {
            "stan": None,
            "fixed": {"momentum": 0.5},
            "enqueue": ({"lr": 0.25, "momentum": 0.5},),
            "sampler": "tpe",
            "lag": 4,
        },
    ],
    ids=["asynchronous", "rates", "exact"],
)
def test_the_call_is_that_of_the_search(asked: dict[str, Any]) -> None:
    given: dict[str, Any] = {"max_resource": 27, "min_resource": 3, **asked}
    what, settings = compose(tiny_problem.problem, **given)
    identity = json.loads(json.dumps(settings.identity(what)))
    call = call_of(settings, identity, Path("there"))
    *_, last = call.splitlines()
    assert call.startswith("from stantune import Stan, tune\n" if asked["stan"] else "from stantune import tune\n")
    found: dict[str, Any] = {}
    eval(last, {"tune": lambda what, **named: found.update(named), "Stan": st.Stan, "tiny": tiny_problem.problem})
    assert (found.pop("out"), found.pop("threads")) == ("there", 1)
    again, repeated = compose(tiny_problem.problem, **found)
    assert repeated.identity(again) == settings.identity(what)
    assert repeated.finalists == settings.finalists


def test_a_built_in_problem_is_named_in_the_call(tmp_path: Path) -> None:
    what, settings = compose(BUILT_IN["lenet"], max_resource=27, stan=st.Stan(rate=0.5, layers=("conv2",)))
    identity = settings.identity(what)
    assert call_of(settings, identity, Path("a")).splitlines() == [
        "from stantune import Stan, tune",
        "from stantune.images.problem.built_in import find",
        "",
        "tune(find('lenet'), max_resource=27, min_resource=9, stan=Stan(rate=0.5, layers=('conv2',)), seed=0, "
        "threads=1, out='a')",
    ]
    planned = call_of(settings, {**identity, "plan": {"conv2": ["rows"]}}, Path("a"))
    assert "stan=Stan(rate='auto', layers=('conv2',))" in planned
    # Of a command there are its options, too.
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "search-options.toml").write_text('problem = "lenet"\n')
    typed = call_of(settings, identity, tmp_path / "a b").splitlines()[-1]
    assert typed == f"# stantune search --config '{tmp_path}/a b/search-options.toml'"


def decoded(maps: list[str]) -> torch.Tensor:
    return torch.tensor([list(base64.b64decode(each)) for each in maps])


def test_layers_are_shown_as_they_compute(report: Path) -> None:
    [search] = numbers_of(report).searches
    entries = search.entries
    assert entries is not None, search.without_entries
    assert entries.trained == 18
    assert entries.images is not None
    assert (entries.images.rows, entries.images.columns, entries.images.channels) == (8, 8, 1)
    data = tiny_problem.images(None).train.images.flatten(1).tolist()
    assert all(list(base64.b64decode(pixels)) in data for pixels in entries.images.pixels)
    [layer] = entries.layers
    assert (layer.name, layer.rows, layer.columns) == ("1", 8, 8)
    computed, exact, filled, errors = (
        decoded(maps) for maps in (layer.computed, layer.exact, layer.filled, layer.errors)
    )
    assert computed.shape == (3, 64)
    assert float(computed.double().mean()) == layer.kept == 0.5
    assert torch.equal(exact[computed == 1], filled[computed == 1])
    assert not errors[computed == 1].any()
    assert int(errors.max()) == 255
    # The root mean square of an image's map is its relative error.
    roots = (errors.double() * layer.worst / 255).square().mean(1).sqrt()
    assert roots.tolist() == pytest.approx(layer.image_errors, rel=0.02)
    text = report.read_text(encoding="utf-8")
    assert '<div class="maps" role="img" data-search="0" data-layer="0"' in text
    assert f"{layer.error:.3f}</td>" in text


def test_of_a_large_output_the_middle_is_drawn() -> None:
    whole = torch.arange(100 * 70).reshape(100, 70)
    assert torch.equal(_middle(whole), whole[18:82, 3:67])
    assert _middle(whole[:5, :70]).shape == (5, SIDE)


def test_a_problem_of_ones_own_is_not_loaded(result: st.SearchResult, tmp_path: Path) -> None:
    [search] = numbers_of(write_report([result.path], tmp_path / "page.html")).searches
    assert search.entries is None
    assert search.without_entries is not None
    assert "`SearchResult.report()`, which has it at hand" in search.without_entries
    assert "What each layer computes is not drawn: the problem is one of your own" in (
        tmp_path / "page.html"
    ).read_text(encoding="utf-8")


def test_without_the_weights_the_page_says_so(result: st.SearchResult, tmp_path: Path) -> None:
    weights = result.path / "final.pt"
    away = weights.rename(tmp_path / "final.pt")
    try:
        [search] = numbers_of(result.report(tmp_path / "page.html")).searches
        assert search.without_entries == "the weights final.pt are no longer there"
    finally:
        away.rename(weights)


def test_a_plan_without_layers_has_nothing_to_draw(result: st.SearchResult) -> None:
    exact = replace(result.objective, stan=replace(result.objective.stan, plan=(), rate=1.0))  # type: ignore[type-var, attr-defined]
    said = searched.entries_of_result(exact, result.summary, result.path)
    assert said == "every entry is computed, in all layers"


@pytest.mark.parametrize(
    ("stan", "said"),
    [
        # A network without convolutions.
        (st.Stan(rate=0.5, period=None), "STAN spares no entries in this network"),
        (st.Stan(rate=0.5, meprop=MeProp(2)), "STAN spares no entries in this network"),
        (st.Stan(rate=1, meprop=MeProp(2)), "every entry is computed, in all layers"),
        (st.Stan(memo=Memo(240, 24)), "what a layer remembers of each sample is not kept with the weights"),
    ],
    ids=["flat", "meprop", "exact", "memo"],
)
def test_where_nothing_is_spared_it_is_said(
    stan: st.Stan, said: str, flat: st.SearchResult, recwarn: pytest.WarningsRecorder
) -> None:
    objective = replace(flat.objective, stan=stan)  # type: ignore[type-var]
    assert searched.entries_of_result(objective, flat.summary, flat.path) == said
    assert not recwarn.list


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> st.SearchResult:
    """A search under STAN of a network without convolutions."""
    sizes = {"max_resource": 6, "min_resource": 2, "brackets": 1, "threads": 1}
    return st.tune(tiny_problem.flat, stan=st.Stan(rate=0.5), out=tmp_path_factory.mktemp("flat") / "flat", **sizes)


def test_the_page_of_a_network_without_convolutions_has_an_end(flat: st.SearchResult) -> None:
    text = flat.report().read_text(encoding="utf-8")
    assert "What each layer computes is not drawn: STAN spares no entries in this network." in text


@pytest.mark.parametrize(
    ("unit", "said", "head", "name"),
    [
        ("iteration", "Of 90 iterations 60 were reduced; one took 500 ms", "iterations", "reduced"),
        ("epoch", "Of 90 epochs 60 had reduced iterations; one took 500 ms", "epochs", "with reduced iterations"),
    ],
)
def test_what_stan_brought_is_told_in_the_unit_of_the_search(
    report: Path, unit: str, said: str, head: str, name: str
) -> None:
    [search] = numbers_of(report).searches
    assert search.stan is not None
    counts = {"exact": 30, "exact_seconds": 12.0, "reduced": 60, "reduced_seconds": 0.5}
    summary = search.summary.model_copy(update={"unit": unit})
    search = search.model_copy(update={"summary": summary, "stan": search.stan.model_copy(update=counts)})
    assert f"{said}, an exact one 12 s." in sentences(search)
    text = stan_section(search, 0)
    assert f">{head}</th>" in text
    assert f">{name}</td>" in text


def test_whole_numbers_keep_all_their_digits() -> None:
    rows = [TrialRow(number, 0, {"n": n, "x": n / 7}) for number, n in enumerate((1048576, 1048577))]
    whole = numbers_module._column("n", {"kind": "integer", "log": True}, rows)
    assert whole.values == [1048576, 1048577]
    assert numbers_module._column("x", {"kind": "float", "log": False}, rows).values == [149797.0, 149797.0]


def test_equal_failures_are_told_once(report: Path) -> None:
    numbers = numbers_of(report)
    [search] = numbers.searches
    failures = [
        SimpleNamespace(cause=cause, trial=trial, iterations=stop)
        for trial, (cause, stop) in enumerate([("no <b>", 6), *[("lost", 18)] * 30])
    ]
    causes = numbers_module._causes(failures)  # type: ignore[arg-type]
    assert [(cause.cause, len(cause.trials)) for cause in causes] == [("lost", 30), ("no <b>", 1)]
    text = page(numbers.model_copy(update={"searches": [search.model_copy(update={"causes": causes})]}))
    named = ", ".join(map(str, range(1, 21)))
    assert f"<td>lost</td><td>30</td><td>{named} and 10 more</td><td>18</td>" in text
    assert "<td>no &lt;b&gt;</td><td>1</td><td>0</td><td>6</td>" in text


def test_choices_that_no_trial_had_are_named_without_a_picture(report: Path) -> None:
    numbers = numbers_of(report)
    [search] = numbers.searches
    column = search.trials.params[0].model_copy(
        update={"name": "kind", "kind": "categorical", "choices": ["a", "<i>"], "untried": ["<i>"], "values": [0.0] * 3}
    )
    trials = search.trials.model_copy(update={"params": [column]})
    text = page(numbers.model_copy(update={"searches": [search.model_copy(update={"trials": trials})]}))
    assert "Never tried of kind: &lt;i&gt;." in text


def test_script_and_style_are_in_the_package() -> None:
    for name in ("page.js", "page.css"):
        assert files("stantune.report.page").joinpath(name).is_file()


@pytest.mark.slow
def test_a_wheel_has_script_and_style(tmp_path: Path) -> None:
    # Without the native library, which takes minutes; the build backend comes from the package index.
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-C", "wheel.cmake=false", "-w", str(tmp_path)]
    subprocess.run([*command, str(Path(__file__).parents[2])], check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"stantune/report/page/{name}" for name in ("page.js", "page.css", "page.py")} <= names


def test_the_page_can_be_used_by_keyboard(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    body = text.partition("<body>")[2].lstrip()
    assert body.startswith('<a class="skip" href="#s0-found">')
    assert 'id="s0-found"' in body
    assert ":focus-visible { outline:" in text
    assert '<div class="scroll" tabindex="0">' in body
