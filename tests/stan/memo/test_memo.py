"""The memory of the memo fill against a dictionary, and what it refuses."""

from __future__ import annotations

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.stan.memo.budget import LayerSpace
from stantune.stan.memo.memo import MemoStore, largest

SPACES = (LayerSpace("conv", (2, 3, 2)), LayerSpace("line", (3, 4)), LayerSpace("linear", (5,)))


def by_entry(sample):
    """List a sample's values (C, H, W), (C, L) or (N,) as one list of channels per entry."""
    return [[value] for value in sample.tolist()] if sample.dim() == 1 else sample.flatten(1).T.tolist()


class Plain:
    """One layer's memory as the documentation words it, in dictionaries of Python lists."""

    def __init__(self, changed, rate):
        self.changed, self.rate = changed, rate
        self.values, self.scores, self.complete = {}, {}, {}

    def known(self, sample):
        return self.complete.get(sample, 0) >= (2 if self.changed else 1)

    def chosen(self, sample, places):
        """Give E of one sample."""
        if not self.known(sample):
            return [True] * places
        order = sorted(range(places), key=lambda place: (-self.scores[sample][place], place))
        chosen = order[: math.ceil(self.rate * places)]
        return [place in chosen for place in range(places)]

    def remember(self, sample, output, entries):
        output = by_entry(output)
        if self.changed and sample in self.values:
            old = self.scores.get(sample, [0.0] * len(output))
            self.scores[sample] = [
                self.change(one, other) if computed else 2 * score
                for one, other, computed, score in zip(output, self.values[sample], entries, old, strict=True)
            ]
        self.values[sample] = output
        if all(entries):
            self.complete[sample] = self.complete.get(sample, 0) + 1

    @staticmethod
    def change(one, other):
        square = sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
        return max(float(torch.tensor(square).sqrt().bfloat16()), 2.0**-60)


@settings(max_examples=60)
@given(data=st.data())
def test_a_run_of_visits_equals_a_dictionary(data):
    samples = data.draw(st.integers(1, 6), "samples")
    positions = data.draw(st.sampled_from(["grid", "changed"]), "positions")
    rate = data.draw(st.sampled_from([0.25, 0.5, 0.75, 1.0]), "rate")
    dtype = data.draw(st.sampled_from(["bf16", "fp32"]), "dtype")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed"))
    store = MemoStore(samples, SPACES, dtype=dtype, positions=positions, rate=rate)
    plain = [Plain(positions == "changed", rate) for _ in SPACES]
    for _ in range(data.draw(st.integers(1, 9), "visits")):
        ids = data.draw(st.lists(st.integers(0, samples - 1), unique=True, max_size=samples), "ids")
        reduced = data.draw(st.booleans(), "reduced")
        store.visit(torch.tensor(ids, dtype=torch.int64))
        for layer, space in enumerate(SPACES):
            places = math.prod(space.places)
            # Eighths below 16: exact in bfloat16, and so small a range that changes are often equal.
            output = torch.randint(-3, 4, (len(ids), *space.shape), generator=generator) / 8
            entries = None
            assert store.known(layer).tolist() == [plain[layer].known(sample) for sample in ids]
            if reduced:
                known, entries, values = store.recall(layer, torch.float32)
                assert known.tolist() == [plain[layer].known(sample) for sample in ids]
                if positions == "grid":
                    assert entries is None
                    chosen = torch.rand(len(ids), *space.places, generator=generator) < 0.5
                    entries = chosen | ~known.view(-1, *[1] * len(space.places))
                else:
                    wanted = [plain[layer].chosen(sample, places) for sample in ids]
                    assert entries.shape == (len(ids), *space.places)
                    assert entries.flatten(1).tolist() == wanted if ids else not len(entries)
                assert values.shape == (len(ids), *space.shape)
                for row, sample in zip(values, ids, strict=True):
                    if plain[layer].known(sample):
                        assert by_entry(row) == plain[layer].values[sample]
                    else:
                        assert not row.any()
                output = torch.where(entries.unsqueeze(1) if len(space.shape) > 1 else entries, output, values)
            store.remember(layer, output, entries)
            for place, sample in enumerate(ids):
                computed = [True] * places if entries is None else entries[place].flatten().tolist()
                plain[layer].remember(sample, output[place], computed)


