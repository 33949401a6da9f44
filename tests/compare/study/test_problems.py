"""Studies of problems: what was predicted of each way, memo and meProp in whole searches that are known again."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import stantune as st
from stantune.compare.study import predicted as predicting
from stantune.compare.study import study as studying
from stantune.compare.study.predicted import predicted, rates_of, trained_at
from stantune.compare.study.ways import way_of, ways_of
from stantune.errors import DataError, UsageError
from stantune.images import objective
from stantune.images.data import Dataset, Split
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import BUILT_IN, Problem
from stantune.objectives.choose import load_source
from stantune.report.page.contract import ReportNumbers, SearchNumbers
from stantune.search.plan.hyperband import plan
from stantune.search.settings import SearchSettings
from stantune.search.stopping import Stop
from stantune.search.table.looking.look import look
from stantune.stan.config import Stan
from stantune.stan.planning.plan import predict
from stantune.stan.planning.timing import LayerTimes, ModelTimes, PatternTimes
from stantune.training import planning

TINY = f"{Path(__file__).parents[2] / 'tiny_problem.py'}:problem"
# As its file has it, whose module worker processes can import.
tiny = load_source(TINY)
# Half of the entries save 2 of 10 seconds and a quarter 4; stock PyTorch takes 20.
LAYER = LayerTimes(
    "conv", 3.0, 5.0, 0.0, (PatternTimes("columns", 1.0, 1.0, 0.1), PatternTimes("blocks", 2.0, 2.0, 0.2))
)
TIMES = ModelTimes((LAYER,), 20.0, 5, native_seconds=10.0)


def test_a_memory_and_meprop_in_whole_searches(tmp_path: Path) -> None:
    given: dict[str, Any] = {"ways": "memo,meprop:2", "seeds": 1, "out": tmp_path / "out", "threads": 1}
    given |= {"max_resource": 6, "min_resource": 6}
    with mock.patch.object(planning, "SECONDS", 0.05):
        found = st.study(TINY, **given)
    assert found.complete, found.summary.searches
    memo, meprop = (look(tmp_path / "out" / search.directory).identity for search in found.summary.searches)
    # 240 training images in batches of 10.
    assert memo["memo"] == {"samples": 240, "epoch": 24, "budget": 2**30, "dtype": "bf16", "positions": "grid"}
    assert (meprop["meprop"]["top_k"], meprop["rate"], "memo" in meprop) == (2, 1, False)
    assert found.summary.problems[0].predicted == {"memo": None, "meprop:2": None}
    calls = [search.call for search in _numbers(found.report())]
    assert "memo=Memo(samples=240, epoch=24, budget=1073741824, dtype='bf16', positions='grid')" in calls[0]
    assert "from stantune.stan.config import Memo" in calls[0]
    assert "meprop=MeProp(" in calls[1]
    assert "top_k=2" in calls[1]
    # The same searches, by what their tables say.
    assert st.study(TINY, **given).summary == found.summary


@pytest.mark.parametrize("way", ["none", "stan"])
def test_numbers_are_the_same_in_all_ways(way: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"ways": way, "seeds": 1, "out": tmp_path / "out", "threads": 1}
    given |= {"max_resource": 6, "min_resource": 6, "precision": "bf16"}
    found = st.study(TINY, **given)
    assert found.complete, found.summary.searches
    [search] = found.summary.searches
    assert look(tmp_path / "out" / search.directory).identity["precision"] == "bf16"
    # Layers are timed in float32.
    assert found.summary.problems[0].predicted == {way: None}
    assert "precision='bf16'" in _numbers(found.report())[0].call
    with pytest.raises(UsageError, match="precision"):
        st.study(TINY, **{**given, "precision": None})
    with pytest.raises(UsageError, match="`precision`='half' is unknown"):
        st.study(TINY, **{**given, "precision": "half"})


def test_what_was_predicted_is_of_the_numbers_that_are_trained_in(tmp_path: Path) -> None:
    given: dict[str, Any] = {"ways": "none", "seeds": 1, "out": tmp_path / "out", "threads": 1}
    given |= {"max_resource": 6, "min_resource": 6}
    stop = Stop()

    def ends(*_: object) -> dict[str, float | None]:
        stop.interrupted = True
        return {"none": 1.0}

    with mock.patch("stantune.compare.study.study.predicted_speedups", ends):
        found = st.study(TINY, stop=stop, **given)
    assert (found.summary.problems[0].predicted, found.summary.searches[0].state) == ({"none": 1.0}, "waiting")
    assert st.study(TINY, precision="bf16", **given).summary.problems[0].predicted == {"none": None}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that an earlier version made, with a search in way none."""
    out = tmp_path_factory.mktemp("study") / "out"
    assert st.study(tiny, ways="none", seeds=1, out=out, threads=1, max_resource=6, min_resource=6).complete
    summary = json.loads((out / "study.json").read_text())
    for name in ("workers", "threads", "device", "precision"):
        summary["problems"][0].pop(name, None)
    (out / "study.json").write_text(json.dumps(summary))
    return out


