"""Parts of a split: nested, each class in its proportion, the same for all; and what share of the images they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stantune.images.data import Split
from stantune.images.data.parts import part_of, samples_of


def split_of(classes: list[int]) -> Split:
    return Split(torch.rand(len(classes), 2), torch.tensor(classes), 1000 + torch.arange(len(classes)))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(0, 3), st.data())
def test_a_larger_part_holds_a_smaller_one_and_has_each_class_in_its_proportion(
    classes: list[int], seed: int, data: st.DataObject
) -> None:
    split = split_of(classes)
    small = data.draw(st.integers(1, len(classes)))
    large = data.draw(st.integers(small, len(classes)))
    one, other = part_of(split, small, seed), part_of(split, large, seed)
    assert len(one) == small
    assert set(one.ids.tolist()) <= set(other.ids.tolist())
    assert one.ids.tolist() == sorted(one.ids.tolist())
    for each in set(classes):
        wanted = small * classes.count(each) / len(classes)
        # Each class stands evenly in the order, so that all others together are off by half of one each.
        assert abs(int((one.targets == each).sum()) - wanted) <= 1 + len(set(classes)) / 2
    # One share for all of them, rounded: which shares it may be of each overlap.
    there = [(int((one.targets == each).sum()), classes.count(each)) for each in set(classes)]
    assert max((count - 0.5) / of for count, of in there) <= min((count + 0.5) / of for count, of in there)


def test_a_large_class_makes_up_for_many_small_ones() -> None:
    split = split_of([0] * 6000 + [each for each in range(1, 101) for _ in range(3)])
    counts = part_of(split, 2520, 0).targets.bincount().tolist()
    # Two fifths of three is one.
    assert counts == [2420] + [1] * 100


def test_the_seed_alone_decides_who_is_in_it() -> None:
    split = split_of([0, 1] * 50)
    assert part_of(split, 10, 0).ids.tolist() == part_of(split, 10, 0).ids.tolist()
    assert part_of(split, 10, 0).ids.tolist() != part_of(split, 10, 1).ids.tolist()
    assert part_of(split, 10, 0).targets.tolist().count(0) == 5


def test_all_of_them_are_the_split_itself_and_numbers_have_no_classes() -> None:
    split = Split(torch.rand(30, 2), torch.rand(30))
    assert part_of(split, 30, 0) is split
    assert len(part_of(split, 7, 0)) == 7


@pytest.mark.parametrize(
    ("share", "samples", "classes", "count"),
    [
        (1.0, 10_000, 10, 10_000),
        (133 / 400, 10_000, 10, 3325),
        (1 / 3, 9999, 10, 3333),
        (99 / 400, 10_000, 10, 2475),
        (44 / 400, 10_000, 10, 2000),
        (1 / 81, 10_000, 200, 4000),
        (1 / 81, 10_000, None, 2000),
        (1 / 81, 600, 10, 600),
        (1 / 3, 0, None, 0),
    ],
)
def test_how_many_a_share_is(share: float, samples: int, classes: int | None, count: int) -> None:
    assert samples_of(share, samples, classes) == count
