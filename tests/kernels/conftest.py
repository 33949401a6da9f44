"""Each form of the native arithmetic that this processor can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from stantune.kernels.library import FORMS, kernels


@pytest.fixture(scope="module", params=range(len(FORMS)), ids=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tests of a module run once in each form."""
    library = kernels().library
    if library is None:
        pytest.skip(f"no native library: {kernels().reason}")
    if request.param > library.stan_best_form():
        pytest.skip("this processor cannot run it")
    library.stan_use_form(request.param)
    yield
    library.stan_use_form(FORMS.index(kernels().form))


@pytest.fixture
def _threads() -> Iterator[None]:
    """The test may set PyTorch's number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
