"""The result of a profile and its text, from times that are made up."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stantune.images.problem.built_in import BUILT_IN
from stantune.report.stan.profile import plan_sentences, profile_result, show_profile
from stantune.stan.config import Stan
from stantune.stan.planning.plan import decide
from stantune.stan.planning.timing import LayerTimes, ModelTimes, PatternTimes
from stantune.training.threads import Measured

CQ = BUILT_IN["cq"]
TIMES = ModelTimes(
    (
        LayerTimes("features.conv1", reason="not among layers=conv*"),
        LayerTimes(
            "conv2",
            0.010,
            0.020,
            0.001,
            (
                PatternTimes("rows", 0.004, 0.008, 0.3),
                PatternTimes("columns", 0.003, 0.007, 0.2),
                PatternTimes("blocks", 0.006, 0.012, 0.4),
            ),
        ),
        LayerTimes(
            "conv3",
            0.001,
            0.002,
            0.005,
            (
                PatternTimes("rows", -0.0001, 0.0002, 0.5),
                PatternTimes("columns", -0.0002, 0.0001, 0.5),
                PatternTimes("blocks", 0.0001, 0.0003, 0.7),
            ),
        ),
    ),
    step_seconds=0.06,
    rounds=5,
)


def result_of(stan: Stan, iterations: int = 1000, times: ModelTimes = TIMES):
    return profile_result(CQ, stan.rate, iterations, 2, "cpu", 7, decide(times, stan, iterations))


def text_of(result, width: int = 80) -> str:
    out = io.StringIO()
    show_profile(Console(file=out, width=width, markup=False, highlight=False), result)
    return out.getvalue()


def test_fixed_rate():
    result = result_of(Stan(rate=0.5, pattern="rows", period=4, layers=("conv*",)))
    assert (result.problem, result.batch_size, result.threads, result.device, result.seed) == ("cq", 100, 2, "cpu", 7)
    assert (result.rate, result.iterations, result.step) == (0.5, 1000, 0.06)
    assert (result.period, result.tolerance) == (4, None)
    alone, second, third = result.layers
    assert (alone.name, alone.t_f, alone.t_b, alone.t_e) == ("features.conv1", None, None, None)
    assert (alone.patterns, alone.left_alone) == ([], "not among layers=conv*")
    assert (second.t_f, second.t_b, second.t_e, second.left_alone) == (0.010, 0.020, 0.001, None)
    assert [(line.name, line.t_i, line.t_j, line.error, line.planned) for line in second.patterns] == [
        ("rows", 0.004, 0.008, 0.3, True),
        ("columns", 0.003, 0.007, 0.2, False),
        ("blocks", 0.006, 0.012, 0.4, False),
    ]
    assert [line.planned for line in third.patterns] == [True, False, False], "a fixed rate is done as asked"
    # 1000 iterations: 200 refreshes and 800 reduced ones, each of which saves 12 and 0.1 ms.
    assert result.predicted_speedup == pytest.approx(60 / (60 - 0.8 * 12.1))
    assert plan_sentences(result) == [
        "layer features.conv1 is left alone: not among layers=conv*",
        "plan: conv2, conv3: rows (drawn anew for each iteration); 4 reduced iterations after each exact one",
        "predicted: a whole run of 1000 iterations is 1.19 times as fast as exact training",
    ]


def test_auto():
    result = result_of(Stan(rate="auto", layers=("conv*",), tolerance=0.35))
    assert (result.rate, result.tolerance) == ("auto", 0.35)
    _, second, third = result.layers
    assert [line.planned for line in second.patterns] == [True, True, True]
    assert not any(line.planned for line in third.patterns)
    assert third.left_alone is not None
    assert third.t_f == 0.001, "it was timed"
    first, other, plan, predicted = plan_sentences(result)
    assert first.startswith("layer features.conv1 is left alone: ")
    assert other == f"layer conv3 is left alone: {third.left_alone}"
    assert plan == (
        "plan: conv2: rows or columns or blocks (at each refresh the cheapest whose error is at most 0.35, else every "
        f"entry); {result.period} reduced iterations after each exact one"
    )
    assert f"{result.predicted_speedup:.2f} times" in predicted


def test_numbers_of_threads_that_were_tried():
    plan = decide(TIMES, Stan(rate=0.5), 1000)
    measured = Measured(2, {1: 0.05, 2: 0.03})
    result = profile_result(CQ, 0.5, 1000, 2, "cpu", 7, plan, measured)
    assert result.threads_tried is not None
    assert [(one.threads, one.seconds) for one in result.threads_tried] == [(1, 0.05), (2, 0.03)]
    assert "by number of threads: 50.00 ms with 1, 30.00 ms with 2\n" in text_of(result)
    asked_for_none = result_of(Stan(rate=0.5))
    assert asked_for_none.threads_tried is None
    assert "number of threads" not in text_of(asked_for_none)


def test_no_refresh_and_groups_of_layers():
    times = TIMES._replace(layers=(*TIMES.layers[1:], TIMES.layers[1]._replace(name="", line=True, patterns=())))
    line = PatternTimes("columns", 0.001, 0.002, 0.1), PatternTimes("quarter", 0.002, 0.003, 0.2)
    times = times._replace(layers=(*times.layers[:2], times.layers[2]._replace(patterns=line)))
    result = result_of(Stan(rate=0.25, period=None), times=times)
    assert plan_sentences(result)[0] == (
        "plan: conv2, conv3: blocks; (the model): quarter (drawn anew for each iteration); no exact ones"
    )


def test_where_nothing_pays():
    layers = (TIMES.layers[0], TIMES.layers[2])
    result = result_of(Stan(rate="auto"), times=TIMES._replace(layers=layers))
    assert result.predicted_speedup == 1
    sentences = plan_sentences(result)
    assert len(sentences) == 3
    assert sentences[-1] == "plan: train exactly; STAN pays in no layer"


def test_text_has_a_row_for_each_pattern_within_80_columns():
    layers = [*TIMES.layers, TIMES.layers[1]._replace(name="stage.2.conv", t_b=12.3456)]
    result = result_of(Stan(rate=0.5, pattern="rows"), times=TIMES._replace(layers=tuple(layers)))
    text = text_of(result)
    lines = text.splitlines()
    table = [line for line in lines if not line.startswith(("cq: ", "layer ", "plan: ", "predicted: ", "t_f, "))]
    assert max(map(len, table)) <= 80
    assert "…" not in text
    cells = [line.split() for line in lines]
    assert ["t_f", "t_b", "t_e", "t_i", "t_j"] in cells
    assert ["layer", *["ms"] * 3, "pattern", "ms", "ms", "error", "used"] in cells
    assert ["conv2", "10.00", "20.00", "1.00", "rows", "4.00", "8.00", "0.300", "yes"] in cells
    assert ["blocks", "6.00", "12.00", "0.400"] in cells
    assert ["conv3", "1.00", "2.00", "5.00", "rows", "-0.10", "0.20", "0.500", "yes"] in cells
    assert "12346" in text, "long times are whole milliseconds"
    assert lines[0] == "cq: 100 images an iteration, 2 threads, cpu; a whole exact iteration takes 60.00 ms"
    name = "a.very.long.name.of.a.layer.that.leaves.room.for.few.columns"
    layers[-1] = layers[-1]._replace(name=name)
    tall = text_of(result_of(Stan(rate=0.5, pattern="rows"), times=TIMES._replace(layers=tuple(layers))))
    parts = [line for line in tall.splitlines() if line.strip().startswith(name)]
    assert len(parts) > 1, "the columns are in several tables, the name whole in each"
    assert max(map(len, parts)) <= 80
    one = result.model_copy(update={"threads": 1})
    assert "100 images an iteration, 1 thread, cpu" in text_of(one)
