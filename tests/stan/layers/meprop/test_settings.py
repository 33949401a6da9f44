"""meProp's settings: values of which identities are made; what is none is refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from stantune.errors import UsageError
from stantune.stan.config import Stan
from stantune.stan.layers.meprop import MeProp, MePropLinear


@pytest.mark.parametrize("top_k", [-2, 1.5, True])
def test_a_top_k_that_is_no_number_of_components_is_refused(top_k: int) -> None:
    with pytest.raises(UsageError, match=f"top_k={top_k} of meProp"):
        MePropLinear(3, 4, top_k=top_k)
    with pytest.raises(UsageError, match=f"top_k={top_k} of meProp"):
        MeProp(top_k)


@pytest.mark.parametrize("layers", ["fc1", ()])
def test_layers_that_are_no_tuple_of_names_are_refused(layers: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"`meprop\.layers`"):
        MeProp(80, layers=layers)


def test_what_was_made_when_biases_were_always_sparse_is_known_again() -> None:
    before = {"top_k": 3, "unified": False, "layers": ("*",)}
    assert MeProp(3, sparse_bias=True).identity == before
    assert MeProp(3).identity == before | {"sparse_bias": False}
    assert Stan(meprop=MeProp(3)).identity["meprop"] == MeProp(3).identity


def test_settings_are_values() -> None:
    settings = MeProp(0)
    assert settings == MeProp(0, unified=False, layers=("*",), sparse_bias=False)
    with pytest.raises(FrozenInstanceError):
        settings.top_k = 1  # type: ignore[misc]
