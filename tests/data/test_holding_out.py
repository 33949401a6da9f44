"""What is held out: as many as asked for, of each class its share, the same ones for one seed, nothing twice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.images.data import Split, hold_out
from stantune.images.data.holding_out import HOW, MOST, are_numbers
from stantune.seeds import derive


def of(targets: list[int] | torch.Tensor) -> Split:
    return Split(torch.zeros(len(targets), 1, dtype=torch.uint8), torch.as_tensor(targets))


def by_counting(targets: torch.Tensor, count: int, seed: int) -> list[int]:
    """Return which samples are held out by class, as it was done first: class after class, counted from 0."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(derive("hold out", seed)))
    wanted = torch.bincount(targets) * count
    quotas, rests = wanted // len(targets), wanted % len(targets)
    quotas[rests.argsort(descending=True, stable=True)[: count - int(quotas.sum())]] += 1
    drawn = targets[order]
    return sorted(place for each, quota in enumerate(quotas) for place in order[drawn == each][: int(quota)].tolist())


classes = st.lists(st.integers(0, 4), min_size=2, max_size=60)


@given(targets=classes, data=st.data(), seed=st.integers(0, 99), how=st.sampled_from(HOW))
def test_each_sample_is_in_one_part_and_in_order(targets: list[int], data: st.DataObject, seed: int, how: str) -> None:
    count = data.draw(st.integers(0, len(targets) - 1))
    train, held = hold_out(of(targets), count, how, seed)
    assert len(held) == count
    assert sorted(train.ids.tolist() + held.ids.tolist()) == list(range(len(targets)))
    for part in (train, held):
        assert part.ids.tolist() == sorted(part.ids.tolist())
        assert part.targets.tolist() == [targets[place] for place in part.ids]
    again, _ = hold_out(of(targets), count, how, seed)
    assert torch.equal(again.ids, train.ids)


@given(targets=classes, data=st.data(), seed=st.integers(0, 99))
def test_each_class_has_its_share(targets: list[int], data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(1, len(targets) - 1))
    _, held = hold_out(of(targets), count, "stratified", seed)
    for each in range(5):
        exact = targets.count(each) * count / len(targets)
        assert abs(held.targets.tolist().count(each) - exact) < 1


@given(targets=st.lists(st.sampled_from((0, 1, 2, 3, 9)), min_size=2, max_size=60), data=st.data())
def test_the_same_samples_are_held_out_whatever_numbers_stand_for_the_classes(
    targets: list[int], data: st.DataObject
) -> None:
    """Also negative ones, and such that nobody could count up to."""
    count, seed = data.draw(st.integers(1, len(targets) - 1)), data.draw(st.integers(0, 99))
    numbers = torch.tensor(targets)
    expected = by_counting(numbers, count, seed)
    for those in (numbers, 2 * numbers - 5, numbers * 2**59 - 2**62):
        assert hold_out(of(those), count, "stratified", seed)[1].ids.tolist() == expected


@pytest.mark.parametrize(
    ("targets", "classes", "numbers"),
    [
        (torch.arange(50), True, False),
        (torch.arange(50), False, True),
        (torch.arange(50) % 2, False, True),
        (torch.arange(50) % 10, None, False),
        (torch.arange(50) % 11, None, True),
        (torch.arange(50) % 2 * 2 - 1, None, False),
        (torch.rand(50), False, False),
        (torch.arange(50).reshape(25, 2), False, False),
    ],
)
def test_whole_numbers_are_none_where_they_are_classes(
    targets: torch.Tensor, classes: bool | None, numbers: bool
) -> None:
    split = Split(torch.zeros(len(targets), 2), targets)
    assert are_numbers(split, 10, classes) is numbers


def test_seeds_draw_others() -> None:
    targets = torch.arange(200) % 4
    for how in ("stratified", "random"):
        drawn = {tuple(hold_out(of(targets), 20, how, seed)[1].ids.tolist()) for seed in range(5)}
        assert len(drawn) == 5
    assert hold_out(of(targets), 20)[1].ids.tolist() == list(range(180, 200))
    assert hold_out(of(targets), 20, "first")[1].ids.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("samples", "asked", "held"),
    [(100, 0.25, 25), (100, 0.001, 1), (100, None, 20), (3, None, 1), (60_000, None, MOST), (7, 3, 3)],
)
def test_by_number_or_share(samples: int, asked: float | None, held: int) -> None:
    train, validation = hold_out(of(torch.zeros(samples, dtype=torch.int64)), asked, "stratified")
    assert (len(train), len(validation)) == (samples - held, held)


def test_numbers_and_labels_are_drawn_at_random() -> None:
    split = Split(torch.zeros(50, 2), torch.rand(50, 3))
    stratified, drawn = (hold_out(split, 10, how, 3)[1] for how in ("stratified", "random"))
    assert torch.equal(stratified.ids, drawn.ids)


def test_something_must_be_left() -> None:
    with pytest.raises(UsageError, match="cannot hold out 1 of 1 training samples: choose 0 to 0"):
        hold_out(of([0]), None, "random")
