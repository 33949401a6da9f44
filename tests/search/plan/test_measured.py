"""Plans that spend less than Hyperband: their integers, and what is chosen by how well rungs have ordered trials."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.search.plan.asha import async_plan
from stantune.search.plan.coordinator import ready_jobs
from stantune.search.plan.hyperband import Bracket, Rung, plan, promote, trained_iterations, wide_plan
from stantune.search.plan.measured import (
    Choices,
    OpenBracket,
    Order,
    _among,
    _passing,
    _ranked,
    choose,
    chosen_plan,
    costliest,
    fewest_trials,
    measured_plan,
    orders,
)
from stantune.search.plan.plans import plan_of
from stantune.search.plan.values import TrialRow

sizes = st.tuples(st.integers(1, 400), st.integers(1, 400), st.integers(2, 5)).map(
    lambda of: (max(of[:2]), min(of[:2]), of[2])
)


def rungs(bracket: Bracket) -> list[tuple[int, int]]:
    return [(rung.iterations, rung.trials) for rung in bracket.rungs]


def test_wide_by_hand() -> None:
    # Half as many brackets as Hyperband's 5, rounded up, in one: 3 times 81.
    assert rungs(wide_plan(81, 1, 3)) == [(1, 243), (3, 81), (9, 27), (27, 9), (81, 3)]
    assert rungs(wide_plan(81, 1, 3, 100)) == [(1, 100), (3, 33), (9, 11), (27, 3), (81, 1)]
    with pytest.raises(UsageError, match="`trials`=80 is too few: one of 81 gets to 81 iterations"):
        wide_plan(81, 1, 3, 80)


@given(sizes)
def test_wide(of: tuple[int, int, int]) -> None:
    most, least, eta = of
    wide, hyperband = wide_plan(most, least, eta), plan(most, least, eta)
    assert [rung.iterations for rung in wide.rungs] == [rung.iterations for rung in hyperband[0].rungs]
    assert all(after.trials == before.trials // eta for before, after in zip(wide.rungs, wide.rungs[1:], strict=False))
    assert wide.rungs[-1].trials == (len(hyperband) + 1) // 2
    # One bracket of Hyperband is the same; else it is about half of all.
    share = trained_iterations([wide]).continued / trained_iterations(hyperband).continued
    assert share == 1 if len(hyperband) == 1 else 1 / 3 < share < 3 / 4
    # ASHA's bracket is as wide as all of Hyperband.
    (asha,) = async_plan(most, least, eta, 4, wide.rungs[0].trials)
    assert asha.rungs == wide.rungs


@given(sizes, st.sampled_from(("algorithm1", "table1")), st.none() | st.integers(1, 9))
def test_measured(of: tuple[int, int, int], variant: str, count: int | None) -> None:
    hyperband, found = plan(*of, variant), measured_plan(*of, variant, count)
    assert len(found) == (count or (len(hyperband) + 1) // 2)
    assert found[0] == hyperband[0]
    assert all(isinstance(bracket, OpenBracket) and bracket.choices == hyperband for bracket in found[1:])
    assert trained_iterations(found).continued <= trained_iterations(costliest(found)).continued
    assert fewest_trials(found) <= sum(bracket.rungs[0].trials for bracket in found)
    # It is the same plan with more brackets at its end.
    assert measured_plan(*of, variant, len(found) + 1)[: len(found)] == found


@given(sizes, st.sampled_from(("algorithm1", "table1")))
def test_hyperband_is_hyperband(of: tuple[int, int, int], variant: str) -> None:
    assert plan_of("hyperband", "sync", *of, variant) == plan(*of, variant)


def test_measured_needs_a_bracket() -> None:
    with pytest.raises(UsageError, match="`brackets`=0 leaves none"):
        measured_plan(81, 1, 3, "algorithm1", 0)


CHOICES = plan(81, 1, 3)
# A third goes on from each rung, with so many pairs.
UNKNOWN = [Order(None, pairs, 1 / 3) for pairs in (27, 9, 3, 1)]


@pytest.mark.parametrize(
    ("correlations", "s"),
    [
        # Nothing is known: a rung is supposed to order well enough.
        ([None] * 4, 4),
        ([0.9, 0.9, None, None], 4),
        # Among the best third alone, and this is a correlation of a half among all.
        ([0.3, 0.6, None, None], 4),
        # The lowest one says nothing, or the contrary.
        ([-0.2, 0.6, None, None], 3),
        ([-0.9, 0.6, None, None], 3),
        # The lowest two.
        ([-0.9, -0.9, None, None], 2),
        # The second one says so little that the first one is of no use either.
        ([0.5, -0.9, None, None], 2),
    ],
)
def test_choices(correlations: list[float | None], s: int) -> None:
    measured = [of._replace(correlation=r) for of, r in zip(UNKNOWN, correlations, strict=True)]
    assert choose(CHOICES, measured).s == s


def test_few_pairs_say_less() -> None:
    lowest, *others = UNKNOWN
    few = lowest._replace(correlation=-0.4, pairs=4)
    assert choose(CHOICES, [few, *others]).s == 4
    assert choose(CHOICES, [few._replace(pairs=40), *others]).s == 3


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(4, 300), st.floats(0.01, 0.99))
def test_better_order_lets_more_good_settings_pass(one: float, other: float, pairs: int, share: float) -> None:
    low, high = (_passing(Order(r, pairs, share)) for r in sorted((one, other)))
    assert 0 <= low <= high + 1e-12
    assert high <= 1 + 1e-12
    assert _passing(Order(one, pairs, 1.0)) == 1


@given(st.floats(-0.99, 0.99), st.floats(0.05, 1))
def test_correlation_among_a_part_and_back(of: float, width: float) -> None:
    among = _among(of, width)
    assert abs(among) <= abs(of) + 1e-12
    assert math.isclose(_among(among, 1 / width), of, rel_tol=1e-6, abs_tol=1e-9)


def test_correlation_among_the_best_third() -> None:
    """What is said of normal distributions, on a sample of one."""
    dice, pairs = random.Random(1), []
    for _ in range(12_000):
        x = dice.gauss(0, 1)
        pairs.append((x, 0.6 * x + 0.8 * dice.gauss(0, 1)))
    best = sorted(pairs)[:4_000]
    found = _ranked(best)
    assert found is not None
    # Of the normal distribution above its upper third: its standard deviation.
    assert _among(0.6, 0.529) == pytest.approx(found, abs=0.05)
    assert _ranked(pairs) == pytest.approx(6 / math.pi * math.asin(0.3), abs=0.03)


def test_ranks_by_hand() -> None:
    assert _ranked([(1, 10), (2, 30), (3, 20), (4, 40)]) == pytest.approx(0.8)
    assert _ranked([(1, 10), (1, 10), (2, math.inf), (3, math.inf)]) == pytest.approx(8 / math.sqrt(4.5 * 4 * 4))
    assert _ranked([(1, 5), (2, 5), (3, 5), (4, 5)]) == 0
    assert _ranked([(1, 10), (2, 30), (3, 20)]) is None


def table(first: int, bracket: Bracket, error: object, diverging: frozenset[int] = frozenset()) -> list[TrialRow]:
    """Return the rows of a bracket that is through; `error` is a function of trial and iterations."""
    assert callable(error)
    rows = [TrialRow(first + n, bracket.s, {"x": float(first + n)}) for n in range(bracket.rungs[0].trials)]
    alive = [row.number for row in rows]
    for place, rung in enumerate(bracket.rungs):
        results = []
        for number in alive:
            row = rows[number - first]
            if place and number in diverging:
                row = replace(row, diverged_at=rung.iterations - 1)
            else:
                row = replace(row, errors={**row.errors, rung.iterations: error(number, rung.iterations)})
            rows[number - first] = row
            results.append(row.result(rung.iterations))
        if place + 1 < len(bracket.rungs):
            alive = sorted(promote([result for result in results if result], bracket.rungs[place + 1].trials))
    return rows


def straight(number: int, stop: int) -> float:
    return float(number + 100 / stop)


def turned(number: int, stop: int) -> float:
    return float(-number if stop == 1 else number)


def test_what_is_measured_of_a_table() -> None:
    open_plan = measured_plan(81, 1, 3, "algorithm1", 3)
    rows = table(0, open_plan[0], straight)
    assert orders(open_plan, rows) == (
        (pytest.approx(1), 27, 1 / 3),
        (pytest.approx(1), 9, 1 / 3),
        (None, 3, 1 / 3),
        (None, 1, 1 / 3),
    )
    assert orders(open_plan, table(0, open_plan[0], turned))[0] == (pytest.approx(-1), 27, 1 / 3)
    # Who diverges after all is the worst; who failed says nothing.
    lost = table(0, open_plan[0], straight, frozenset({0}))
    assert orders(open_plan, lost)[0].correlation == pytest.approx(1 - 6 * (26**2 + 26) / (27 * (27**2 - 1)))
    lost[0] = replace(lost[0], diverged_at=None, failed="killed")
    assert orders(open_plan, lost)[0] == (pytest.approx(1), 26, 1 / 3)
    # Who diverges at once is none of those that the others were chosen from.
    at_once = [row if row.number < 30 else replace(row, errors={}, diverged_at=1) for row in rows]
    assert orders(open_plan, at_once)[0] == (pytest.approx(1), 27, 27 / 30)


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[Bracket, ...], list[TrialRow]]:
    """A plan and all rows of a search by it, in which trainings diverge, fail for good and come to equal errors."""
    open_plan = measured_plan(*draw(st.sampled_from(((9, 1, 3), (27, 3, 3), (16, 1, 2), (20, 3, 4)))), "algorithm1", 3)
    ends = draw(st.dictionaries(st.tuples(st.integers(0, 40), st.integers(0, 4)), st.sampled_from(("failed", "lost"))))
    # From here on, in a rung, all fail; as where a program cannot train for longer.
    limit = draw(st.integers(0, 5))
    distinct = draw(st.integers(1, 50))
    choices, rows = Choices(open_plan), list[TrialRow]()
    for place in range(len(open_plan)):
        bracket = choices.plan(rows)[place]
        assert not isinstance(bracket, OpenBracket), "those before it are through"
        first = len(rows)
        rows += [TrialRow(first + n, bracket.s, {}) for n in range(bracket.rungs[0].trials)]
        there: Sequence[int] = range(first, len(rows))
        skipped = len(open_plan[0].rungs) - len(bracket.rungs)
        for index, rung in enumerate(bracket.rungs, skipped):
            for number in there:
                row, end = rows[number], "failed" if index >= limit else ends.get((number, index))
                if end == "failed":
                    rows[number] = replace(row, failed="killed")
                elif end == "lost":
                    rows[number] = replace(row, diverged_at=rung.iterations - 1)
                else:
                    errors = {**row.errors, rung.iterations: float(number * 7 % distinct)}
                    rows[number] = replace(row, errors=errors)
            results = [result for number in there if (result := rows[number].result(rung.iterations))]
            after = bracket.rungs[index + 1 - skipped : index + 2 - skipped]
            there = sorted(promote(results, after[0].trials)) if after else ()
    return open_plan, rows


@given(tables())
def test_failures_stop_no_plan(of: tuple[tuple[Bracket, ...], list[TrialRow]]) -> None:
    open_plan, rows = of
    for until in range(0, len(rows) + 1, 5):
        chosen_plan(open_plan, rows[:until])
        for order in orders(open_plan, rows[:until]):
            assert 0 <= _passing(order) <= 1


def test_where_nobody_is_left_of_those_that_went_on_the_plan_tells_how_many_do() -> None:
    """As for a program that cannot train for longer than its first rungs: every promoted one fails for good."""
    open_plan = measured_plan(27, 3, 3, "algorithm1", 2)
    first = table(0, open_plan[0], straight)
    lost = [replace(row, failed="killed", errors={3: row.errors[3]}) if len(row.errors) > 1 else row for row in first]
    assert orders(open_plan, lost) == ((None, 0, 1 / 3), (None, 0, 1 / 3))
    assert chosen_plan(open_plan, lost)[1].s == 2


def test_a_bracket_is_chosen_when_those_before_it_are_through() -> None:
    open_plan = measured_plan(81, 1, 3, "algorithm1", 3)
    first = table(0, open_plan[0], turned)
    for through in (0, 10, 80):
        assert chosen_plan(open_plan, first[:through]) == open_plan
    # All but the last result.
    winner = next(row for row in first if 81 in row.errors)
    cut = [replace(row, errors={1: row.errors[1]}) if row is winner else row for row in first]
    assert chosen_plan(open_plan, cut) == open_plan
    assert {job.bracket for job in ready_jobs(open_plan, cut)} == {4}
    found = chosen_plan(open_plan, first)
    assert [type(bracket) for bracket in found] == [Bracket, Bracket, OpenBracket]
    assert found[1].s == 3
    assert {(job.bracket, job.stop) for job in ready_jobs(open_plan, first)} == {(3, 3)}
    assert {job.number for job in ready_jobs(open_plan, first)} == set(range(81, 81 + 34))
    assert chosen_plan(found, first) == found
    whole = first + table(81, found[1], straight)
    choices = Choices(open_plan)
    grown = [choices.plan(whole[:until]) for until in range(len(whole) + 1)]
    assert grown[-1] == chosen_plan(open_plan, whole)
    assert all(isinstance(bracket, Bracket) and not isinstance(bracket, OpenBracket) for bracket in grown[-1])
    assert not ready_jobs(open_plan, [*whole, *table(115, grown[-1][2], straight)])


def test_a_choice_is_made_by_all_brackets_before_it() -> None:
    open_plan = measured_plan(81, 1, 3, "algorithm1", 3)
    first = table(0, open_plan[0], turned)
    # What the first bracket has of the rung of 3 iterations, the second one has the other way round.
    whole = first + table(81, chosen_plan(open_plan, first)[1], lambda n, stop: float(-n if stop == 3 else n))
    found = chosen_plan(open_plan, whole)
    assert [bracket.s for bracket in found] == [4, 3, 2]
    assert found[2] == choose(CHOICES, orders(found[:2], whole))
    assert choose(CHOICES, orders(found[:1], first)).s == 3, "by the first one alone"


def test_rungs_of_few_trials_stay_where_they_are() -> None:
    assert choose((Bracket(0, (Rung(5, 3),)),), ()).s == 0
