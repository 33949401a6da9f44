"""The fills: which computed entry each skipped one takes, what it receives, and where gradients go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stantune.stan.entries.entries import PATTERNS, EntryMatrix, Grid, Pattern
from stantune.stan.entries.fill import (
    memo_at,
    memo_of_exact,
    nearest_computed,
    neighbour,
    neighbour_at,
    neighbour_of_exact,
    sources,
    spread,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def places(height: int, width: int) -> Tensor:
    """Return (row, column) of each flat index, (height * width, 2)."""
    return torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(-1, 2)


def squared_distances(height: int, width: int) -> Tensor:
    """Return the squared distance of every pair of flat indices, (height * width, height * width)."""
    at = places(height, width)
    return (at[:, None] - at).square().sum(-1)


def nearest_by_search(entries: Tensor) -> Tensor:
    """Compare every entry with every computed one, in ascending order of flat index: O(n^2)."""
    batch, height, width = entries.shape
    distances = squared_distances(height, width).tolist()
    found = []
    for sample in entries.flatten(1).tolist():
        computed = [index for index, true in enumerate(sample) if true]
        found.append([min(computed, key=row.__getitem__) for row in distances])
    return torch.tensor(found, dtype=torch.int64).view(batch, height, width)


@st.composite
def matrices(draw: st.DrawFn, longest: int = 9, batches: int = 3) -> Tensor:
    """Draw an E with at least one computed entry in each sample, (B, H, W)."""
    batch, height, width = draw(st.integers(0, batches)), draw(st.integers(1, longest)), draw(st.integers(1, longest))
    size = height * width
    some = st.sets(st.integers(0, size - 1), min_size=1, max_size=draw(st.sampled_from([1, 3, size])))
    entries = torch.zeros(batch, size, dtype=torch.bool)
    for sample in entries:
        sample[sorted(draw(some))] = True
    return entries.view(batch, height, width)


@given(entries=matrices())
def test_nearest_computed_is_what_a_search_finds(entries):
    nearest = nearest_computed(entries)
    assert nearest.dtype == torch.int64
    assert nearest.shape == entries.shape
    assert torch.equal(nearest, nearest_by_search(entries))


@pytest.mark.parametrize("shape", [(1, 700), (700, 1), (3, 400), (150, 130)], ids=str)
def test_nearest_computed_on_long_sides(shape):
    height, width = shape
    corner = torch.zeros(1, height, width, dtype=torch.bool)
    corner[0, -1, -1] = True
    assert (nearest_computed(corner) == height * width - 1).all()
    both = corner.clone()
    both[0, 0, 0] = True
    at = places(height, width)
    to_first, to_last = at.square().sum(1), (at - at[-1]).square().sum(1)
    wanted = torch.where(to_first <= to_last, 0, height * width - 1).view(1, height, width)
    assert torch.equal(nearest_computed(both), wanted)


def test_of_equally_near_entries_the_first_is_taken():
    entries = torch.tensor([[[0, 1, 0], [1, 0, 1], [0, 1, 0]]], dtype=torch.bool)
    assert nearest_computed(entries).tolist() == [[[1, 1, 1], [3, 1, 5], [3, 7, 5]]]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (torch.ones(2, 3), r"entries are \(2, 3\), not \(B, H, W\)"),
        (torch.ones(1, 2, 3), r"entries are torch\.float32"),
        (torch.tensor([[[True]], [[False]], [[False]]]), "sample 1 has no computed entry"),
        (torch.ones(2, 0, 3, dtype=torch.bool), "sample 0 has no computed entry"),
    ],
)
def test_nearest_computed_refuses(entries, sentence):
    with pytest.raises(ValueError, match=sentence):
        nearest_computed(entries)


@settings(max_examples=50)
@given(entries=matrices(longest=5))
def test_spread_copies_and_its_gradient_is_the_adjoint(entries):
    torch.manual_seed(0)
    values = torch.randn(len(entries), 2, *entries.shape[1:], dtype=torch.float64, requires_grad=True)
    nearest = nearest_by_search(entries)
    output = spread(values, nearest)
    upstream = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, values, upstream)
    copies = torch.nn.functional.one_hot(
        nearest.flatten(1), entries.shape[1] * entries.shape[2]
    ).double()  # (B, to, from)
    assert torch.equal(output.flatten(2), values.flatten(2) @ copies.mT)
    torch.testing.assert_close(gradient.flatten(2), upstream.flatten(2) @ copies)


@settings(max_examples=50)
@given(entries=matrices(longest=6))
def test_filling_from_computed_rows_is_filling_from_the_exact_output(entries):
    torch.manual_seed(0)
    exact = torch.randn(len(entries), 3, *entries.shape[1:], dtype=torch.float64, requires_grad=True)
    remembered = torch.randn_like(exact)
    for fast, oracle in (
        (
            lambda rows: neighbour_at(rows, entries, nearest_computed(entries)),
            neighbour_of_exact(exact, EntryMatrix(entries)),
        ),
        (lambda rows: memo_at(rows, entries, remembered), memo_of_exact(exact, EntryMatrix(entries), remembered)),
    ):
        output = fast(exact.movedim(1, -1)[entries])
        assert torch.equal(output, oracle)
        upstream = torch.randn_like(output)
        got, wanted = (torch.autograd.grad(way, exact, upstream)[0] for way in (output, oracle))
        torch.testing.assert_close(got, wanted)


@given(
    length=st.integers(1, 2000),
    period=st.sampled_from([1, 2, 4]),
    first=st.integers(0, 3),
)
def test_a_grid_fills_from_a_nearest_computed_place(length, period, first):
    first %= period
    if length < period:
        length += period
    grid = Grid(Pattern(1, period), 0, first)
    computed = torch.arange(first, length, period)
    row = neighbour(computed.float().view(1, 1, 1, -1), 1, length, grid).long().flatten()
    assert torch.equal(row, sources(length, period, first))
    every = torch.arange(length)
    assert torch.equal((row - every).abs(), (every[:, None] - computed).abs().amin(1))
    if length % period == 0:  # equally near: the one inside the place's own period
        tied = (row - every).abs() * 2 == period
        assert torch.equal(row[tied] // period, every[tied] // period)


@given(
    name=st.sampled_from(sorted(PATTERNS)),
    top=st.integers(0, 1),
    left=st.integers(0, 3),
    height=st.integers(6, 13),
    width=st.integers(12, 17),
)
def test_a_grids_own_fill_differs_from_any_matrixs_in_ties_only(name, top, left, height, width):
    pattern = PATTERNS[name]
    grid = Grid(pattern, top % pattern.rows, left % pattern.columns)
    numbers = torch.arange(height * width, dtype=torch.float64).view(1, 1, height, width)
    own = neighbour_of_exact(numbers, grid).long().flatten()
    other = neighbour_of_exact(numbers, EntryMatrix(grid.matrix(height, width)[None])).long().flatten()
    distances = squared_distances(height, width)
    every = torch.arange(height * width)
    assert torch.equal(distances[every, own], distances[every, other])
    assert (other <= own).all()
    assert grid.matrix(height, width).flatten()[own].all()


def test_the_quarter_along_a_row_takes_the_nearer_side():
    exact = torch.arange(14.0).view(1, 1, 1, 14)
    filled = [neighbour_of_exact(exact, Grid(PATTERNS["quarter"], 0, left)).flatten().tolist() for left in range(4)]
    assert filled == [
        [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12],
        [1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, 13, 13],
        [2, 2, 2, 2, 6, 6, 6, 6, 10, 10, 10, 10, 10, 10],
        [3, 3, 3, 3, 3, 7, 7, 7, 7, 11, 11, 11, 11, 11],
    ]


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_the_gradient_of_a_grids_fill_is_the_adjoint(pattern):
    for grid in (Grid(pattern, top, left) for top in range(pattern.rows) for left in range(pattern.columns)):
        kept = torch.randn(2, 2, *grid.kept_size(5, 11), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda kept, grid=grid: neighbour(kept, 5, 11, grid), (kept,))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 7)], ids=["convolution", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memo_keeps_what_was_remembered_and_gives_it_no_gradient(shape, dtype):
    torch.manual_seed(0)
    exact = torch.randn(shape, requires_grad=True)
    remembered = torch.randn(shape).to(dtype).requires_grad_()
    entries = torch.rand(shape if len(shape) == 2 else (shape[0], *shape[2:])) < 0.5
    computed = exact.movedim(1, -1)[entries] if len(shape) == 4 else exact[entries]
    whole = entries.unsqueeze(1).expand(shape) if len(shape) == 4 else entries
    for output in (memo_of_exact(exact, EntryMatrix(entries), remembered), memo_at(computed, entries, remembered)):
        assert output.dtype == torch.float32
        assert torch.equal(output[whole], exact[whole])
        assert torch.equal(output[~whole], remembered[~whole].float())
        got, none = torch.autograd.grad(output.sum(), [exact, remembered], allow_unused=True)
        assert torch.equal(got, whole.float())
        assert none is None


def test_memo_on_a_grid_is_memo_on_its_matrix():
    exact, remembered = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    grid = Grid(PATTERNS["blocks"], 1, 0)
    wanted = memo_of_exact(exact, EntryMatrix(grid.matrix(5, 4).expand(2, 5, 4)), remembered)
    assert torch.equal(memo_of_exact(exact, grid, remembered), wanted)
    assert torch.equal(memo_of_exact(exact[..., :1], grid, remembered[..., :1]), exact[..., :1])


@pytest.mark.parametrize("fill", [neighbour_of_exact, lambda exact, entries: memo_of_exact(exact, entries, exact)])
def test_entries_of_another_output_are_refused(fill):
    exact = torch.randn(2, 3, 5, 4)
    with pytest.raises(ValueError, match=r"entries are \(2, 4, 5\), not \(2, 5, 4\)"):
        fill(exact, EntryMatrix(torch.ones(2, 4, 5, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"entries are torch\.int64"):
        fill(exact, EntryMatrix(torch.ones(2, 5, 4, dtype=torch.int64)))
