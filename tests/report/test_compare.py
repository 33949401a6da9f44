"""A comparison in words and in a table: the numbers of the comparison, none of them hidden."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from stantune.compare.comparison import Arm, Comparison, EqualTime, Training
from stantune.images.solving.measures import MEASURES
from stantune.protocols import Metric
from stantune.report.compare import CompareResult, compare_result, label, sentences, show_comparison
from stantune.stan.config import Memo, Stan


def whole(seconds: float, *errors: float | None, kept: float = 1.0, iterations: int = 1000) -> tuple[Training, ...]:
    """Return a training per error, of so many seconds each; None diverged at iteration 7."""
    return tuple(
        Training(iterations, seconds, kept, error, None) if error is not None else Training(7, 0.1, kept, None, 7)
        for error in errors
    )


EXACT = whole(30.0, 24.0, 23.0, 25.0)
HALF = Arm(
    "0.5",
    Stan(),
    Stan(),
    1.55,
    whole(20.0, 24.2, 23.1, 25.0, kept=0.5),
    EqualTime(667, whole(20.1, 26.0, 25.0, 27.9, iterations=667)),
)


ERROR = MEASURES["error"].metric_on("test")


def result(*arms: Arm, exact: tuple[Training, ...] = EXACT, metric: Metric = ERROR) -> CompareResult:
    return compare_result("cq", {"lr": 0.01}, 2, Comparison(1000, exact, arms or (HALF,), metric))


def shown(result: CompareResult) -> str:
    text = io.StringIO()
    show_comparison(Console(file=text, width=80, highlight=False, markup=False), result)
    return text.getvalue()


def test_the_numbers_are_those_of_the_comparison() -> None:
    found = result().model_dump()
    stan = {"seconds_per_iteration": 0.02, "seconds": 20.0, "test_error": [24.2, 23.1, 25.0], "kept": 0.5}
    difference = {"mean": pytest.approx(0.1), "spread": pytest.approx(0.1)}
    equal = {
        "iterations": 667,
        "seconds": pytest.approx(20.1),
        "test_error": [26.0, 25.0, 27.9],
        "error_difference": {"mean": pytest.approx(2.3), "spread": pytest.approx(0.27**0.5)},
    }
    of_first = {"speedup": 1.5, "predicted_speedup": 1.55, "error_difference": difference, "equal_time": equal}
    assert found == {
        "schema_version": "stantune.compare/1",
        "problem": "cq",
        "params": {"lr": 0.01},
        "iterations": 1000,
        "seeds": 3,
        "threads": 2,
        "metric": {"name": "test error", "direction": "minimize", "unit": "%"},
        "exact": {"seconds_per_iteration": 0.03, "seconds": 30.0, "test_error": [24.0, 23.0, 25.0], "kept": 1.0},
        "stan": stan,
        **of_first,
        "arms": [
            {
                "rate": 0.5,
                "tolerance": None,
                "fill": "neighbour",
                "period": 1,
                "pretrain": 0,
                "tail": 0,
                "stan": stan,
                "speedup_spread": 0.0,
                **of_first,
            }
        ],
    }


def test_the_plan_is_told_where_auto_was_asked() -> None:
    planned = Arm(
        "auto", Stan(rate="auto"), Stan(rate=0.25, period=4, pretrain=10, tail=5, iterations=1000), 1.2, EXACT, None
    )
    arm = result(planned).arms[0]
    assert (arm.rate, arm.period, arm.pretrain, arm.tail, arm.equal_time) == ("auto", 4, 10, 5, None)
    assert result(replace(HALF, asked=Stan(tolerance=0.3))).arms[0].tolerance == 0.3
    assert result(replace(HALF, asked=Stan(memo=Memo(9, 3)), stan=Stan(memo=Memo(9, 3)))).arms[0].fill == "memo"


def test_the_first_arm_stands_for_the_comparison() -> None:
    trainings = whole(10.0, 30.0, 30.0, 30.0, kept=0.25)
    other = Arm("0.25", Stan(rate=0.25), Stan(rate=0.25), 2.75, trainings, None)
    found = result(other, HALF)
    assert [arm.rate for arm in found.arms] == [0.25, 0.5]
    for name in ("stan", "speedup", "predicted_speedup", "error_difference", "equal_time"):
        assert getattr(found, name) == getattr(found.arms[0], name)
        assert getattr(found, name) != getattr(found.arms[1], name)
    assert found.speedup == 3.0


def rows(text: str) -> dict[str, list[str]]:
    """Return the table's cells by the words that its lines begin with."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[1:] if line.strip(" ─")]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_table() -> None:
    text = shown(result())
    assert text.splitlines()[0] == "cq: lr=0.01; 1000 iterations, 3 seeds, 2 threads"
    found = rows(text)
    sentence = text.splitlines()[-1]
    assert sentence == sentences(result())[-1]
    del found[sentence]
    assert found == {
        "exact": ["STAN 1/2"],
        "an iteration": ["30.0 ms", "20.0 ms"],
        "whole training": ["30 s", "20 s"],
        "times faster": ["1.50 ± 0.00"],
        "as predicted": ["1.55"],
        "entries kept": ["100 %", "50 %"],
        "exact, as long": [],
        "iterations": ["667"],
        # Those of the exact trainings of equal time come last.
        "test error, %": ["26.30 ± 1.47"],
        "points worse": ["+2.30 ± 0.52"],
    }
    before = rows(text.split("exact, as long")[0])
    assert before["test error, %"] == ["24.00 ± 1.00", "24.10 ± 0.95"]
    assert before["points worse"] == ["+0.10 ± 0.10"]


