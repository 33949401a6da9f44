"""Parametrizations, copies and code that asks for classes: they find in accelerated layers what they know."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from all_kinds import QUIET, agree, all_kinds, images, network, trained
from compared import both_rates, reduced
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from stantune import Stan, accelerate_, restore_
from stantune.errors import UsageError
from stantune.stan.layers.meprop import MePropLinear

pytestmark = QUIET


@pytest.mark.parametrize("norm", ["spectral_norm", "weight_norm", "orthogonal"])
def test_layers_that_are_parametrized_later_are_exact(norm: str) -> None:
    results = []
    for model in (network(), reduced(network()), all_kinds(network())):
        for layer in (model[0][0], model[1][0], model[3]):
            torch.manual_seed(1)
            getattr(parametrizations, norm)(layer)
        if isinstance(model[5], MePropLinear):
            model[5].top_k = 0
        results.append([*trained(model, twice=True), *model.buffers()])
    agree(results[1:], results[:1] * 2)


@pytest.mark.parametrize("norm", ["spectral_norm", "weight_norm", "orthogonal"])
def test_layers_that_are_parametrized_later_are_restored(norm: str) -> None:
    model, stock = all_kinds(network()), network()
    for each in (model, stock):
        for layer in (each[0][0], each[1][0], each[3], each[5]):
            torch.manual_seed(1)
            getattr(parametrizations, norm)(layer)
    with pytest.raises(UsageError, match="accelerated already"):
        accelerate_(model, Stan())
    own = copy.deepcopy(model)
    for each in (model, own):
        restore_(each)
        for found, expected in zip(each.modules(), stock.modules(), strict=True):
            assert type(found).__name__ == type(expected).__name__
            assert [base.__name__ for base in type(found).__mro__] == [base.__name__ for base in type(expected).__mro__]
    agree(trained(model), trained(stock))
    for layer in (model[0][0], model[1][0], model[3], model[5]):
        parametrize.remove_parametrizations(layer, "weight")
    assert [type(module) for module in model.modules()] == [type(module) for module in network().modules()]
    accelerate_(model, Stan())


def test_spectral_norms_move_once_in_a_pass() -> None:
    """Each look at a parametrized weight computes it anew."""
    model = reduced(network())
    looks = []

    class Looked(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            looks.append(weight)
            return weight * 1

    parametrize.register_parametrization(model[1][0], "weight", Looked())
    looks.clear()
    model(images())
    assert len(looks) == 1


def test_layers_are_found_as_pytorchs_by_isinstance_and_restored_ones_by_their_class_too() -> None:
    def empty(layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.zeros_(layer.weight)

    model = all_kinds(network())
    model.apply(empty)
    assert not any(model.get_submodule(name).weight.any() for name in ("0.0", "1.0", "3", "5"))
    restore_(model)
    assert [type(model.get_submodule(name)) for name in ("0.0", "3", "5")] == [nn.Conv2d, nn.Linear, nn.Linear]


@both_rates
@pytest.mark.parametrize("keep", [copy.copy, copy.deepcopy, "pickle", "save"])
def test_copies_and_saved_models_train_exactly_and_are_restored(rate: float, keep: Any) -> None:
    model = reduced(network(), rate)
    if keep == "pickle":
        other = pickle.loads(pickle.dumps(model))
    elif keep == "save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = keep(model)
    if keep is not copy.copy:  # which shares the layers
        agree(trained(other), trained(network()))
    restore_(other)
    agree(trained(other), trained(network()))
    assert [type(module) for module in other.modules()] == [type(module) for module in network().modules()]
