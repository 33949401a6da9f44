"""PyTorch's tools on accelerated models: they find what they find in stock ones, or are told to call restore_ first."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from inspect import signature
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, parametrize
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from stantune import Stan, accelerate_, restore_
from stantune.errors import UsageError
from stantune.kernels.library import kernels, plain_pytorch
from stantune.stan.config import Memo
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.fusion import unobserved
from stantune.stan.layers.linear import StanLinear
from stantune.stan.layers.meprop import MeProp, MePropLinear

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
both_rates = pytest.mark.parametrize("rate", [1, 0.5])
# PyTorch 2.7 takes no reason from us: it names the method that it may not compile.
TAKES_REASONS = "reason" in signature(torch.compiler.disable).parameters
WHAT_TO_DO = r"restore_\(model\)" if TAKES_REASONS else "_trained"


def network() -> nn.Sequential:
    """Two sequences whose convolutions STAN runs together with what follows them, and two linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


def images() -> Tensor:
    return torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def reduced(model: nn.Module, rate: float = 0.5) -> nn.Module:
    accelerate_(model, Stan(rate=rate, period=None))
    return model


def all_kinds(model: nn.Module) -> nn.Module:
    """Have every kind of layer that STAN knows in a `network`."""
    memo = Memo(samples=4, epoch=1)
    stan = Stan(rate=0.5, memo=memo, linear=("3",), meprop=MeProp(top_k=2, layers=("5",)))
    accelerate_(model, stan, example=images()).visit(torch.arange(4))
    assert [type(model.get_submodule(name)) for name in ("0.0", "3", "5")] == [StanConv2d, StanLinear, MePropLinear]
    return model


def trained(model: nn.Module, twice: bool = False) -> list[Tensor]:
    """Return output and gradients of a training pass, the second of two where asked for."""
    for _ in range(1 + twice):
        model.zero_grad()
        output = model(images())
        output.square().sum().backward()
    return [output.detach(), *(parameter.grad for parameter in model.parameters())]


def agree(found: object, expected: object, largest: float = 1) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * largest)


# Programs made of models.


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


# Quantization, which goes by classes.

CONFIG = quantization.get_default_qat_qconfig("fbgemm")


def prepared(model: nn.Module, prepare: Callable, training: bool) -> nn.Module:
    model.train(training).qconfig = CONFIG if training else quantization.get_default_qconfig("fbgemm")
    return prepare(model)


QUANTIZATIONS: dict[str, Callable[[nn.Module], object]] = {
    "qat": partial(prepared, prepare=quantization.prepare_qat, training=True),
    "qat in place": partial(prepared, prepare=partial(quantization.prepare_qat, inplace=True), training=True),
    "after training": partial(prepared, prepare=quantization.prepare, training=False),
    "qat, fx": lambda model: quantize_fx.prepare_qat_fx(
        model, quantization.get_default_qat_qconfig_mapping("fbgemm"), (images(),)
    ),
    "after training, fx": lambda model: quantize_fx.prepare_fx(
        model.eval(), quantization.get_default_qconfig_mapping("fbgemm"), (images(),)
    ),
    "a layer": lambda model: setattr(model[0][0], "qconfig", CONFIG),
}


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_layers_are_not_left_out_of_a_quantization_without_a_word(name: str) -> None:
    for accelerated in (reduced, all_kinds):
        model = accelerated(network())
        with pytest.raises(UsageError, match=r"restore_\(model\) first.*quantize"):
            QUANTIZATIONS[name](model)
        restore_(model)
        QUANTIZATIONS[name](model)


def test_a_model_that_was_prepared_before_is_not_converted_without_a_word() -> None:
    model = reduced(prepared(network(), quantization.prepare, training=False))
    model(images())
    with pytest.raises(UsageError, match=r"restore_\(model\) first"):
        quantization.convert(model)
    restore_(model)
    assert "Quantized" in str(quantization.convert(model)[0][0])


def test_layers_that_are_to_be_left_out_of_a_quantization_are() -> None:
    model = reduced(network())
    for layer in (model[0][0], model[1][0]):
        layer.qconfig = None
        assert layer.qconfig is None
        del layer.qconfig
        assert not hasattr(layer, "qconfig")
    dynamic = quantization.quantize_dynamic(model.eval())
    assert type(dynamic[0][0]) is StanConv2d
    assert "Quantized" in str(dynamic[3])


def test_modules_that_are_to_be_fused_are_named() -> None:
    model = reduced(network()).eval()
    with pytest.raises(AssertionError, match="StanConv2d"):
        quantization.fuse_modules(model, [["0.0", "0.1", "0.2"]])
    restore_(model)
    quantization.fuse_modules(model, [["0.0", "0.1", "0.2"]])


# Layers whose class other tools change.


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


# Code that goes by layers.


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


# Hooks of all kinds.

PLACES = ("", "0", "0.0", "0.1", "0.2", "1", "1.0", "1.1", "1.2", "3")
Events = list[tuple]


def kept(values: object) -> object:
    """Return copies of tensors, in whatever tuples."""
    if isinstance(values, Tensor):
        return values.detach().clone()
    return tuple(kept(each) for each in values) if isinstance(values, tuple) else None


def changed(values: Any) -> Any:
    return tuple(changed(each) for each in values) if isinstance(values, tuple) else values * 1.5