def test_the_table_fits_a_terminal() -> None:
    arms = (HALF, replace(HALF, asked=Stan(rate=0.25)), replace(HALF, asked=Stan(rate="auto")))
    text = shown(result(*arms)).split("STAN 1/2 trains")[0]
    assert max(map(len, text.splitlines())) <= 80
    assert "24.10 ± 0.95   24.10 ± 0.95   24.10 ± 0.95" in text, "no cell is folded"


def test_without_equal_time_it_is_not_spoken_of() -> None:
    text = shown(result(replace(HALF, equal_time=None)))
    assert "as long" not in text
    assert "same time" not in text


@pytest.mark.parametrize(
    ("seconds", "error", "said"),
    [
        (20.0, 24.25, "trains cq 1.50 times faster and ends 0.25 points worse."),
        (60.0, 23.5, "trains cq 0.50 times as fast as exact training and ends 0.50 points better."),
        (30.01, 24.001, "trains cq as fast as exact training and ends with the same error."),
    ],
)
def test_the_sentence_of_one_seed(seconds: float, error: float, said: str) -> None:
    arm = replace(HALF, trainings=whole(seconds, error), equal_time=None)
    assert sentences(result(arm, exact=whole(30.0, 24.0))) == [f"STAN 1/2 {said}"]


@pytest.mark.parametrize(
    ("measure", "exact", "stan", "ends", "row"),
    [
        ("accuracy", (90.0,), (92.0,), "ends 2.00 points better in accuracy", ["-2.00"]),
        ("accuracy", (90.0, 91.0), (89.0, 89.0), "ends 1.50 ± 0.71 points worse in accuracy", ["+1.50 ± 0.71"]),
        ("accuracy", (90.0,), (90.001,), "ends with the same accuracy", ["-0.00"]),
        ("R2", (0.8,), (0.804,), "ends 0.004 better in R2", ["-0.004"]),
        ("R2", (0.8, 0.8), (0.804, 0.796), "ends with the same R2 (± 0.005657)", ["+0 ± 0.005657"]),
        ("R2", (0.7, 0.1), (0.6, 0.2), "ends with the same R2 (± 0.1414)", ["+0 ± 0.1414"]),
        ("mean squared error", (0.0021,), (0.0034,), "ends 0.0013 worse in mean squared error", ["+0.0013"]),
    ],
)
def test_other_measures_than_errors(
    measure: str, exact: tuple[float, ...], stan: tuple[float, ...], ends: str, row: list[str]
) -> None:
    metric = MEASURES[measure].metric_on("test")
    arm = replace(HALF, trainings=whole(20.0, *stan), equal_time=None)
    found = result(arm, exact=whole(30.0, *exact), metric=metric)
    assert sentences(found) == [f"STAN 1/2 trains cq 1.50 times faster and {ends}."]
    assert (found.metric.name, found.metric.direction) == (metric.name, metric.direction)
    cells = rows(shown(found))
    assert f"test {measure}{', %' if measure == 'accuracy' else ''}" in cells
    assert cells["points worse" if measure == "accuracy" else "worse by"] == row


def test_the_sentence_of_several() -> None:
    assert sentences(result()) == [
        "STAN 1/2 trains cq 1.50 times faster and ends 0.10 ± 0.10 points worse; "
        "training exactly for the same time ends 2.30 ± 0.52 points worse."
    ]
    same = replace(HALF, trainings=whole(20.0, 24.5, 22.5, 25.0), equal_time=None)
    assert sentences(result(same)) == [
        "STAN 1/2 trains cq 1.50 times faster and ends with the same error (± 0.50 points)."
    ]


def test_who_diverged_is_told() -> None:
    some = replace(HALF, trainings=whole(20.0, 24.5, None, 25.0), equal_time=None)
    none = replace(HALF, asked=Stan(rate=0.25), trainings=whole(20.0, None, None, None), equal_time=None)
    found = result(some, none)
    assert sentences(found) == [
        "STAN 1/2 diverged with seed 1; what is said of it is of the other seeds.",
        "STAN 1/2 trains cq 1.50 times faster and ends 0.25 ± 0.35 points worse.",
        "STAN 1/4 diverged with every seed.",
    ]
    assert found.stan.test_error == [24.5, None, 25.0]
    assert (found.stan.seconds, found.stan.seconds_per_iteration) == (20.0, pytest.approx(40.1 / 2007))
    lost = found.arms[1]
    assert (lost.speedup, lost.speedup_spread, lost.stan.seconds) == (None, None, None)
    assert (lost.error_difference.mean, lost.error_difference.spread) == (None, None)
    assert rows(shown(found))["whole training"] == ["30 s", "20 s", "–"]
    nothing = result(some, exact=whole(30.0, None, 23.0, None))
    assert sentences(nothing) == [
        "exact training diverged with seed 0, 2; what is said of it is of the other seeds.",
        "STAN 1/2 diverged with seed 1; what is said of it is of the other seeds.",
    ]
    assert nothing.speedup is None
    short = replace(HALF, equal_time=EqualTime(667, whole(20.1, None, None, None)))
    assert sentences(result(short))[-1].endswith("; training exactly for the same time diverges.")


@pytest.mark.parametrize(
    ("stan", "name"),
    [
        (Stan(rate=0.5), "STAN 1/2"),
        (Stan(rate=1), "STAN 1"),
        (Stan(rate="auto"), "STAN auto"),
        (Stan(rate=0.25, memo=Memo(9, 3)), "STAN 1/4 memo"),
    ],
)
def test_labels(stan: Stan, name: str) -> None:
    assert label(result(replace(HALF, asked=stan, stan=stan)).arms[0]) == name


def test_a_label_of_an_odd_share() -> None:
    arm = result().arms[0]
    assert label(arm.model_copy(update={"rate": 0.3141})) == "STAN 0.3141"
