"""Batches: a permutation per epoch, a pure function of (seed, iteration), and the float64 formula for pixels."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stantune.errors import UsageError
from stantune.images.data import Batch, Batches, Dataset, Normalise, Normaliser, Split, hold_out, in_order, splits
from stantune.images.data.parts import part_of

PLAIN = Normaliser(None, 1.0)


def random_split(count: int, height: int = 3, width: int = 4, channels: int = 3, offset: int = 0) -> Split:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)
    return Split(images, torch.randint(0, 10, (count,), generator=generator), torch.arange(offset, offset + count))


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


sizes = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(size=sizes, seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 1000))
def test_each_sample_comes_at_most_once_per_epoch(size: tuple[int, int], seed: int, epoch: int) -> None:
    count, batch_size = size
    batches = Batches(random_split(count, offset=7), batch_size, seed, PLAIN)
    assert batches.per_epoch == count // batch_size
    first = epoch * batches.per_epoch
    ids = torch.cat([batches.at(i).ids for i in range(first, first + batches.per_epoch)]).tolist()
    assert len(ids) == count - count % batch_size == len(set(ids))
    assert set(ids) <= set(range(7, 7 + count))


@given(size=sizes, seed=st.integers(0, 2**64 - 1), calls=st.lists(st.integers(0, 200), min_size=1, max_size=12))
def test_a_batch_depends_on_seed_and_iteration_only(size: tuple[int, int], seed: int, calls: list[int]) -> None:
    split = random_split(size[0])
    batches = Batches(split, size[1], seed, PLAIN)
    torch.manual_seed(calls[0])  # the global random state has no part in it, and is left alone
    state = torch.get_rng_state()
    for iteration in calls:
        assert same(batches.at(iteration), Batches(split, size[1], seed, PLAIN).at(iteration))
    assert torch.equal(state, torch.get_rng_state())


@given(size=sizes, seed=st.integers(0, 1000), iteration=st.integers(0, 100))
def test_images_labels_and_ids_belong_together(size: tuple[int, int], seed: int, iteration: int) -> None:
    split = random_split(size[0])
    images, labels, ids = Batches(split, size[1], seed, PLAIN).at(iteration)
    assert torch.equal(labels, split.labels[ids])
    assert torch.equal(images.permute(0, 2, 3, 1), split.images[ids].float())


def test_data_that_a_gpu_has_no_room_for_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch's "meta" stands for a GPU: it has shapes and no numbers.
    split, free = random_split(20), 2**20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert split.has_room_on("cuda:0")
    free = 2 * split.nbytes - 1
    assert not split.has_room_on("cuda:0")
    assert split.has_room_on("cpu")
    with monkeypatch.context() as patched:
        # Memory that earlier trainings gave back is free, too, although the GPU's driver does not know.
        patched.setattr(torch.cuda, "memory_reserved", lambda device: 11)
        patched.setattr(torch.cuda, "memory_allocated", lambda device: 10)
        assert split.has_room_on("cuda:0")
    assert split.nbytes == 20 * (3 * 4 * 3 + 8 + 8)
    resident = Batches(split, 4, 0, PLAIN, device="meta")
    assert resident.at(0).inputs.is_meta
    with monkeypatch.context() as patched:
        patched.setattr(Split, "has_room_on", lambda self, device: False)
        moved, here = Batches(split, 4, 0, PLAIN, device="meta"), Batches(split, 4, 0, PLAIN, device="cpu")
    assert not moved._split.inputs.is_meta
    shapes = [[each.shape for each in batches.at(7)] for batches in (resident, moved)]
    assert shapes[0] == shapes[1]
    assert all(part.is_meta for part in moved.at(7))
    assert same(here.at(7), Batches(split, 4, 0, PLAIN).at(7))


def test_a_copy_that_is_there_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    split, where = random_split(20), torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    copy = split.to("meta")
    copies = {where: copy}
    monkeypatch.setitem(splits._COPIES, split, copies)
    assert split.has_room_on("cuda:0")
    assert not random_split(20).has_room_on("cuda:0")


def test_the_order_is_the_documented_one() -> None:
    # Written out anew: a change would give every recorded search another course.
    digest = hashlib.blake2b(b"str:order\x1fint:5\x1fint:2", digest_size=8).digest()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1))
    batches = Batches(random_split(10), 4, 5, PLAIN)
    assert torch.cat([batches.at(4).ids, batches.at(5).ids]).tolist() == order[:8].tolist()


def test_seeds_and_epochs_differ() -> None:
    split = random_split(1000, 1, 1, 1)
    orders = {
        tuple(Batches(split, 1000, seed, PLAIN).at(epoch).ids.tolist()) for seed in range(20) for epoch in range(20)
    }
    assert len(orders) == 400


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_float32_and_channels_last(channels: int) -> None:
    images, labels, ids = Batches(random_split(10, 3, 4, channels), 5, 0, PLAIN).at(0)
    assert images.shape == (5, channels, 3, 4)
    assert images.stride() == (12 * channels, 1, 4 * channels, channels)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (images.dtype, labels.dtype, ids.dtype) == (torch.float32, torch.int64, torch.int64)


@given(
    count=st.integers(1, 30),
    channels=st.integers(1, 4),
    scale=st.floats(1e-3, 10),
    kind=st.sampled_from(["none", "image", "channel"]),
)
def test_normalisation_is_the_float64_formula(count: int, channels: int, scale: float, kind: Any) -> None:
    split = random_split(count, 3, 2, channels)
    found = Normalise(scale, kind).fit(split)(split.images)
    pixels = split.images.double()
    mean = {"none": torch.zeros(()), "image": pixels.mean(0), "channel": pixels.mean((0, 1, 2))}[kind]
    expected = ((pixels - mean) * scale).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.double(), expected, rtol=2e-7, atol=2e-5 * scale)


def test_the_mean_image_is_exact_over_many_pieces() -> None:
    # 2500 images of near-white pixels: a float32 sum over all would have lost whole units.
    images = torch.full((2500, 2, 2, 1), 254, dtype=torch.uint8)
    images[::3] = 255
    split = Split(images, torch.zeros(2500, dtype=torch.int64), torch.arange(2500))
    mean = Normalise(mean="image").fit(split).mean
    assert mean is not None
    assert torch.equal(mean, torch.full((2, 2, 1), 254 + 834 / 2500, dtype=torch.float64).float())


def test_a_batch_of_real_data(cifar10: Dataset, mnist: Dataset) -> None:
    train = cifar10.train.take(0, 2000)
    batch = Batches(train, 100, 3, Normalise(mean="image").fit(train)).at(25)
    expected = cifar10.train.images[batch.ids].double() - train.images.double().mean(0)
    torch.testing.assert_close(batch.inputs.permute(0, 2, 3, 1).double(), expected, rtol=0, atol=2e-5)
    assert torch.equal(batch.targets, cifar10.train.labels[batch.ids])
    digits = Batches(mnist.train, 100, 0, Normalise(scale=1 / 256).fit(mnist.train)).at(0)
    assert torch.equal(digits.inputs[:, 0], mnist.train.images[digits.ids, :, :, 0].float() / 256)


def shift(images: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Adds noise drawn from the generator, and returns another memory format than it was given."""
    return (images + torch.rand(images.shape, generator=generator)).contiguous()