class Watcher:
    """Hooks of one kind on one layer, which write down what they see and change it where asked to."""

    def __init__(self, kind: str, place: str, changes: bool, events: Events) -> None:
        self.kind, self.place, self.changes, self.events = kind, place, changes, events

    def saw(self, *values: object) -> None:
        self.events.append((self.kind, self.place, kept(values)))

    def before(self, _: nn.Module, inputs: Any) -> Any:
        self.saw(inputs)
        return changed(inputs) if self.changes else None

    def before_with_names(self, _: nn.Module, inputs: Any, names: dict) -> Any:
        self.saw(inputs)
        return (changed(inputs), names) if self.changes else None

    def after(self, _: nn.Module, inputs: Any, output: Any) -> Any:
        self.saw(inputs, output)
        return changed(output) if self.changes else None

    def after_with_names(self, _: nn.Module, inputs: Any, names: dict, output: Any) -> Any:
        return self.after(_, inputs, output)

    def of_output(self, _: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: self.before(_, gradient))

    def backward(self, _: nn.Module, of_inputs: Any, of_outputs: Any) -> Any:
        self.saw(of_inputs, of_outputs)
        return None

    def backward_before(self, _: nn.Module, of_outputs: Any) -> Any:
        self.saw(of_outputs)
        return changed(of_outputs) if self.changes else None

    def of_parameter(self, parameter: Tensor) -> None:
        self.saw(parameter.grad)

    def gradient_of_parameter(self, gradient: Tensor) -> Tensor | None:
        self.saw(gradient)
        return gradient * 1.5 if self.changes else None

    def everywhere(self, of: str, *given: Any) -> Any:
        """Do as a hook that is called for all modules does, with those of one place's class."""
        return getattr(self, of)(*given)


def register(watcher: Watcher, model: nn.Module) -> list[RemovableHandle]:
    layer = model.get_submodule(watcher.place)
    everywhere = nn.modules.module
    each = {
        "pre": lambda: layer.register_forward_pre_hook(watcher.before),
        "pre with names": lambda: layer.register_forward_pre_hook(watcher.before_with_names, with_kwargs=True),
        "forward": lambda: layer.register_forward_hook(watcher.after),
        "forward with names": lambda: layer.register_forward_hook(watcher.after_with_names, with_kwargs=True),
        "forward always": lambda: layer.register_forward_hook(watcher.after, always_call=True),
        "of the output": lambda: layer.register_forward_hook(watcher.of_output),
        "backward": lambda: layer.register_full_backward_hook(watcher.backward),
        "backward pre": lambda: layer.register_full_backward_pre_hook(watcher.backward_before),
        "global pre": lambda: everywhere.register_module_forward_pre_hook(watcher.before),
        "global forward": lambda: everywhere.register_module_forward_hook(watcher.after),
        "global backward": lambda: everywhere.register_module_full_backward_hook(watcher.backward),
        "global backward pre": lambda: everywhere.register_module_full_backward_pre_hook(watcher.backward_before),
    }
    if watcher.kind in each:
        return [each[watcher.kind]()]
    parameters = list(layer.parameters(recurse=False))
    if watcher.kind == "gradient":
        return [parameter.register_hook(watcher.gradient_of_parameter) for parameter in parameters]
    return [parameter.register_post_accumulate_grad_hook(watcher.of_parameter) for parameter in parameters]


KINDS = (
    *("pre", "pre with names", "forward", "forward with names", "forward always", "of the output"),
    *("backward", "backward pre", "gradient", "accumulated"),
    *("global pre", "global forward", "global backward", "global backward pre"),
)


def watched(model: nn.Module, hooks: list[tuple[str, str, bool]]) -> tuple[Events, list[Tensor]]:
    """Return what hooks see of two training passes, and what becomes of the second."""
    events: Events = []
    with ExitStack() as stack:
        for kind, place, changes in hooks:
            for handle in register(Watcher(kind, place, changes, events), model):
                stack.callback(handle.remove)
        results = trained(model, twice=True)
    return events, results


@pytest.fixture
def _no_hooks_are_left() -> Iterator[None]:
    yield
    assert unobserved(nn.Identity())


@both_rates
@settings(max_examples=30)
@given(
    hooks=st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(PLACES), st.booleans()), min_size=1, max_size=4)
)
@pytest.mark.usefixtures("_no_hooks_are_left")
def test_hooks_of_all_kinds_see_and_change_what_they_do_in_stock(rate: float, hooks: list) -> None:
    model = reduced(network(), rate)
    found = watched(model, hooks)
    with plain_pytorch():
        expected = watched(reduced(network(), rate) if rate != 1 else network(), hooks)
    assert [event[:2] for event in found[0]] == [event[:2] for event in expected[0]]
    # What has no gradient but for rounding, as a bias before a batch norm, has what rounding leaves of the others.
    largest = max(float(each.abs().max()) for each in expected[1])
    agree([event[2] for event in found[0]], [event[2] for event in expected[0]], max(1, largest))
    agree(found[1], expected[1], max(1, largest))


def test_hooks_are_called_where_a_layer_fails_as_in_stock() -> None:
    def broken(model: nn.Module) -> list[str]:
        called: list[str] = []
        for place in ("0", "0.0", "0.2"):
            layer = model.get_submodule(place)
            layer.register_forward_hook(lambda *_, place=place: called.append(place), always_call=True)
        with pytest.raises(RuntimeError, match="expected input"):
            model(images()[:, :2])
        return called

    assert broken(reduced(network())) == broken(network())


def test_old_hooks_see_what_they_do_in_stock() -> None:
    def seen(model: nn.Module) -> list:
        found: list = []
        for layer in (model[0][0], model[1][1]):
            layer.register_backward_hook(lambda _, of_inputs, of_outputs: found.append(kept(of_outputs)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained(model)
        return found

    agree(seen(reduced(network(), 1)), seen(network()))