@pytest.mark.parametrize(
    ("problem", "precision", "words"),
    [
        (tiny, "bf16", "precision: None there, bf16 here"),
        (replace(tiny, batch_size=20), None, "batch-size: 10 there, 20 here"),
        (replace(tiny, iterations=120), None, "iterations: 60 there, 120 here"),
        (replace(tiny, edition=2), None, "edition: None there, 2 here"),
        (
            replace(tiny, hold_out="first"),
            None,
            r"hold_out: None there, \['first', 0\] here; made-of.hold_out: last there, first here",
        ),
        # It is what there is on a CPU.
        (tiny, "fp32", None),
    ],
)
def test_numbers_of_a_problem_are_those_of_the_searches_beside_it(
    earlier: Path, problem: Problem, precision: str | None, words: str | None, tmp_path: Path
) -> None:
    out = shutil.copytree(earlier, tmp_path / "out")
    given: dict[str, Any] = {"seeds": 1, "out": out, "threads": 1, "max_resource": 6, "min_resource": 6}
    given |= {"device": "cpu", "precision": precision, "budget": 1e-9}
    if words is None:
        assert st.study(problem, ways="native", **given).interrupted
        return
    with pytest.raises(UsageError, match=rf"has searches of another tiny \({words}\), and only like"):
        st.study(problem, ways="native", **given)


def test_nothing_predicts_meprop_and_kernels_that_are_not_here() -> None:
    data = Split(torch.zeros(4, 28, 28, 1, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), torch.arange(4))
    problem = replace(BUILT_IN["mlp"], data=Dataset("few", data, data, 10), validation=2)
    ways = ways_of("none,native,native:no-winograd,meprop:40,stan+meprop:40")
    with mock.patch.object(predicting, "times_of", return_value=TIMES) as timed:
        found = predicting.predicted_speedups(ProblemObjective(problem), ways, SearchSettings(0, 9, 1), {"hidden": 200})
    # The layers are those of the network that is searched.
    assert timed.call_args.args[1] == {"hidden": 200}
    assert found == {
        "none": 1.0,
        "native": pytest.approx(2.0),
        "native:no-winograd": None,
        "meprop:40": None,
        "stan+meprop:40": None,
    }


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, None),
        ({"threads": "auto"}, None),
        ({"workers": 2}, 1),
        ({"workers": 2, "threads": "auto"}, 1),
        ({"workers": 2, "threads": 3}, 3),
    ],
)
def test_layers_are_timed_with_the_threads_of_the_searches(
    given: dict[str, Any], threads: int | None, tmp_path: Path
) -> None:
    class EnoughError(Exception):
        pass

    with (
        mock.patch.object(studying, "tune_process") as tuned,
        mock.patch.object(studying, "predicted_speedups", side_effect=EnoughError),
        pytest.raises(EnoughError),
    ):
        st.study(TINY, ways="none,native", seeds=1, out=tmp_path / "out", max_resource=6, **given)
    tuned.assert_called_once_with(threads)