@pytest.mark.parametrize(("dtype", "kept"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_come_back_rounded_to_the_dtype_in_channels_last_memory(dtype, kept, layout):
    store = MemoStore(9, [LayerSpace("conv", (4, 5, 3))], dtype=dtype)
    output = torch.randn(3, 4, 5, 3, requires_grad=True).to(memory_format=layout)
    store.visit(torch.tensor([8, 0, 3]))
    store.remember(0, output)
    store.visit(torch.tensor([3, 8]))
    for asked in (torch.float32, torch.bfloat16, torch.float64):
        values = store.recall(0, asked).values
        assert values.dtype == asked
        assert values.is_contiguous(memory_format=torch.channels_last)
        assert not values.requires_grad
        assert torch.equal(values, output.detach()[[2, 0]].to(kept).to(asked))


def test_writing_into_what_was_recalled_changes_no_memory():
    store = MemoStore(4, [LayerSpace("conv", (2, 3, 3))], dtype="fp32")
    output = torch.randn(4, 2, 3, 3)
    store.visit(torch.arange(4))
    store.remember(0, output)
    store.visit(torch.arange(4))
    store.recall(0, torch.float32).values.zero_()
    assert torch.equal(store.recall(0, torch.float32).values, output)


def test_the_ids_are_copied():
    store = MemoStore(4, [LayerSpace("linear", (3,))])
    ids = torch.tensor([1, 2])
    store.visit(ids)
    ids.zero_()
    assert store.ids.tolist() == [1, 2]
    store.visit(torch.tensor([3], dtype=torch.uint8))
    assert store.ids.dtype == torch.int64


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (None, r"without the ids of this batch's samples; give visit\(\) a tensor \(B,\) of integers from 0 to 4"),
        ([0, 1], "sample ids of the type list"),
        (torch.tensor([0.0, 1.0]), "sample ids of the type torch.float32"),
        (torch.tensor([True, False]), "sample ids of the type torch.bool"),
        (torch.tensor([[0, 1]]), r"sample ids of the shape \(1, 2\)"),
        (torch.tensor(3), r"sample ids of the shape \(\)"),
        (torch.tensor([0, 5, 1]), "sample id 5 is not among the 5 samples"),
        (torch.tensor([4, -1]), "sample id -1 is not among the 5 samples"),
        (torch.tensor([3, 0, 2, 3]), "sample id 3 is in the batch more than once.*without replacement"),
    ],
)
def test_bad_ids_are_refused_and_the_last_batch_is_not_taken_for_this_one(ids, sentence):
    store = MemoStore(5, [LayerSpace("linear", (2,))])
    store.visit(torch.tensor([0, 4]))
    with pytest.raises(UsageError, match=sentence):
        store.visit(ids)
    for use in (
        lambda: store.ids,
        lambda: store.known(0),
        lambda: store.recall(0, torch.float32),
        lambda: store.remember(0, torch.zeros(2, 2)),
    ):
        with pytest.raises(UsageError, match=r"call visit\(ids\) before each forward pass"):
            use()


@given(ids=st.lists(st.integers(-3, 12), max_size=8))
def test_exactly_different_ids_in_range_are_taken(ids):
    store = MemoStore(9, [LayerSpace("linear", (2,))])
    if len(set(ids)) == len(ids) and all(0 <= number < 9 for number in ids):
        store.visit(torch.tensor(ids, dtype=torch.int32))
        assert store.ids.tolist() == ids
    else:
        with pytest.raises(UsageError, match="sample id"):
            store.visit(torch.tensor(ids, dtype=torch.int32))


