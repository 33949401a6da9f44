"""Programs made of accelerated models, as traces, exports and scripts: stock ones, or restore_ is asked for."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from inspect import signature

import pytest
import torch
from all_kinds import QUIET, agree, all_kinds, images, network, trained
from compared import both_rates, reduced
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from stantune import restore_
from stantune.errors import UsageError
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.meprop import MePropLinear

pytestmark = QUIET

# PyTorch 2.7 takes no reason from us: it names the method that it may not compile.
TAKES_REASONS = "reason" in signature(torch.compiler.disable).parameters
WHAT_TO_DO = r"restore_\(model\)" if TAKES_REASONS else "_trained"


@pytest.mark.parametrize("again", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("accelerated", [reduced, all_kinds])
def test_traced_graphs_are_stocks(accelerated: Callable, again: Callable) -> None:
    model, stock = accelerated(network()), network()
    traced = torch.fx.symbolic_trace(again(model))
    assert str(traced.graph) == str(torch.fx.symbolic_trace(stock).graph)
    assert type(traced.get_submodule("0.0")) is StanConv2d


@both_rates
def test_a_traced_graph_trains_as_the_model_and_is_traced_again(rate: float) -> None:
    model = reduced(network(), rate)
    expected = trained(copy.deepcopy(model) if rate == 1 else model)
    traced = torch.fx.symbolic_trace(model)
    agree(trained(traced), expected)
    assert str(torch.fx.symbolic_trace(copy.deepcopy(traced)).graph) == str(traced.graph)
    agree(pickle.loads(pickle.dumps(traced)).eval()(images()), model.eval()(images()))


def test_weights_of_a_traced_meprop_layer_are_trained() -> None:
    layer, stock = MePropLinear(6, 8, top_k=2), nn.Linear(6, 8)
    stock.load_state_dict(layer.state_dict())
    input = torch.randn(4, 6)
    gradients = []
    # Alone, there is no layer left in the graph.
    for each in (layer, torch.fx.symbolic_trace(nn.Sequential(layer)), torch.fx.symbolic_trace(layer), stock):
        layer.zero_grad()
        each(input).square().sum().backward()
        gradients.append(next(each.parameters()).grad.clone())
    agree(gradients[1], gradients[0])
    agree(gradients[2], gradients[3])


@pytest.mark.parametrize("strict", [True, False])
def test_a_model_in_evaluation_is_exported_as_stocks(strict: bool) -> None:
    for accelerated in (reduced, all_kinds):
        model, stock = accelerated(network()).eval(), network().eval()
        found, expected = (torch.export.export(each, (images(),), strict=strict) for each in (model, stock))
        assert str(found.graph) == str(expected.graph)
        agree(found.module()(images()), expected.module()(images()))


def test_an_export_in_training_is_exact_or_says_what_to_do() -> None:
    stock = torch.export.export(network(), (images(),))
    for accelerated in (reduced, all_kinds):
        assert str(torch.export.export(accelerated(network()), (images(),)).graph) == str(stock.graph)
        if TAKES_REASONS:
            with pytest.raises(Exception, match=WHAT_TO_DO):
                torch.export.export(accelerated(network()), (images(),), strict=True)
        else:
            found, expected = (
                torch.export.export(each, (images(),), strict=True) for each in (accelerated(network()), network())
            )
            assert str(found.graph) == str(expected.graph)


@pytest.mark.parametrize("strict", [True, False])
def test_a_program_of_a_meprop_layer_has_gradients(strict: bool) -> None:
    layer, input = MePropLinear(6, 8, top_k=2), torch.randn(4, 6)
    programs = [torch.export.export(layer, (input,), strict=strict).module(), make_fx(layer)(input)]
    for program in programs:
        assert program(input).requires_grad


def test_one_program_of_a_training_step_is_refused_with_what_to_do() -> None:
    for model in (reduced(network()), all_kinds(nn.Sequential(*network()))[3:4]):
        torch._dynamo.reset()
        input = images() if isinstance(model[0], nn.Sequential) else torch.randn(4, 96)
        with pytest.raises(Exception, match=WHAT_TO_DO):
            torch.compile(model, backend="eager", fullgraph=True)(input)
        agree(torch.compile(model.eval(), backend="eager", fullgraph=True)(input), model(input))


def test_layers_that_compile_themselves_train_as_before() -> None:
    torch._dynamo.reset()
    model, plain = reduced(network()), reduced(network())
    model[0][0].compile(backend="eager")
    model[1].compile(backend="eager")
    agree(trained(model), trained(plain))


@pytest.mark.parametrize("name", ["", "0", "0.0", "3", "5"])
def test_scripts_say_what_to_do(name: str) -> None:
    model = all_kinds(network())
    with pytest.raises(UsageError, match=r"restore_\(model\)"):
        torch.jit.script(model.get_submodule(name))
    own = copy.deepcopy(model)
    restore_(own)
    agree(torch.jit.script(own)(images()), network()(images()))


def test_flops_are_counted_layer_by_layer() -> None:
    counts = []
    for model in (network(), reduced(network()), all_kinds(network())):
        with FlopCounterMode(display=False) as counter:
            model(images()).sum().backward()
        counts.append({name: dict(each) for name, each in counter.get_flop_counts().items()})
    for found in counts[1:]:
        assert {name.replace("Stan", ""): each for name, each in found.items()} == counts[0]


def test_extracted_features_are_the_models() -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = reduced(network(), 1)
    nodes = extraction.get_graph_node_names(model)
    assert nodes == extraction.get_graph_node_names(network())
    features = extraction.create_feature_extractor(model, ["0.2", "1.1"])(images())
    first = model[0](images())
    agree(list(features.values()), [first, model[1][:2](first)])
