"""What the callbacks take from a batch where they are not told."""

from __future__ import annotations

import pytest
import torch

from stantune.errors import UsageError
from stantune.integrations.start import first_of

IMAGES = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize("batch", [(IMAGES, 0), [IMAGES, 0], (IMAGES,)])
def test_inputs_are_what_a_batch_begins_with(batch):
    assert first_of(batch) is IMAGES


@pytest.mark.parametrize(
    "batch", [{"image": IMAGES}, [], ({"image": IMAGES}, 0), IMAGES], ids=["dict", "empty", "dict first", "tensor"]
)
def test_other_batches_need_inputs(batch):
    with pytest.raises(UsageError, match="does not begin with a tensor; give the callback inputs=, a function"):
        first_of(batch)
