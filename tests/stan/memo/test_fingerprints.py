"""Fingerprints notice every change of a sample's input, and none that is only rounding."""

from __future__ import annotations

import pytest
import torch

from stantune.errors import UsageError
from stantune.stan.memo.fingerprints import Fingerprints


@pytest.fixture
def images():
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 50


def seen(images):
    """Return fingerprints that saw every image once."""
    fingerprints = Fingerprints(20)
    fingerprints.check(torch.arange(len(images)), images)
    return fingerprints


def test_the_same_inputs_pass_in_any_order_batch_and_memory_layout(images):
    fingerprints = Fingerprints(20)
    generator = torch.Generator().manual_seed(1)
    for size in (12, 5, 1, 12):
        ids = torch.randperm(12, generator=generator)[:size]
        fingerprints.check(ids, images[ids])
        fingerprints.check(ids, images[ids].to(memory_format=torch.channels_last))
        fingerprints.check(ids, images[ids] * (1 + 1e-6))
        with torch.autocast("cpu", torch.bfloat16):
            fingerprints.check(ids, images[ids])


@pytest.mark.parametrize(
    "augment",
    [
        lambda one: one.flip(-1),
        lambda one: one.roll(1, -2),
        lambda one: one + 0.5,
        lambda one: one * 1.01,
        lambda one: one + 0.01 * one.std() * torch.randn(one.shape, generator=torch.Generator().manual_seed(2)),
        lambda one: torch.cat([one[:, :6], torch.zeros_like(one[:, 6:])], 1),
    ],
    ids=["flip", "shift", "brightness", "contrast", "noise", "cut out"],
)
@pytest.mark.parametrize("place", range(12))
def test_a_changed_sample_is_refused_by_name_and_its_first_input_stays(images, augment, place):
    fingerprints = seen(images)
    ids = torch.arange(12).flip(0)
    changed = images[ids].clone()
    changed[11 - place] = augment(changed[11 - place])
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"sample {place} differs from its first visit.* augmentation off, or"):
            fingerprints.check(ids, changed)
    fingerprints.check(ids, images[ids])


def test_ids_that_do_not_stay_with_their_samples_are_refused(images):
    fingerprints = seen(images)
    with pytest.raises(UsageError, match="or its id was another sample's"):
        fingerprints.check(torch.arange(12), images.roll(1, 0))


def test_another_number_or_shape_of_samples_is_refused(images):
    fingerprints = seen(images)
    with pytest.raises(UsageError, match="given 3 sample ids for a batch of 12"):
        fingerprints.check(torch.arange(3), images)
    with pytest.raises(UsageError, match=r"saw samples of the shape \(3, 8, 8\) and now of \(3, 8, 7\)"):
        fingerprints.check(torch.arange(12), images[..., :7])


def test_an_input_that_is_not_finite_is_not_taken_for_a_changed_one(images):
    images[3, 0, 0, 0] = torch.nan
    seen(images).check(torch.arange(12), images)


def test_small_changes_do_not_add_up_unnoticed(images):
    fingerprints = seen(images)

    def drift():
        for visit in range(1, 60):
            fingerprints.check(torch.arange(12), images * (1 + 2e-5 * visit))

    with pytest.raises(UsageError, match="differs from its first visit"):
        drift()


def test_a_saved_state_goes_on(images):
    resumed = Fingerprints(20)
    resumed.load_state_dict(seen(images).state_dict())
    with pytest.raises(UsageError, match="differs"):
        resumed.check(torch.arange(12), images.flip(-1))
    resumed.check(torch.arange(12), images)
    with pytest.raises(UsageError, match="of 20 samples, and this run has 21"):
        Fingerprints(21).load_state_dict(resumed.state_dict())


def test_four_bytes_are_held_for_a_sample():
    assert Fingerprints(1000).bytes == 4000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_they_are_the_same_under_other_defaults(images, dtype, device):
    """A process may have other ones for the user's own tensors."""
    expected = seen(images).state_dict()["first"]
    ids = torch.arange(len(images))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            found = Fingerprints(20)
            found.check(ids, images)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(found.state_dict()["first"], expected, rtol=0, atol=0, equal_nan=True)