def test_augmentation_is_a_pure_function_too() -> None:
    split = random_split(12)
    batches = Batches(split, 4, 9, PLAIN, augment=shift)
    once = [batches.at(i) for i in range(9)]
    again = [Batches(split, 4, 9, PLAIN, augment=shift).at(i) for i in reversed(range(9))]
    assert all(same(a, b) for a, b in zip(once, reversed(again), strict=True))
    noise = [batch.inputs - split.images[batch.ids].permute(0, 3, 1, 2) for batch in once]
    assert all(part.min() >= 0 and part.max() <= 1 for part in noise)
    assert not torch.equal(noise[0], noise[3])
    assert once[0].inputs.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_sees_the_ids_and_may_crop() -> None:
    seen: list[Tensor] = []

    def crop(images: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(ids)
        return images[:, :, 1:, :2]

    batch = Batches(random_split(12), 4, 9, PLAIN, augment=crop).at(1)
    assert torch.equal(seen[0], batch.ids)
    assert batch.inputs.shape == (4, 3, 2, 2)


@pytest.mark.parametrize("wrong", [lambda x, i, g: x[:1], lambda x, i, g: None, lambda x, i, g: x[:, 0]])
def test_augmentation_that_loses_images_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"augment must return images for a batch of \(4, 3, 3, 4\)"):
        Batches(random_split(12), 4, 9, PLAIN, augment=wrong).at(0)


def test_a_batch_is_not_overwritten_by_the_next() -> None:
    batches = Batches(random_split(12), 4, 0, PLAIN)
    first = batches.at(0)
    copy = first.inputs.clone()
    batches.at(1)
    assert torch.equal(first.inputs, copy)


@given(count=st.integers(0, 20), batch_size=st.integers(1, 25))
def test_in_order_gives_every_sample_once(count: int, batch_size: int) -> None:
    split = random_split(count)
    batches = list(in_order(split, batch_size, Normalise(scale=0.5).fit(split)))
    assert [len(batch.ids) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert [i for batch in batches for i in batch.ids.tolist()] == list(range(count))
    for batch in batches:
        assert torch.equal(batch.inputs.permute(0, 2, 3, 1), split.images[batch.ids].float() * 0.5)
        assert torch.equal(batch.targets, split.labels[batch.ids])


@pytest.mark.parametrize("batch_size", [0, -1, 13])
def test_a_batch_size_that_does_not_fit_is_refused(batch_size: int) -> None:
    with pytest.raises(UsageError, match=f"batch size {batch_size} does not fit 12 training samples: choose 1 to 12"):
        Batches(random_split(12), batch_size, 0, PLAIN)


def test_other_bad_use_is_refused() -> None:
    with pytest.raises(UsageError, match="no training iteration -1"):
        Batches(random_split(4), 2, 0, PLAIN).at(-1)
    with pytest.raises(UsageError, match="batch size 0 is too small"):
        next(in_order(random_split(4), 0, PLAIN))
    with pytest.raises(UsageError, match="mean='pixel' is not a kind of mean: choose none, image or channel"):
        Normalise(mean="pixel")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one training sample"):
        Normalise(mean="image").fit(random_split(0))


@pytest.mark.parametrize("how", ["first", "random", "stratified"])
def test_a_default_device_of_the_process_is_not_the_datas(how: str) -> None:
    def drawn() -> list[Tensor]:
        train, held = hold_out(Split(whole.inputs, whole.targets), 8, how)
        normaliser = Normalise(mean=(1.0, 2.0, 3.0)).fit(train)
        return [held.ids, part_of(train, 10, 0).ids, *Batches(train, 4, 0, normaliser).at(3)]

    whole = random_split(40)
    expected = drawn()
    with torch.device("meta"):
        found = drawn()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
