"""Samples in memory: which kinds are taken, how they are held, and what is refused with a word on what to give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stantune.errors import UsageError
from stantune.images.data import Batches, Dataset, Normalise, Split, in_order


@pytest.mark.parametrize(
    ("inputs", "held", "seen"),
    [
        (torch.zeros(6, 4, 5, 3, dtype=torch.uint8), ((6, 4, 5, 3), torch.uint8), ((2, 3, 4, 5), torch.float32)),
        (torch.zeros(6, 4, 5, dtype=torch.int16), ((6, 4, 5, 1), torch.int16), ((2, 1, 4, 5), torch.float32)),
        (torch.zeros(6, 3, 4, 5).permute(0, 2, 3, 1), ((6, 4, 5, 3), torch.float32), ((2, 3, 4, 5), torch.float32)),
        (torch.zeros(1, 4, 5, 3).expand(6, 4, 5, 3), ((6, 4, 5, 3), torch.float32), ((2, 3, 4, 5), torch.float32)),
        (np.zeros((6, 4, 5), np.float64), ((6, 4, 5, 1), torch.float32), ((2, 1, 4, 5), torch.float32)),
        (np.zeros((6, 7)), ((6, 7), torch.float32), ((2, 7), torch.float32)),
        (np.zeros((6, 7), np.float16), ((6, 7), torch.float16), ((2, 7), torch.float32)),
        ([[0.0, 1.0]] * 6, ((6, 2), torch.float32), ((2, 2), torch.float32)),
        (np.zeros((7, 6), np.uint8).T, ((6, 7), torch.uint8), ((2, 7), torch.float32)),
        (np.zeros((6, 7), np.int32), ((6, 7), torch.int32), ((2, 7), torch.int64)),
        (torch.zeros(6, 7, dtype=torch.int64), ((6, 7), torch.int64), ((2, 7), torch.int64)),
    ],
    ids=lambda value: str(getattr(value, "shape", ""))[:30],
)
def test_kinds_of_inputs(inputs: Any, held: Any, seen: Any) -> None:
    split = Split(inputs, np.arange(6))
    assert (tuple(split.inputs.shape), split.inputs.dtype) == held
    assert split.inputs.is_contiguous()
    assert split.ids.tolist() == list(range(6))
    normaliser = Normalise(scale=0.5, mean="channel", std="image").fit(split)
    for batch in (Batches(split, 2, 0, normaliser).at(0), next(in_order(split, 2, normaliser))):
        assert (tuple(batch.inputs.shape), batch.inputs.dtype) == seen
        if batch.inputs.dim() == 4:
            assert batch.inputs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("targets", "held", "seen"),
    [
        (np.arange(6, dtype=np.uint8), torch.int64, torch.int64),
        (torch.arange(6), torch.int64, torch.int64),
        (np.arange(6.0), torch.float32, torch.float32),
        (torch.zeros(6, 3), torch.float32, torch.float32),
        (np.zeros((6, 4), bool), torch.bool, torch.float32),
        (torch.zeros(6, 8, 8, dtype=torch.uint8), torch.uint8, torch.int64),
        (np.full((6, 8, 8), 2**16 - 1, np.uint16), torch.uint16, torch.int64),
        (np.full((6, 8, 8), 2**63 - 1, np.uint64), torch.uint64, torch.int64),
        (np.full(6, 2**16 - 1, np.uint16), torch.int64, torch.int64),
    ],
    ids=lambda value: str(getattr(value, "shape", value))[:30],
)
def test_kinds_of_targets(targets: Any, held: torch.dtype, seen: torch.dtype) -> None:
    split = Split(torch.zeros(6, 2), targets)
    assert split.targets.dtype == held
    assert split.targets.tolist() == targets.tolist()
    assert Batches(split, 2, 0, Normalise().fit(split)).at(0).targets.dtype == seen
    assert next(in_order(split, 2, Normalise().fit(split))).targets.dtype == seen


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(6, dtype=torch.uint8), torch.zeros(6)), r"inputs are torch.uint8 of shape \(6,\): give images"),
        ((torch.zeros(6, 2, 2, 2, 2), torch.zeros(6)), r"inputs are torch.float32 of shape \(6, 2, 2, 2, 2\): give"),
        ((torch.zeros(6, 4, 4, 3, dtype=torch.int64), torch.zeros(6)), "as uint8, int16 or float, or token ids"),
        ((torch.zeros(6, 4, dtype=torch.bool), torch.zeros(6)), "inputs are torch.bool"),
        ((np.array([["a"]]), [1]), "inputs cannot be made a tensor .*: give a tensor or a NumPy array of numbers"),
        ((torch.zeros(6, 4), torch.zeros(5)), r"targets are of shape \(5,\), and its inputs 6: give one target for"),
        ((torch.zeros(6, 4), torch.tensor(5)), r"targets are of shape \(\), and its inputs 6"),
        (
            (torch.zeros(6, 4), np.full((6, 2), 2**63, np.uint64)),
            "targets are torch.uint64 and go beyond 9223372036854775807; give smaller ones, or give them as float",
        ),
        ((torch.zeros(6, 4), np.full(6, 2**64 - 1, np.uint64)), "targets are torch.uint64 and go beyond"),
        ((torch.zeros(6, 4), torch.zeros(6), torch.zeros(6)), r"ids are torch.float32 of shape \(6,\): give int64"),
        ((torch.zeros(6, 4), torch.zeros(6), torch.arange(5)), r"give int64 \(6,\), or leave them out"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Split(*given)


def test_a_data_set_takes_pairs_and_needs_no_test_samples() -> None:
    data = Dataset("pairs", (np.zeros((6, 3)), np.arange(6)))
    assert (len(data.train), len(data.test), data.test.inputs.shape[1:], data.classes) == (6, 0, (3,), None)
    with pytest.raises(UsageError, match="data set 'odd': its test is a dict: give a Split, or a pair"):
        Dataset("odd", (np.zeros((6, 3)), np.arange(6)), {"x": 1})
    with pytest.raises(UsageError, match=r"an input of test is \(4,\) and one of train \(3,\): give both the same"):
        Dataset("odd", (np.zeros((6, 3)), np.arange(6)), (np.zeros((2, 4)), np.arange(2)))


@pytest.mark.parametrize("classes", [2.5, "3", 0, True], ids=str)
def test_a_number_of_classes_is_whole(classes: Any) -> None:
    with pytest.raises(UsageError, match=r"`classes`=.* give"):
        Dataset("odd", (np.zeros((6, 3)), np.arange(6)), classes=classes)
    assert repr(Dataset("whole", (np.zeros((6, 3)), np.arange(6)), classes=np.int64(6)).classes) == "6"
    with pytest.raises(UsageError, match="`name`=None is no text"):
        Dataset(None, (np.zeros((6, 3)), np.arange(6)))  # type: ignore[arg-type]


def test_a_table_is_normalised_by_feature() -> None:
    values = np.random.default_rng(0).normal(3.0, [1.0, 50.0, 0.0], (500, 3)).astype(np.float32)
    split = Split(values, np.zeros(500))
    before = split.inputs.clone()
    seen = Normalise(mean="channel", std="channel", scale=2.0).fit(split)(split.inputs)
    wanted = 2 * (values - values.mean(0)) / np.where(values.std(0) > 1e-6, values.std(0), 1)
    np.testing.assert_allclose(seen.numpy(), wanted, atol=2e-4)
    assert torch.equal(split.inputs, before), "what is held is never written to"


@pytest.mark.parametrize("constant", [0.1, -0.42421296, 1 / 3, 1e-30, 12345.678])
def test_what_is_the_same_in_all_samples_is_divided_by_1(constant: float) -> None:
    """Of such numbers the mean of squares is seldom the square of the mean, and a deviation of 1e-8 remained."""
    values = torch.randn(3000, 6, 5, 2)
    values[:, 0, 0, 0] = constant
    values[..., 1] = constant
    image, channel = (Normalise(std=kind).fit(Split(values, torch.zeros(3000))).std for kind in ("image", "channel"))
    assert image is not None
    assert channel is not None
    assert (image[0, 0, 0], channel[1]) == (1, 1)
    assert bool((image[..., 1] == 1).all())
    torch.testing.assert_close(channel[0], values[..., 0].double().std(correction=0).float())


def test_a_deviation_far_below_the_mean_is_found() -> None:
    seconds = 1.6e9 + 128.0 * torch.randint(0, 9, (2000, 1))
    std = Normalise(std="channel").fit(Split(seconds, torch.zeros(2000))).std
    assert std is not None
    torch.testing.assert_close(std, seconds.double().std(0, correction=0).float())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_samples_on_a_gpu_are_held_on_the_host() -> None:
    data = Dataset("there", (torch.zeros(6, 3).cuda(), torch.arange(6).cuda()))
    assert (data.train.inputs.device.type, data.train.targets.device.type) == ("cpu", "cpu")


def test_deviations_are_per_position_or_channel() -> None:
    pixels = torch.randint(0, 256, (50, 4, 5, 3), dtype=torch.uint8)
    split = Split(pixels, torch.zeros(50, dtype=torch.int64))
    image, channel = (Normalise(std=kind).fit(split).std for kind in ("image", "channel"))
    torch.testing.assert_close(image, pixels.double().std(0, correction=0).float())
    torch.testing.assert_close(channel, pixels.double().std((0, 1, 2), correction=0).float())


def test_augmentation_of_a_table_keeps_its_samples() -> None:
    split = Split(torch.arange(12.0).reshape(6, 2), torch.arange(6))
    plain = Normalise().fit(split)
    batch = Batches(split, 3, 0, plain, augment=lambda inputs, ids, generator: inputs.double() + 1).at(0)
    assert torch.equal(batch.inputs, split.inputs[batch.ids] + 1)
    with pytest.raises(UsageError, match=r"augment must return inputs for a batch of \(3, 2\), not \(2, 2\)"):
        Batches(split, 3, 0, plain, augment=lambda inputs, ids, generator: inputs[:2]).at(0)
