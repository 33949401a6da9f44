"""Rates by rung: which one holds from where on."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.search.plan.fidelity import automatic_rates, chosen_rates, rates_from, rungs, text_of
from stantune.search.plan.hyperband import plan

RATES = (0.25, 0.5, 1.0)

lengths = st.tuples(st.integers(1, 20_000), st.integers(1, 500), st.integers(2, 5)).map(
    lambda drawn: (max(drawn[:2]), min(drawn[:2]), drawn[2])
)


@given(lengths)
def test_automatic_rates(length: tuple[int, int, int]) -> None:
    maximum = length[0]
    stops, rates = rungs(*length), automatic_rates(*length)
    assert len(rates) == len(stops)
    assert (stops[-1], rates[-1]) == (maximum, 1.0), "the last comparison is between exact stretches"
    assert list(rates) == sorted(rates), "never coarser than in the rung below"
    assert set(rates) <= {0.25, 0.5, 1.0}
    for stop, rate in zip(stops, rates, strict=True):
        assert (rate == 0.25) == (stop <= maximum / 9)
        assert (rate == 1.0) == (stop > maximum / 3)


def test_automatic_rates_by_hand() -> None:
    # The default searches of lenet and cq.
    assert automatic_rates(10_000, 123, 3) == (0.25, 0.25, 0.25, 0.5, 1.0)
    assert chosen_rates("auto", 4_000, 49, 3) == RATES
    assert rates_from(RATES, 4_000, 49, 3) == ((0, 0.25), (444, 0.5), (1333, 1.0))
    # By halves two rungs lie beyond R/3: 2, 4, 8, 16, 32, 64.
    assert automatic_rates(64, 2, 2) == (0.25, 0.25, 0.5, 0.5, 1.0, 1.0)


@given(lengths, st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=1, max_size=6))
def test_rates_count_from_the_top(length: tuple[int, int, int], rates: list[float]) -> None:
    stops = rungs(*length)
    if len(rates) > len(stops):
        with pytest.raises(UsageError, match=f"{len(rates)} rates, and this search has {len(stops)} rungs"):
            rates_from(rates, *length)
        return
    found = rates_from(rates, *length)
    assert found[0][0] == 0
    assert [start for start, _ in found] == sorted({start for start, _ in found})
    assert all(before[1] != after[1] for before, after in itertools.pairwise(found))

    def at(iteration: int) -> float:
        return next(rate for start, rate in reversed(found) if start <= iteration)

    for place, (start, stop) in enumerate(zip((0, *stops), stops, strict=False)):
        from_the_top = len(stops) - place
        wanted = rates[-from_the_top] if from_the_top <= len(rates) else rates[0]
        assert at(start) == at(stop - 1) == wanted
    # Every rung of every bracket ends where a stretch may end.
    assert {rung.iterations for bracket in plan(*length) for rung in bracket.rungs} == set(stops)


@given(lengths, st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=2, max_size=5))
def test_one_form_for_the_same_rates(length: tuple[int, int, int], rates: list[float]) -> None:
    if len(rates) > len(rungs(*length)):
        return
    chosen = chosen_rates(rates, *length)
    assert rates_from(chosen, *length) == rates_from(rates, *length)
    longer = [rates[0]] * (len(rungs(*length)) - len(rates)) + rates
    assert chosen_rates(longer, *length) == chosen
    if len(chosen) > 1:
        assert chosen_rates([float(part) for part in text_of(chosen).split(",")], *length) == chosen


def test_other_rates_have_another_text() -> None:
    assert text_of((0.25, 0.5, 1)) == "0.25,0.5,1"
    near = (1 / 3, 0.333333, 0.3333334)
    assert [float(text) for text in text_of(near).split(",")] == list(near)


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ("fast", "`rates`=fast is unknown; give auto, or a rate for each rung"),
        ((0.25, 2.0), "`rates`=0.25,2: 2 is no share of the work"),
        ((1.0000001, 0.5), "`rates`=1.0000001,0.5: 1.0000001 is no share of the work"),
        ((0.0, 1.0), "`rates`=0,1: 0 is no share of the work"),
        ((0.5, math.nan), "`rates`=nan is no finite number"),
        ((0.5,), "`rates`=0.5 is one rate for all rungs; give several"),
        ((0.25, 0.5, 0.5, 1), "`rates`=0.25,0.5,0.5,1 has 4 rates, and this search has 3 rungs.*6, 20, 60"),
    ],
)
def test_rates_that_make_no_sense(rates: str | tuple[float, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen_rates(rates, 60, 6, 3)
