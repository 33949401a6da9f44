"""Parametrizations, copies and code that asks for classes: they find in accelerated layers what they know."""

from __future__ import annotations

import copy
import io
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from all_kinds import QUIET, agree, all_kinds, images, network, trained
from compared import both_rates, reduced
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from stantune import Stan, accelerate_, restore_
from stantune.errors import UsageError
from stantune.stan.config import Memo
from stantune.stan.layers.fusion import evaluated_natively
from stantune.stan.layers.meprop import MeProp, MePropLinear

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


@both_rates
@pytest.mark.parametrize("name", ["0.0", "0.1", "1.0", "3", "5"])
@pytest.mark.parametrize("everything", [False, True])
def test_spectral_norms_move_once_in_a_pass(rate: float, name: str, everything: bool) -> None:
    """Each look at a parametrized weight computes it anew."""
    model = all_kinds(network()) if everything else reduced(network(), rate)
    looks: list[Tensor] = []

    class Looked(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            looks.append(weight)
            return weight * 1

    parametrize.register_parametrization(model.get_submodule(name), "weight", Looked())
    looks.clear()
    model(images())
    assert len(looks) == 1


@pytest.mark.parametrize("rate", [1, 0.5])
def test_spectral_norms_of_a_convolution_by_itself_move_once_in_a_pass(rate: float) -> None:
    conv, stock = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
    stock.load_state_dict(conv.state_dict())
    reduced(conv, rate)
    for each in (conv, stock):
        torch.manual_seed(1)
        parametrizations.spectral_norm(each)
        each(images())
    assert torch.equal(conv.parametrizations.weight[0]._u, stock.parametrizations.weight[0]._u)


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


def of_its_own(layer: nn.Module) -> nn.Module:
    """Give a layer attributes of its owner's, with names that STAN uses for its own."""
    layer.last = True
    layer.memory = {"bank": [1]}
    layer.top_k = 3
    layer.is_native = "no"
    layer.register_buffer("grid", torch.ones(2))
    layer.register_parameter("sizes", nn.Parameter(torch.ones(1)))
    layer.watch = nn.Identity()
    return layer


def attributes(model: nn.Module) -> list[dict[str, object]]:
    kept = ("_parameters", "_buffers", "_modules")
    return [
        {name: dict(value) if name in kept else value for name, value in vars(module).items()}
        for module in model.modules()
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 1},
        {"rate": 0.5},
        {"memo": Memo(samples=4, epoch=1), "linear": ("3", "5")},
        {"rate": 1, "meprop": MeProp(2)},
    ],
    ids=["exact", "reduced", "memo", "meProp"],
)
def test_what_a_layers_owner_has_set_stays_his(settings: dict[str, Any]) -> None:
    names = ("0.0", "0.1", "1.2", "3", "5")

    def owned() -> nn.Module:
        model = network()
        model[0].last, model[0].memory = True, {"bank": [1]}
        for name in names:
            of_its_own(model.get_submodule(name))
        return model

    stock, model = owned(), owned()
    before = str(attributes(model))
    handle = accelerate_(model, Stan(**settings), example=images())
    refused = [line for line in handle.report if line.name in names]
    wanted = "its own attribute 'grid' has a name that STAN's layers need; rename it"
    assert {line.reason for line in refused} - {"rate=1 computes every entry"} == {wanted}
    assert not any(line.native or line.patterns or line.top_k for line in refused)
    assert [model.get_submodule(name).grid.tolist() for name in names] == [[1, 1]] * 5
    other, third = copy.deepcopy(model), copy.deepcopy(model)
    if "memo" not in settings and settings["rate"] == 1:
        gradients = []
        for each in (third, stock):
            each(images()).square().sum().backward()
            gradients.append([one.grad for one in each.parameters() if one.grad is not None])
        agree(*gradients)
    for each in (model, other):
        restore_(each)
    assert str(attributes(model)) == before
    assert other[0].last is other[0][0].last is True


def test_nothing_is_left_of_a_native_evaluation() -> None:
    model = reduced(network())
    with evaluated_natively(model):
        assert model[0][0].natively_evaluated
    restore_(model)
    assert "natively_evaluated" not in vars(model[0][0])


def test_modules_of_a_sequence_may_have_any_name() -> None:
    names = ("original", "grid", "last", "qconfig_", "memory")
    model = nn.Sequential(OrderedDict({name: nn.Conv2d(3, 3, 3, padding=1) for name in names}))
    layers = list(model)
    reduced(model)
    assert [getattr(model, name) for name in names] == layers