def test_a_layer_that_runs_twice_or_a_forgotten_visit_is_noticed():
    store = MemoStore(5, [LayerSpace("conv1", (2,)), LayerSpace("conv2", (2,))])
    store.visit(torch.tensor([0, 4]))
    store.remember(0, torch.zeros(2, 2))
    store.remember(1, torch.zeros(2, 2))
    for use in (lambda: store.remember(0, torch.zeros(2, 2)), lambda: store.recall(0, torch.float32)):
        with pytest.raises(UsageError, match="layer 'conv1' runs again after it remembered this batch; call visit"):
            use()
    store.visit(torch.tensor([0, 4]))
    store.remember(0, torch.zeros(2, 2))


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (2, 2, 4, 5), (2, 3, 4, 4), (2, 2, 4)])
def test_an_output_of_another_batch_or_size_is_refused(shape):
    store = MemoStore(5, [LayerSpace("conv1", (2, 4, 4))])
    store.visit(torch.tensor([0, 4]))
    with pytest.raises(UsageError, match=r"layer 'conv1' gave an output .* with 2 ids memo expects \(2, 2, 4, 4\)"):
        store.remember(0, torch.zeros(shape))


@pytest.mark.parametrize("positions", ["grid", "changed"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_diverged_is_forgotten_and_heals_when_computed_again(positions, value, dtype):
    store = MemoStore(3, [LayerSpace("conv", (2, 3, 3))], positions=positions)
    ids = torch.arange(3)
    for _ in range(2):
        store.visit(ids)
        store.remember(0, torch.randn(3, 2, 3, 3, dtype=dtype))
    bad = torch.randn(3, 2, 3, 3, dtype=dtype)
    bad[1, 0, 2, 2] = value
    store.visit(ids)
    store.remember(0, bad)
    needed = 1 if positions == "grid" else 2
    for visit in range(needed + 1):
        store.visit(ids)
        known, entries, values = store.recall(0, torch.float32)
        assert known.tolist() == [True, visit == needed, True]
        assert values.isfinite().all()
        if entries is not None:
            assert entries[1].all() == (visit < needed)
            assert entries[0].sum() == entries[2].sum() == 5
        store.remember(0, torch.randn(3, 2, 3, 3, dtype=dtype))


def test_a_reduced_visit_alone_makes_no_sample_known():
    store = MemoStore(1, [LayerSpace("linear", (4,))])
    for entries, known in (([True, True, True, False], False), ([True] * 4, True), ([False] * 4, True)):
        store.visit(torch.tensor([0]))
        store.remember(0, torch.ones(1, 4), torch.tensor([entries]))
        assert store.known(0).tolist() == [known]


def visits_until_computed(changes, rate):
    """Count the reduced visits in which each entry that changes by `changes` per visit waits at most, in 400."""
    store = MemoStore(1, [LayerSpace("linear", (len(changes),))], dtype="fp32", positions="changed", rate=rate)
    output = torch.zeros(1, len(changes), dtype=torch.float32)
    waited, most = torch.zeros(len(changes)), torch.zeros(len(changes))
    for visit in range(402):
        output = output + torch.tensor(changes)
        store.visit(torch.tensor([0]))
        if visit < 2:
            store.remember(0, output)
            continue
        _, entries, values = store.recall(0, torch.float32)
        store.remember(0, torch.where(entries, output, values), entries)
        waited = torch.where(entries[0], 0, waited + 1)
        most = torch.maximum(most, waited)
    return most.tolist()


def test_no_entry_is_left_out_for_ever_and_those_that_change_more_are_computed_more_often():
    most = visits_until_computed([1.0, 1.0, 2.0**-9, 0.0], rate=0.5)
    assert most[0] <= 2
    assert most[1] <= 2
    assert 8 <= most[2] <= 12
    assert 55 <= most[3] <= 65


def test_the_largest_changes_are_chosen_by_their_norm_over_the_channels():
    store = MemoStore(1, [LayerSpace("conv", (2, 1, 3))], positions="changed", rate=1 / 3)
    outputs = torch.tensor([[[0.0, 0, 0], [0, 0, 0]], [[3, -4, 0], [3, 0, 4.125]]]).view(2, 1, 2, 1, 3)
    for output in outputs:
        store.visit(torch.tensor([0]))
        store.remember(0, output)
    store.visit(torch.tensor([0]))
    assert store.recall(0, torch.float32).entries.flatten().tolist() == [True, False, False]


@pytest.mark.parametrize(("rate", "kept"), [(0.07, 7), (0.29, 29), (0.001, 1), (0.501, 51), (1.0, 100)])
def test_the_share_is_rounded_up_to_whole_entries(rate, kept):
    store = MemoStore(2, [LayerSpace("linear", (100,))], positions="changed", rate=rate)
    for _ in range(2):
        store.visit(torch.tensor([0, 1]))
        store.remember(0, torch.randn(2, 100))
    store.visit(torch.tensor([0, 1]))
    assert store.recall(0, torch.float32).entries.sum(1).tolist() == [kept, kept]


@given(
    scores=st.integers(1, 9).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, math.inf]), min_size=width, max_size=width), max_size=4
        )
    ),
    data=st.data(),
)
def test_largest_equals_a_sort(scores, data):
    count = data.draw(st.integers(1, len(scores[0]) if scores else 1))
    wanted = []
    for row in scores:
        order = sorted(range(len(row)), key=lambda place: (-row[place], place))[:count]
        wanted.append([place in order for place in range(len(row))])
    assert (
        largest(torch.tensor(scores, dtype=torch.bfloat16).view(len(scores), -1 if scores else 1), count).tolist()
        == wanted
    )


