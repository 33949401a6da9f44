"""The random states of a process, and how a training has its own: as if it were alone there, whoever takes turns."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from stantune.seeds import derive

# NumPy's old generator, which is the one that is the same for a whole process, takes no larger seeds.
_LARGEST = 2**32


class _States(NamedTuple):
    """States of the generators that Python and NumPy have for a whole process."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]


class OwnRandom:
    """Python's and NumPy's random states of one training, for augmentations and the like that draw from them.

    Torch's are the trial's own (Trial): they are needed in every step, and take a hundredth of the time.
    """

    def __init__(self, *seed: int | str) -> None:
        self._states = _of_seed(derive(*seed))

    @contextmanager
    def here(self) -> Iterator[None]:
        """Have the process's generators be these within; afterwards they are what they were."""
        before = _live()
        _put(self._states)
        try:
            yield
        finally:
            self._states = _live()
            _put(before)

    @staticmethod
    def state() -> dict[str, Any]:
        """Return the states as they are within `here`, in plain values and tensors."""
        (version, numbers, gauss), (_, keys, *rest) = _live()
        return {
            "python": [version, torch.tensor(numbers), gauss],
            "numpy": [torch.from_numpy(keys.astype(np.int64)), *rest],
        }

    @staticmethod
    def restore(state: Mapping[str, Any]) -> None:
        """Go on from a state, within `here`."""
        version, numbers, gauss = state["python"]
        keys, *rest = state["numpy"]
        kept = "MT19937", keys.numpy().astype(np.uint32), *rest
        _put(_States((version, tuple(numbers.tolist()), gauss), kept))


@contextmanager
def seeded(seed: int, cuda: int | None = None) -> Iterator[None]:
    """Have all random states of the process follow from a seed within; afterwards they are what they were.

    Torch's, those of the host and of one CUDA device, and Python's and NumPy's.
    """
    before = _live()
    with torch.random.fork_rng([] if cuda is None else [cuda]):
        # Not torch.manual_seed: it seeds every device, and the caller's random state on the others is not ours.
        torch.default_generator.manual_seed(seed)
        if cuda is not None:
            with torch.cuda.device(cuda):
                torch.cuda.manual_seed(seed)
        _put(_of_seed(seed))
        try:
            yield
        finally:
            _put(before)


def _of_seed(seed: int) -> _States:
    of_numpy: Any = np.random.RandomState(seed % _LARGEST).get_state()
    return _States(random.Random(seed).getstate(), of_numpy)


def _live() -> _States:
    of_numpy: Any = np.random.get_state()
    return _States(random.getstate(), of_numpy)


def _put(states: _States) -> None:
    random.setstate(states.python)
    np.random.set_state(states.numpy)