def test_layers_are_timed_in_the_numbers_of_the_searches() -> None:
    data = Split(torch.zeros(4, 28, 28, 1, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), torch.arange(4))
    problem = replace(BUILT_IN["mlp"], data=Dataset("few", data, data, 10), validation=2)
    within = mock.MagicMock()

    def times_of(*_: object, **__: object) -> ModelTimes:
        within.assert_called_once_with("fp32", "cpu")
        within.return_value.__enter__.assert_called_once()
        within.return_value.__exit__.assert_not_called()
        return TIMES

    within.return_value.__exit__.return_value = None
    asked = ProblemObjective(problem, precision="fp32")
    with mock.patch.object(predicting, "times_of", times_of), mock.patch.object(predicting, "computing_in", within):
        found = predicting.predicted_speedups(asked, ways_of("none,native"), SearchSettings(0, 9, 1), {})
    assert found["native"] == pytest.approx(2.0)


def test_data_are_fetched_before_layers_are_timed(tmp_path: Path) -> None:
    fetched = list[str]()

    def fetch(name: str, *_: object, **__: object) -> None:
        fetched.append(name)
        raise DataError("there is no network here; fetch them elsewhere")

    with mock.patch.object(objective, "fetch", fetch):
        found = st.study(["lenet", "cq"], ways="memo", seeds=1, data=tmp_path / "none", out=tmp_path / "out")
    assert fetched == ["mnist", "mnist", "cifar10", "cifar10"]
    assert [search.state for search in found.summary.searches] == ["failed", "failed"]
    assert found.summary.searches[0].failure == "there is no network here; fetch them elsewhere"
    assert found.summary.problems[0].predicted == {}


def _numbers(page: Path) -> list[SearchNumbers]:
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', text, re.DOTALL)
    assert found
    return ReportNumbers.model_validate_json(found[1]).searches


def test_iterations_of_each_stretch() -> None:
    # 9 trials to 1, 3 to 3, 1 to 9; 5 to 3, 1 to 9; 3 to 9.
    brackets = plan(9, 1, 3)
    sizes = [[(rung.trials, rung.iterations) for rung in bracket.rungs] for bracket in brackets]
    assert sizes == [[(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)]]
    found = trained_at(brackets, [0, 1, 3])
    assert found == Counter({0: 9 + 5 + 3, 1: 3 * 2 + 5 * 2 + 3 * 2, 3: 6 + 6 + 3 * 6})
    assert trained_at(brackets, [0]) == {0: 9 + 6 + 6 + 15 + 6 + 27}


def test_a_rate_throughout_is_the_equation_s() -> None:
    settings = SearchSettings(0, 1000, 100)
    # Every second iteration takes 8 of 10 seconds.
    assert predicted(TIMES, Stan(rate=0.5), (), settings) == pytest.approx(20 / 9)
    assert predicted(TIMES, Stan(rate=1), (), settings) == pytest.approx(2.0)


@pytest.mark.parametrize("text", ["stan:auto", "stan:annealed"])
def test_rates_that_change_count_by_the_iterations_that_have_them(text: str) -> None:
    settings, way = SearchSettings(0, 9, 1), way_of(text)
    stan = Stan(**{"period": 1, **(way.stan or {})})
    rates = rates_of(stan, way, settings)
    # R is 9: rates of 1/4 to iteration 1, of 1/2 to 3, and all of them; or a third of it each.
    assert rates == (((0, 0.25), (1, 0.5), (3, 1.0)) if text == "stan:auto" else ((0, 0.25), (3, 0.5), (6, 1.0)))
    share = trained_at(settings.plan(), [start for start, _ in rates])
    alone = {start: predict(TIMES, Stan(rate=rate)) for start, rate in rates}
    seconds = sum(count * 20 / (alone[start] or 0) for start, count in share.items())
    assert predicted(TIMES, stan, rates, settings) == pytest.approx(20 * sum(share.values()) / seconds)
