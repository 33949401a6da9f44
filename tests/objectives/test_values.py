"""Values of a checkpoint: parts of large tensors are written without the rest, and equal ones are known."""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stantune.objectives.values import has_lost, plain, same, tight
from stantune.training import checkpoint as checkpoints

# Of a large tensor, (300, 300), a part that spans little of it.
PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "a number": lambda large: large[3, 7],
    "a row": lambda large: large[5],
    "every third of a row": lambda large: large[5, ::3],
    "turned": lambda large: large[5].view(20, 15).T,
    "widened": lambda large: large[5, 0].expand(4, 5),
    "nothing": lambda large: large[:0],
    "a parameter": lambda large: nn.Parameter(large[5]),
    "a frozen parameter": lambda large: nn.Parameter(large[5], requires_grad=False),
    "one with a gradient": lambda large: large[5].requires_grad_(),
    "whole numbers": lambda large: large.long()[5],
    "half": lambda large: large.bfloat16()[5],
    "complex": lambda large: large.to(torch.complex64)[5],
}


def written(value: object) -> tuple[object, int]:
    """Return what a file gives back, and how large it is."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    size = buffer.tell()
    buffer.seek(0)
    return torch.load(buffer, weights_only=True), size


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_written_without_the_rest(part):
    given = PARTS[part](torch.arange(90_000.0).view(300, 300))
    value = plain([given, {"more": (given, 1)}], "it")
    assert written(value)[1] > 80_000
    made = tight(value)
    read, size = written(made)
    assert size < 10_000
    for each in (made[0], made[1]["more"][0], read[0]):
        assert torch.equal(each, given)
        assert (type(each), each.stride(), each.dtype, each.requires_grad) == (
            type(given),
            given.stride(),
            given.dtype,
            given.requires_grad,
        )
    assert made[0] is made[1]["more"][0]
    assert read[0] is read[1]["more"][0]
    # The function's own is untouched.
    assert given.untyped_storage().nbytes() > 80_000


def test_parts_that_share_their_memory_go_on_sharing_it():
    large = torch.zeros(300, 300)
    value = plain({"row": large[5], "its beginning": large[5, :3], "alone": torch.ones(300)[0]}, "it")
    made = tight(value)
    assert made["row"] is value["row"]
    read, _ = written(made)
    read["row"] += 1
    assert read["its beginning"].tolist() == [1, 1, 1]
    assert made["alone"].untyped_storage().nbytes() == 4


@pytest.mark.parametrize(
    "value",
    [
        [torch.zeros(3), {"a": torch.zeros(10)[:6]}, {1, 2}, (0.5, "a")],
        {"column": torch.zeros(300, 300)[:, 0]},
        {"sparse": torch.eye(30).to_sparse()[0]},
        {"conjugate": torch.zeros(300, dtype=torch.complex64).conj()[0]},
        {"meta": torch.zeros(300, device="meta")[0]},
    ],
)
def test_what_spans_much_of_its_memory_is_left(value):
    assert tight(value) is value


def test_all_around_a_part_is_as_it_was():
    state = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()
    part = torch.zeros(300)[0]
    part.mark = "kept"
    value = plain({"state": state, 3: [{part}, (part, None)], "size": torch.Size([2])}, "it")
    made = tight(value)
    assert list(made) == ["state", 3, "size"]
    assert type(made["state"]) is OrderedDict
    assert made["state"]._metadata == state._metadata
    assert same(made["state"], value["state"])
    assert made["size"] is value["size"]
    ((one,), (other, nothing)) = made[3]
    assert one is other
    assert (one.mark, nothing) == ("kept", None)


def test_tensors_whose_numbers_are_gone_are_known():
    given_up = torch.zeros(3)
    given_up.untyped_storage().resize_(0)
    for lost in (torch.zeros(2, device="meta"), torch.zeros(0, device="meta"), given_up, nn.Parameter(given_up)):
        assert has_lost({"a": [1, (torch.zeros(1), {"b": lost})]})
    for there in (torch.zeros(0), torch.zeros(3)[:0], torch.zeros(3)[1:], torch.eye(3).to_sparse(), None, {"a": 1}):
        assert not has_lost([there])


EQUAL = [
    None,
    1.5,
    "a",
    {1, 2},
    torch.float16,
    torch.Size([2]),
    torch.zeros(2, 3),
    nn.Parameter(torch.zeros(2)),
    {"a": [1, (torch.ones(2), {"b": None})]},
    OrderedDict(a=torch.zeros(1)),
]


@pytest.mark.parametrize("number", range(len(EQUAL)))
def test_equal_values_are_known(tmp_path, number):
    checkpoints.save(tmp_path / "c.pt", "", {"value": EQUAL[number]})
    read = checkpoints.load(tmp_path / "c.pt", "")
    assert read is not None
    found = [same(read["value"], other) for other in EQUAL]
    assert found == [place == number for place in range(len(EQUAL))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ([1], [1, 2]),
        ([1], (1,)),
        ({"a": 1}, {"b": 1}),
        ({"a": torch.zeros(1)}, {"a": torch.ones(1)}),
        (torch.zeros(1), torch.zeros(2)),
        (torch.zeros(1), torch.zeros(1, dtype=torch.float64)),
        (torch.zeros(1), torch.zeros(1, requires_grad=True)),
        (torch.zeros(()), -torch.zeros(())),
        (0.0, -0.0),
        (torch.zeros(1, device="meta"), torch.zeros(1, device="meta")),
        (torch.eye(2).to_sparse(), torch.eye(2)),
    ],
)
def test_others_are_told_apart(one, other):
    assert not same(one, other)


def test_what_is_no_number_is_the_same_as_itself():
    assert same([math.nan, torch.tensor([math.nan, 1.0])], [math.nan, torch.tensor([math.nan, 1.0])])
