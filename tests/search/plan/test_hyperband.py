"""Brackets against printed and hand-computed tables, promotions against their definition."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.search.plan.hyperband import Bracket, Rung, plan, promote, trained_iterations
from stantune.search.plan.values import Result

# Per (R, eta, variant): for each bracket, s_max first, its rungs as (iterations, trials); r is 1.
TABLES = {
    # Li et al., JMLR 18(185), 2018, Table 1, as printed.
    (81, 3, "table1"): [
        [(1, 81), (3, 27), (9, 9), (27, 3), (81, 1)],
        [(3, 27), (9, 9), (27, 3), (81, 1)],
        [(9, 9), (27, 3), (81, 1)],
        [(27, 6), (81, 2)],
        [(81, 5)],
    ],
    # The others are worked out by hand from n = ceil((s_max + 1) / (s + 1) eta^s) of Algorithm 1 there:
    # 5/5 81, 5/4 27 = 33.75, 5/3 9 = 15, 5/2 3 = 7.5, 5.
    (81, 3, "algorithm1"): [
        [(1, 81), (3, 27), (9, 9), (27, 3), (81, 1)],
        [(3, 34), (9, 11), (27, 3), (81, 1)],
        [(9, 15), (27, 5), (81, 1)],
        [(27, 8), (81, 2)],
        [(81, 5)],
    ],
    # 243 = 3^5, but the floating-point log(243, 3) is below 5: six brackets, not five.
    # 6/6 243, 6/5 81 = 97.2, 6/4 27 = 40.5, 6/3 9 = 18, 6/2 3 = 9, 6.
    (243, 3, "algorithm1"): [
        [(1, 243), (3, 81), (9, 27), (27, 9), (81, 3), (243, 1)],
        [(3, 98), (9, 32), (27, 10), (81, 3), (243, 1)],
        [(9, 41), (27, 13), (81, 4), (243, 1)],
        [(27, 18), (81, 6), (243, 2)],
        [(81, 9), (243, 3)],
        [(243, 6)],
    ],
    # The same with log(1000, 10). 4/4 1000, 4/3 100 = 133.3, 4/2 10 = 20, 4.
    (1000, 10, "algorithm1"): [
        [(1, 1000), (10, 100), (100, 10), (1000, 1)],
        [(10, 134), (100, 13), (1000, 1)],
        [(100, 20), (1000, 2)],
        [(1000, 4)],
    ],
    # The Hyperband study's CIFAR-10 setting: R = 300 units of 100 iterations, eta = 4; 300 is no power of 4.
    # Its 256/80/26/10/5 trials round 5/3 16 = 26.67 down, and else agree.
    (300, 4, "algorithm1"): [
        [(1, 256), (4, 64), (18, 16), (75, 4), (300, 1)],
        [(4, 80), (18, 20), (75, 5), (300, 1)],
        [(18, 27), (75, 6), (300, 1)],
        [(75, 10), (300, 2)],
        [(300, 5)],
    ],
    (300, 4, "table1"): [
        [(1, 256), (4, 64), (18, 16), (75, 4), (300, 1)],
        [(4, 64), (18, 16), (75, 4), (300, 1)],
        [(18, 16), (75, 4), (300, 1)],
        [(75, 8), (300, 2)],
        [(300, 5)],
    ],
    # 4/4 27, 4/3 9 = 12, 4/2 3 = 6, 4.
    (27, 3, "algorithm1"): [
        [(1, 27), (3, 9), (9, 3), (27, 1)],
        [(3, 12), (9, 4), (27, 1)],
        [(9, 6), (27, 2)],
        [(27, 4)],
    ],
    # 5/5 16, 5/4 8 = 10, 5/3 4 = 6.67, 5/2 2 = 5, 5.
    (16, 2, "algorithm1"): [
        [(1, 16), (2, 8), (4, 4), (8, 2), (16, 1)],
        [(2, 10), (4, 5), (8, 2), (16, 1)],
        [(4, 7), (8, 3), (16, 1)],
        [(8, 5), (16, 2)],
        [(16, 5)],
    ],
}


@pytest.mark.parametrize(("case", "table"), TABLES.items(), ids=str)
def test_tables(case: tuple[int, int, str], table: list[list[tuple[int, int]]]) -> None:
    max_iterations, eta, variant = case
    expected = tuple(
        Bracket(len(table) - 1 - index, tuple(Rung(*rung) for rung in rungs)) for index, rungs in enumerate(table)
    )
    assert plan(max_iterations, 1, eta, variant) == expected


@given(
    st.integers(1, 5000),
    st.integers(1, 50),
    st.integers(2, 7),
    st.sampled_from(["algorithm1", "table1"]),
)
def test_plan_is_the_definition(above: int, r: int, eta: int, variant: str) -> None:
    max_iterations = r + above
    brackets = plan(max_iterations, r, eta, variant)
    s_max = brackets[0].s
    assert r * eta**s_max <= max_iterations < r * eta ** (s_max + 1)
    assert [bracket.s for bracket in brackets] == list(range(s_max, -1, -1))
    for bracket in brackets:
        s = bracket.s
        share = Fraction(s_max + 1, s + 1)
        n = math.ceil(share * eta**s) if variant == "algorithm1" else math.floor(share) * eta**s
        assert len(bracket.rungs) == s + 1
        for i, rung in enumerate(bracket.rungs):
            assert rung.iterations == math.floor(Fraction(max_iterations, eta**s) * eta**i)
            assert rung.trials == math.floor(Fraction(n, eta**i)) >= 1
        assert bracket.rungs[0].iterations >= r
        assert bracket.rungs[-1].iterations == max_iterations
        # floor(n / eta^(i+1)) is floor(n_i / eta): the paper's two ways to say it agree.
        for before, rung in zip(bracket.rungs, bracket.rungs[1:], strict=False):
            assert rung.trials == before.trials // eta
            assert rung.iterations > before.iterations


def test_first_brackets_only() -> None:
    assert plan(81, 1, 3, brackets=2) == plan(81, 1, 3)[:2]
    assert plan(81, 1, 3, brackets=5) == plan(81, 1, 3)


def test_one_bracket_without_room_to_halve() -> None:
    assert plan(10, 10, 3) == (Bracket(0, (Rung(10, 1),)),)
    assert [rung.iterations for rung in plan(100, 2, 3)[0].rungs] == [3, 11, 33, 100], "counted down from R"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((81, 1, 1), "`eta`=1 is too small: .* give 2 or more"),
        ((81, 0, 3), "`min_resource`=0 is too small"),
        ((81, 82, 3), "`min_resource`=82 is above `max_resource`=81; give 81 or less"),
        ((81, 1, 3, "table2"), "`variant`=table2 is unknown; give algorithm1 or table1"),
        ((81, 1, 3, "table1", 0), "`brackets`=0 is not there: this search has 5; give 1 to 5"),
        ((81, 1, 3, "table1", 6), "`brackets`=6 is not there"),
    ],
)
def test_bad_plans(arguments: tuple[int, int, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(*arguments)


ERRORS = st.one_of(st.none(), st.just(math.nan), st.just(math.inf), st.sampled_from([0.0, 0.5, 1.0, 90.0]))


@given(st.lists(ERRORS, max_size=30), st.integers(0, 30), st.randoms(use_true_random=False))
def test_promotions_are_the_best_by_counting(errors: list[float | None], keep: int, random: object) -> None:
    results = [Result(number, error) for number, error in enumerate(errors)]
    random.shuffle(results)  # type: ignore[attr-defined]
    promoted = promote(results, keep)
    fine = {number: error for number, error in enumerate(errors) if error is not None and math.isfinite(error)}
    for number, error in fine.items():
        better = sum(1 for other, theirs in fine.items() if theirs < error or (theirs == error and other < number))
        assert (number in promoted) == (better < keep)
        if number in promoted:
            assert promoted[better] == number
    assert set(promoted) <= set(fine)


def test_diverged_trials_leave_their_places_empty() -> None:
    assert promote([Result(0, None), Result(1, 50.0), Result(2, math.nan)], 2) == (1,)
    assert promote([Result(0, None)], 1) == ()


def test_trained_iterations() -> None:
    # (16, 2) above by hand; s = 4: 16 1 + 8 1 + 4 2 + 2 4 + 1 8 = 48 against 16 + 16 + 16 + 16 + 16 = 80.
    assert trained_iterations(plan(16, 1, 2, brackets=1)) == (48, 80)
    # s = 1: 5 8 + 2 8 = 56 against 40 + 32 = 72; s = 0: 5 16 = 80 both.
    assert trained_iterations(plan(16, 1, 2)[3:]) == (136, 152)
