"""Which entries are computed: grids, any boolean choice, and what a pattern becomes in one dimension."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.seeds import derive
from stantune.stan.entries.entries import (
    PATTERNS,
    PLANE,
    ROUND,
    EntryMatrix,
    Grid,
    Pattern,
    along_line,
    check_entries,
    choose_patterns,
    draw_grid,
    grid_in_turn,
)

grids = st.sampled_from(list(PATTERNS.values())).flatmap(
    lambda pattern: st.builds(
        Grid, st.just(pattern), st.integers(0, pattern.rows - 1), st.integers(0, pattern.columns - 1)
    )
)


@given(grid=grids, height=st.integers(1, 20), width=st.integers(1, 20))
def test_a_grid_keeps_what_its_matrix_shows(grid, height, width):
    matrix = grid.matrix(height, width)
    wanted = [
        [row % grid.pattern.rows == grid.top and column % grid.pattern.columns == grid.left for column in range(width)]
        for row in range(height)
    ]
    assert torch.equal(matrix, torch.tensor(wanted))
    rows, columns = grid.kept_size(height, width)
    assert int(matrix.sum()) == rows * columns
    if grid.covers(height, width):
        assert rows * columns >= 1


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_in_turn_every_entry_is_computed_once_in_a_round(pattern):
    count = pattern.rows * pattern.columns
    for begin in (0, 5):
        turns = [grid_in_turn(pattern, turn) for turn in range(begin, begin + count)]
        assert torch.equal(sum(grid.matrix(4, 4).int() for grid in turns), torch.ones(4, 4, dtype=torch.int32))


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_every_entry_is_computed_equally_often(pattern):
    draws = 2000
    seen = sum(draw_grid((pattern,), 0, iteration, 0).matrix(4, 4).int() for iteration in range(draws))
    assert seen.min() > 0.8 * draws * pattern.rate
    assert seen.max() < 1.2 * draws * pattern.rate


@given(seed=st.integers(0, 1000), rounds=st.integers(1, 8), layer=st.integers(0, 5))
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_sets_of_offsets_compute_every_entry_equally_often(pattern, seed, rounds, layer):
    sets = rounds * ROUND
    drawn = {}
    for iteration in range(40 * sets):
        number = derive("set", seed, iteration) % sets
        grid = draw_grid((pattern,), seed, iteration, layer, sets)
        assert drawn.setdefault(number, grid) == grid, "a set is the same whenever it is drawn"
    assert len(drawn) == sets, "every set is drawn"
    seen = sum(grid.matrix(4, 4).int() for grid in drawn.values())
    assert torch.equal(seen, torch.full((4, 4), int(sets * pattern.rate), dtype=torch.int32))


def test_layers_differ_in_a_set_of_offsets():
    blocks = (PATTERNS["blocks"],)
    together = {tuple(draw_grid(blocks, 0, iteration, layer, 16) for layer in (0, 1)) for iteration in range(500)}
    apart = {pair for pair in together if pair[0] != pair[1]}
    assert len(together) <= 16
    assert apart


def test_one_dimensional_layers_have_the_same_rates_along_their_row():
    for name, rate in (("rows", 0.5), ("columns", 0.5), ("blocks", 0.25)):
        (pattern,) = along_line(choose_patterns(name, rate))
        assert pattern.rows == 1
        assert pattern.rate == rate
    assert along_line(choose_patterns("auto", 0.5)) == (PATTERNS["columns"],)
    assert along_line(choose_patterns("auto", 0.25)) == (PATTERNS["quarter"],) == (Pattern(1, 4),)
    assert along_line(choose_patterns("auto", 1)) == ()


def test_what_a_user_may_name_are_the_patterns_of_a_plane():
    assert [choose_patterns(name, pattern.rate) for name, pattern in PLANE.items()] == [
        (pattern,) for pattern in PLANE.values()
    ]
    with pytest.raises(UsageError, match="no pattern is called 'quarter'; there are auto, rows, columns, blocks"):
        choose_patterns("quarter", 0.25)


def test_kept_is_the_share_that_is_computed():
    entries = torch.zeros(2, 3, 4, dtype=torch.bool)
    entries[0, 0] = True
    entries[1, 2, 1:3] = True
    assert EntryMatrix(entries).kept == 6 / 24
    assert EntryMatrix(torch.tensor([[True, False, False]])).kept == 1 / 3
    assert EntryMatrix(torch.ones(0, 3, 4, dtype=torch.bool)).kept == 1


def test_entries_of_a_wrong_kind_or_shape_are_named():
    check_entries(torch.ones(2, 3, 4, dtype=torch.bool), (2, 3, 4))
    with pytest.raises(ValueError, match=r"entries are torch\.float32, not torch\.bool"):
        check_entries(torch.ones(2, 3, 4), (2, 3, 4))
    with pytest.raises(ValueError, match=r"entries are \(3, 4\), not \(2, 3, 4\)"):
        check_entries(torch.ones(3, 4, dtype=torch.bool), (2, 3, 4))
