"""Hooks of all kinds see and change in accelerated layers what they do in stock ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from all_kinds import QUIET, agree, images, network, trained
from compared import both_rates, reduced
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stantune.kernels.library import plain_pytorch
from stantune.stan.layers.fusion import unobserved

pytestmark = QUIET

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
