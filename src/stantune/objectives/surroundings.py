"""What a process has one of: random states, number formats, threads, the working folder; and leaving it as it was."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from stantune.process.settings import put_settings, settings_now
from stantune.seeds import derive
from stantune.user_code.working_folder import kept_folder


def seed_all(seed: int, device: str) -> None:
    """Seed Python's random, NumPy's global generator, and torch's of the host, of the device, and of a Mac's GPU."""
    random.seed(derive("python", seed))
    np.random.seed(derive("numpy", seed) >> 31)
    # Not torch.manual_seed: it seeds every device, and the random states of the others are not ours.
    torch.default_generator.manual_seed(derive("torch", seed))
    if _is_cuda(device):
        with torch.cuda.device(device):
            torch.cuda.manual_seed(derive("torch", seed))
    # No place of a search's own, so that whoever trains there has said so by himself.
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(derive("torch", seed))


def random_states(device: str) -> dict[str, Any]:
    """Return all that `seed_all` seeds, as it is now."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if _is_cuda(device) else None,
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def put_back(states: Mapping[str, Any], device: str) -> None:
    """Put random states back."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if _is_cuda(device) and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    # Checkpoints of before have none.
    if torch.backends.mps.is_available() and states.get("mps") is not None:
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def as_it_was(device: str) -> Iterator[None]:
    """Put all back in the end that a training may change for its whole process, so that the next one begins alike."""
    random_before = random_states(device)
    filters = list(warnings.filters)
    settings = settings_now()
    threads = torch.get_num_threads()
    errors = np.geterr()
    on_device = torch.cuda.device(device) if _is_cuda(device) else contextlib.nullcontext()
    with kept_folder(), on_device:
        try:
            yield
        finally:
            put_back(random_before, device)
            put_settings(settings)
            torch.set_num_threads(threads)
            np.seterr(**errors)
            if warnings.filters != filters:
                # Not catch_warnings: it would have each segment say again what was said once.
                warnings.resetwarnings()
                warnings.filters[:] = filters  # type: ignore[index]  # it is a list


def _is_cuda(device: str) -> bool:
    return device.startswith("cuda")
