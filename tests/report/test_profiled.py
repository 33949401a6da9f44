"""Times that `stantune profile` predicted, beside those that a search measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from read_page import numbers_of

import stantune as st
from stantune.errors import UsageError
from stantune.images.stan_settings import noted
from stantune.report.page.sections.profiled import profile_for
from stantune.report.page.sections.sentences import sentences
from stantune.report.page.times import off_by
from stantune.report.page.writing import write_report
from stantune.report.stan.profile import LayerProfile, PatternProfile, ProfileResult
from stantune.stan.config import Memo
from stantune.stan.layers.meprop import MeProp
from tests import tiny_problem


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> st.SearchResult:
    """A search of a small network under STAN."""
    return st.tune(
        tiny_problem.problem,
        stan=st.Stan(rate=0.5),
        max_resource=18,
        min_resource=6,
        fixed={"lr": 1e-3, "momentum": 0.5},
        brackets=1,
        threads=1,
        device="cpu",
        out=tmp_path_factory.mktemp("page") / "tiny",
    )


def profile(**other: Any) -> ProfileResult:
    patterns = [
        PatternProfile(name="rows", t_i=1e-3, t_j=1e-3, error=0.1, planned=False),
        PatternProfile(name="columns", t_i=2e-3, t_j=2e-3, error=0.1, planned=True),
        PatternProfile(name="blocks", t_i=9e-3, t_j=9e-3, error=0.1, planned=False),
    ]
    told: dict[str, Any] = {
        "problem": "tiny",
        "seed": 0,
        "rate": 0.5,
        "batch_size": 10,
        "threads": 1,
        "threads_tried": None,
        "device": "cpu",
        "iterations": 60,
        "step": 0.02,
        "native_step": 0.01,
        "layers": [
            LayerProfile(name="1", t_f=3e-3, t_b=4e-3, t_e=0.0, patterns=patterns, left_alone=None),
            LayerProfile(name="<b>2", t_f=None, t_b=None, t_e=None, patterns=[], left_alone="too small"),
        ],
        "period": 1,
        "tolerance": None,
        "predicted_speedup": 1.2,
    }
    return ProfileResult(**(told | other))


def test_predicted_times_are_beside_the_measured_ones(result: st.SearchResult, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(profile().model_dump_json())
    out = write_report([result.path], tmp_path / "page.html", profiles=[file])
    [search] = numbers_of(out).searches
    assert search.profiled is not None
    assert search.profiled.seconds_exact == 0.01
    assert search.profiled.seconds_reduced == pytest.approx(0.006)
    assert [layer.saved for layer in search.profiled.layers] == [pytest.approx(0.004), None]
    assert search.stan is not None
    assert search.stan.reduced_seconds is not None
    off = off_by(search.stan.reduced_seconds, search.profiled.seconds_reduced)
    text = out.read_text(encoding="utf-8")
    assert f"<td>6 ms</td><td>{off}</td>" in text
    assert "<td>columns</td><td>7 ms</td><td>4 ms</td>" in text
    assert "&lt;b&gt;2" in text
    words = " ".join(sentences(search))
    assert "Native kernels saved about 50% of an exact iteration against plain PyTorch, as profiled." in words
    assert f"{off} for reduced iterations" in words


def identity_of(stan: st.Stan, **other: Any) -> dict[str, Any]:
    """Return what a search of the tiny problem notes."""
    conditions = {"problem": "tiny", "batch-size": 10, "threads": 1, "device": "cpu"}
    return json.loads(json.dumps(conditions | noted(stan))) | other


def with_patterns(*planned: str, **other: Any) -> ProfileResult:
    """Return a profile whose plan has these patterns."""
    made = profile(**other)
    patterns = [one.model_copy(update={"planned": one.name in planned}) for one in made.layers[0].patterns]
    return made.model_copy(update={"layers": [made.layers[0].model_copy(update={"patterns": patterns})]})


@pytest.mark.parametrize(
    ("made", "stan", "says"),
    [
        (profile(threads=2), st.Stan(), "threads: 2, and mine trained with 1"),
        (profile(batch_size=7), st.Stan(), "images an iteration: 7, and mine trained with 10"),
        (profile(device="cuda:1"), st.Stan(), "device: cuda, and mine trained with cpu"),
        (with_patterns("blocks", rate=0.25), st.Stan(), "rate: 0.25, and mine trained with 0.5"),
        (with_patterns("columns", rate="auto"), st.Stan(), "rate: auto, and mine trained with 0.5"),
        (
            profile(),
            st.Stan(rate=((0, 0.5), (9, 1.0))),
            "rate: 0.5, and mine trained with several, one after another",
        ),
        (profile(period=4), st.Stan(), "reduced iterations after each exact one: 4, and mine trained with 1"),
        (profile(), st.Stan(period=None), "reduced iterations after each exact one: 1, and mine trained with none"),
        (profile(), st.Stan(pattern="rows"), "patterns of layer 1: columns, and mine trained with rows"),
        (profile(), st.Stan(layers=("<b>*",)), "patterns of layer 1: columns, and mine trained with none"),
        (profile(), st.Stan(tolerance=0.3), "patterns of layer 1: columns, and mine trained with rows or columns"),
        (profile(), st.Stan(memo=Memo(9, 3)), "mine trained with memo, of which no profile can be made"),
        (
            profile(),
            st.Stan(meprop=MeProp(9)),
            "mine trained with meprop, .*; leave that of tiny out",
        ),
    ],
)
def test_a_profile_of_other_conditions_is_refused(made: ProfileResult, stan: st.Stan, says: str) -> None:
    identity = identity_of(stan)
    with pytest.raises(UsageError, match=says):
        profile_for([made], identity, "mine")
    assert profile_for([made], identity | {"accelerate": "none"}, "mine") is None
    assert profile_for([made], identity | {"problem": "lenet"}, "mine") is None


def test_other_numbers_and_rates_by_rung_are_refused() -> None:
    by_rung = identity_of(st.Stan(), accelerate="stan:0.25,0.5", rate=None)
    with pytest.raises(UsageError, match=r"rate: 0\.5, and mine trained with several"):
        profile_for([profile()], by_rung, "mine")
    for name, value in (("precision", "bf16"), ("precision", "tf32"), ("resize", "1/2")):
        with pytest.raises(UsageError, match=f"mine trained with {name} {value}, of which no profile"):
            profile_for([profile()], identity_of(st.Stan(), **{name: value}), "mine")
    assert profile_for([profile()], identity_of(st.Stan(), precision="fp32"), "mine") is not None


def test_exact_iterations_are_those_of_any_profile() -> None:
    found = profile_for([profile()], identity_of(st.Stan(rate=1)), "mine")
    assert found is not None
    assert (found.seconds_exact, found.seconds_reduced, found.predicted_speedup) == (0.01, 0.01, 2.0)
    assert [(layer.saved, layer.patterns) for layer in found.layers] == [(None, [])] * 2
    # The planner found that nothing pays, native kernels neither.
    nothing = st.Stan(rate="auto").with_plan({"rate": 1.0, "period": 9, "plan": {}, "native": False})
    found = profile_for([profile(rate="auto")], identity_of(nothing), "mine")
    assert found is not None
    assert (found.seconds_exact, found.predicted_speedup) == (0.02, 1.0)


def test_a_profile_of_auto_is_of_a_search_with_its_patterns() -> None:
    planned = st.Stan(rate="auto").with_plan({"rate": 0.5, "period": 9, "plan": {"1": ["rows", "columns"]}})
    # The planner may choose another period each time.
    found = profile_for([with_patterns("rows", "columns", rate="auto")], identity_of(planned), "mine")
    assert found is not None
    # Drawn or chosen anew each time: their mean.
    assert (found.layers[0].saved, found.layers[0].patterns) == (pytest.approx(0.003), ["rows", "columns"])
    with pytest.raises(UsageError, match="patterns of layer 1: blocks, and mine trained with rows or columns"):
        profile_for([with_patterns("blocks", rate="auto")], identity_of(planned), "mine")


def test_a_layer_of_one_dimension_has_its_patterns_by_their_names_there() -> None:
    """Blocks of two by two are every fourth entry of a line, rows every second one."""
    names = {"columns": False, "quarter": True}
    patterns = [PatternProfile(name=name, t_i=1e-3, t_j=1e-3, error=0.1, planned=on) for name, on in names.items()]
    made = profile(rate=0.25)
    made = made.model_copy(update={"layers": [made.layers[0].model_copy(update={"patterns": patterns})]})
    assert profile_for([made], identity_of(st.Stan(rate=0.25)), "mine") is not None
    with pytest.raises(UsageError, match="patterns of layer 1: quarter, and mine trained with columns"):
        profile_for([made.model_copy(update={"rate": 0.5})], identity_of(st.Stan(pattern="rows")), "mine")


def test_a_file_that_is_no_profile_of_the_searches_is_refused(result: st.SearchResult, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    for content, says in (
        ("{}", "is no profile; write one with `stantune profile PROBLEM"),
        (profile(problem="lenet").model_dump_json(), "there is a profile of lenet, and the searches are of tiny"),
    ):
        file.write_text(content)
        with pytest.raises(UsageError, match=says):
            write_report([result.path], tmp_path / "page.html", profiles=[file])
    with pytest.raises(UsageError, match="cannot be read"):
        write_report([result.path], tmp_path / "page.html", profiles=[tmp_path / "none.json"])
    assert not (tmp_path / "page.html").exists()


def test_how_far_a_time_is_off() -> None:
    assert [off_by(measured, 0.01) for measured in (0.01, 0.0075, 0.0125, 0.1, None)] == [
        "+0%",
        "-25%",
        "+25%",
        "10 times as long",
        "–",
    ]