@pytest.mark.parametrize("positions", ["grid", "changed"])
def test_a_saved_memory_goes_on_bit_for_bit(positions):
    def visit(store, ids, seed):
        output = torch.randn(len(ids), 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        store.visit(ids)
        known, entries, values = store.recall(0, torch.float32)
        if entries is None:
            entries = (torch.arange(4) % 2 == 0).expand(len(ids), 4, 4) | ~known[:, None, None]
        filled = torch.where(entries.unsqueeze(1), output, values)
        store.remember(0, filled, entries)
        return filled

    stores = [MemoStore(6, [LayerSpace("conv", (3, 4, 4))], positions=positions) for _ in range(2)]
    orders = [torch.randperm(6, generator=torch.Generator().manual_seed(seed))[:5] for seed in range(8)]
    for seed in range(4):
        visit(stores[0], orders[seed], seed)
    file = io.BytesIO()
    torch.save(stores[0].state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    stores[1].visit(torch.tensor([0]))
    stores[1].load_state_dict(state)
    with pytest.raises(UsageError, match="call visit"):
        stores[1].known(0)
    for kept in state["values"]:
        kept.zero_()
    for seed in range(4, 8):
        assert torch.equal(*[visit(store, orders[seed], seed) for store in stores])


@pytest.mark.parametrize(
    "other",
    [
        {"samples": 5},
        {"layers": [LayerSpace("conv", (3, 4, 2))]},
        {"layers": [LayerSpace("conv1", (3, 4, 4))]},
        {"layers": [LayerSpace("conv", (3, 4, 4))] * 2},
        {"dtype": "fp32"},
        {"positions": "changed"},
    ],
    ids=str,
)
def test_a_memory_of_another_run_is_refused(other):
    own = {"samples": 6, "layers": [LayerSpace("conv", (3, 4, 4))], "dtype": "bf16", "positions": "grid"}
    saved = MemoStore(**{**own, **other}).state_dict()
    with pytest.raises(UsageError, match=r"the saved memory is of layers .*; go on with the model"):
        MemoStore(**own).load_state_dict(saved)


@pytest.mark.parametrize("positions", ["grid", "changed"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_bytes_are_those_of_the_tensors_held(positions, dtype):
    store = MemoStore(7, SPACES, dtype=dtype, positions=positions)
    held = [kept for part in store.state_dict().values() for kept in part if isinstance(kept, torch.Tensor)]
    assert store.bytes == sum(kept.nbytes for kept in held)


def test_memory_that_the_system_refuses_is_named():
    with pytest.raises(UsageError, match=r"the system refuses the 45000000000000000 bytes .* \(Memo\(budget=bytes\)\)"):
        MemoStore(10**15, [LayerSpace("linear", (22,))])
