"""What lies between forward and backward, as hooks, checkpoints and changes in place: its gradients are PyTorch's."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from compared import LAST, NATIVE, agree, both, both_rates, gradients, images, network, outcome, reduced
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import CheckpointError, checkpoint
from torch.utils.flop_counter import FlopCounterMode

from stantune import Stan, accelerate_, restore_
from stantune.kernels.block.layout import is_last
from stantune.stan.handle import StanHandle
from stantune.stan.layers import stan_layer

pytestmark = NATIVE


@contextmanager
def overwritten() -> Iterator[None]:
    """Give back copies of what is saved, and spoil what was saved in forward where it is nobody else's."""

    def pack(tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    def unpack(packed: Tensor) -> Tensor:
        fresh = packed.clone()
        packed.zero_()
        return fresh

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


@contextmanager
def in_another_order() -> Iterator[None]:
    """Give back what was saved in the other memory format."""

    def unpack(packed: Tensor) -> Tensor:
        if packed.dim() != 4:
            return packed.clone()
        other = torch.contiguous_format if is_last(packed) else LAST
        return packed.contiguous(memory_format=other).clone(memory_format=other)

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach().clone(), unpack):
        yield


@contextmanager
def of_winners_given_up() -> Iterator[None]:
    """Give the memory up of what says where each maximum was: the only whole numbers that are saved."""

    def unpack(packed: Tensor) -> Tensor:
        if not packed.is_floating_point():
            packed.untyped_storage().resize_(0)
        return packed

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach().clone(), unpack):
        yield


BETWEEN: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "on the CPU": torch.autograd.graph.save_on_cpu,
    "by methods of PyTorch's": lambda: torch.autograd.graph.saved_tensors_hooks(Tensor.cpu, Tensor.cpu),
    "overwritten": overwritten,
    "in another order": in_another_order,
}


@both_rates
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("order", [torch.contiguous_format, LAST])
def test_hooks_on_saved_tensors_give_pytorchs_gradients(rate: float, between: str, order: torch.memory_format) -> None:
    def work(model: nn.Module) -> object:
        input = images().contiguous(memory_format=order).requires_grad_()
        with BETWEEN[between]():
            output = model(input)
        # Memory that was forward's is somebody else's by now.
        spoil = [torch.full((64, 64), float("nan")) for _ in range(50)]
        output.square().sum().backward()
        assert spoil
        return [input.grad, *gradients(model)]

    agree(*both(network(), rate, work))


@both_rates
def test_winners_that_were_given_up_are_not_read(rate: float) -> None:
    """Native code crashed; PyTorch's own pooling needs its own."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    reference, input = copy.deepcopy(model), images()
    if rate < 1:
        reduced(reference, rate)
    reference(input).square().sum().backward()
    reduced(model, rate)
    with of_winners_given_up():
        output = model(input)
    output.square().sum().backward()
    agree(gradients(model), gradients(reference))


@both_rates
def test_a_checkpoint_gives_pytorchs_gradients(rate: float) -> None:
    def work(model: nn.Module) -> object:
        input = images().requires_grad_()
        output = checkpoint(model, input, use_reentrant=False)
        spoil = [torch.full((64, 64), float("nan")) for _ in range(50)]
        output.square().sum().backward()
        assert spoil
        return [output, input.grad, *gradients(model)]

    agree(*both(network(), rate, work))


def test_a_reentrant_checkpoint_trains_exactly_and_says_so() -> None:
    stan_layer._say_reentrant.cache_clear()
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    reference, input = copy.deepcopy(model), images()
    reference(input).square().sum().backward()
    reduced(model, 0.5)
    with pytest.warns(UserWarning, match="use_reentrant=False"):
        checkpoint(model, input.requires_grad_(), use_reentrant=True).square().sum().backward()
    agree(gradients(model), gradients(reference))


@pytest.mark.filterwarnings("ignore:layers within a reentrant checkpoint")
def test_a_reentrant_checkpoint_trains_exactly_after_an_iteration_without_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    reference, input = copy.deepcopy(model), images()
    reference(input).square().sum().backward()
    handle = accelerate_(model, Stan(rate=0.5, period=None))
    model(input).square().sum().backward()
    model.zero_grad()
    handle.step()
    checkpoint(model, input.requires_grad_(), use_reentrant=True).square().sum().backward()
    agree(gradients(model), gradients(reference))


@pytest.mark.filterwarnings("ignore:layers within a reentrant checkpoint")
@pytest.mark.parametrize("earlier", [False, True])
def test_a_checkpoint_within_a_reentrant_one_trains_exactly(earlier: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    reference, input = copy.deepcopy(model), images()
    reference(input).square().sum().backward()
    handle = accelerate_(model, Stan(rate=0.5, period=None))
    if earlier:
        model(input).square().sum().backward()
        model.zero_grad()
        handle.step()

    def within(input: Tensor) -> Any:
        return checkpoint(model, input, use_reentrant=False)

    checkpoint(within, input.requires_grad_(), use_reentrant=True).square().sum().backward()
    agree(gradients(model), gradients(reference))


@both_rates
def test_data_that_is_swapped_between_the_passes_is_read(rate: float) -> None:
    def work(model: nn.Module) -> object:
        input = images().requires_grad_()
        output = model(input)
        for parameter in model.parameters():
            parameter.data = parameter.data * 2
        output.square().sum().backward()
        return [input.grad, *gradients(model)]

    agree(*both(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)), rate, work))


@both_rates
@pytest.mark.parametrize("what", ["weight", "input", "bias"])
def test_what_is_changed_in_place_between_the_passes_is_refused_as_by_pytorch(rate: float, what: str) -> None:
    def work(model: nn.Module) -> object:
        input = images().requires_grad_()
        middle = input * 1
        output = model(middle)
        with torch.no_grad():
            (middle if what == "input" else getattr(model, what)).add_(1)
        error = outcome(lambda: output.sum().backward())
        return [type(error), str(error).partition("[torch")[0]] if error else gradients(model)

    agree(*both(nn.Conv2d(3, 8, 3, padding=1), rate, work))


def trained(checkpoints: bool, rate: float, period: int | None, **settings: float) -> list[Tensor | None]:
    """Return all gradients of a GAN whose generator's turn to go backward comes after the handles' step."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1), nn.Tanh())
    judge = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 1, 3))
    handles = [accelerate_(each, Stan(rate=rate, period=period, **settings)) for each in (generator, judge)]
    found: list[Tensor | None] = []
    for _ in range(6):
        fake = checkpoint(generator, images(), use_reentrant=False) if checkpoints else generator(images())
        (judge(images()).square().sum() - judge(fake.detach()).square().sum()).backward()
        for handle in handles:
            handle.step()
            with torch.no_grad():
                generator(images())  # as progress is shown; it counts for nothing
        judge(fake).square().sum().backward()
        found += [*gradients(generator), *gradients(judge)]
        for each in (generator, judge):
            each.zero_grad()
    # What is computed again is nothing that would be looked at anew.
    assert len(handles[0].history) == (2 * 3 if settings else 0)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 0.25, "period": None},
        {"rate": 0.5, "period": 1},
        {"rate": 0.25, "period": 2},
        {"rate": 0.5, "period": 1, "tolerance": 5.0},
        {"rate": ((0, 0.25), (3, 1.0), (5, 0.5)), "period": 1},
    ],
    ids=str,
)
def test_a_checkpoint_computes_again_what_it_has_computed_before_the_handles_step(settings: dict[str, Any]) -> None:
    for found, expected in zip(trained(True, **settings), trained(False, **settings), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_checkpoint_is_remembered_while_its_layers_do_not_run(first: int) -> None:
    """The discriminator may have several turns."""
    found = []
    for checkpoints in (True, False):
        model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 3, groups=8), nn.Tanh())
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.1)
        handle = accelerate_(model, Stan(rate=0.5, period=2, layers=("0", "1")))
        model(images()).sum().backward()
        model.zero_grad()
        handle.seek(first)
        output = checkpoint(model, images(), use_reentrant=False) if checkpoints else model(images())
        for _ in range(4):
            handle.step()
            with torch.no_grad():
                model(images())
        output.square().sum().backward()
        found.append(gradients(model))
    agree(*found, 0)


def another_turn(model: nn.Module, handle: StanHandle) -> object:
    """Go on, and run the model anew before the first turn's backward pass."""
    handle.step()
    return model(images())


def counted(model: nn.Module, handle: StanHandle) -> object:
    """Run the model within a mode that layers are exact under, in the same iteration."""
    with FlopCounterMode(display=False):
        return model(images())


def with_tangents(model: nn.Module, handle: StanHandle) -> object:
    """Run the model on what has a tangent, in the same iteration."""
    with forward_ad.dual_level():
        return model(forward_ad.make_dual(images(), images()))


# What a layer may be once more where nothing tells it which of its passes comes again.
CHANGES: dict[str, Callable[[nn.Module, StanHandle], object]] = {
    "another turn": another_turn,
    "a mode": counted,
    "a dual level": with_tangents,
    "evaluation": lambda model, handle: model.eval(),
    "restored": lambda model, handle: restore_(model),
    "accelerated anew": lambda model, handle: (restore_(model), accelerate_(model, Stan(rate=0.25, period=None))),
}


@pytest.mark.parametrize("between", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("last", [nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1)], ids=["tanh", "convolution"])
def test_a_checkpoint_refuses_what_would_be_computed_from_other_entries(last: nn.Module, between: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), copy.deepcopy(last))
    handle = accelerate_(model, Stan(rate=0.5, period=None))
    loss = checkpoint(model, images(), use_reentrant=False).square().sum()
    between(model, handle)
    with pytest.raises(CheckpointError):
        loss.backward()


def test_a_checkpoint_refuses_other_entries_of_a_frozen_layer_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))
    model(images())
    model[0].requires_grad_(False)
    handle = accelerate_(model, Stan(rate=0.5, period=None))
    loss = checkpoint(model, images(), use_reentrant=False).square().sum()
    another_turn(model, handle)
    with pytest.raises(CheckpointError):
        loss.backward()


def test_a_checkpoint_keeps_its_input_no_longer_than_pytorchs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh())
    accelerate_(model, Stan(rate=0.5, period=None))
    middle = images().requires_grad_() * 1
    kept, loss = weakref.ref(middle), checkpoint(model, middle, use_reentrant=False).sum()
    del middle
    loss.backward()
    assert kept() is None


def test_hooks_of_others_are_given_what_stock_layers_save() -> None:
    def least(tensor: Tensor) -> Tensor:
        assert tensor.numel()
        return tensor

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh())
    accelerate_(model, Stan(rate=0.5, period=None))
    with torch.autograd.graph.saved_tensors_hooks(least, lambda tensor: tensor):
        model(images()).sum().backward()


@pytest.mark.parametrize("behind", [nn.AvgPool2d(2), nn.MaxPool2d(2), nn.ReLU()], ids=["average", "max", "relu"])
def test_a_checkpoint_of_a_pass_under_a_mode_has_nothing_done_as_one(behind: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), behind, nn.Tanh())
    stock, found = copy.deepcopy(model), []
    accelerate_(model, Stan(rate=0.5, period=None))
    for each in (model, stock):
        with FlopCounterMode(display=False):
            loss = checkpoint(each, images(), use_reentrant=False).square().sum()
        loss.backward()
        found.append(gradients(each))
    agree(*found)


def test_a_checkpoint_of_an_exact_pass_refuses_a_reduced_one() -> None:
    model = nn.Sequential(nn.Tanh(), nn.Conv2d(3, 4, 3, padding=1))
    accelerate_(model, Stan(rate=0.5, period=None))
    with FlopCounterMode(display=False):
        loss = checkpoint(model, images(), use_reentrant=False).square().sum()
    model(images())
    with pytest.raises(CheckpointError):
        loss.backward()


@pytest.mark.parametrize("rate", [0.5, 0.25])
def test_turns_that_are_summed_up_have_their_gradients_where_nothing_is_computed_again(rate: float) -> None:
    found = []
    for summed in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1))
        handle, losses = accelerate_(model, Stan(rate=rate, period=None)), []
        for _ in range(2):
            losses.append(model(images()).square().sum())
            if not summed:
                losses.pop().backward()
            handle.step()
        if summed:
            torch.stack(losses).sum().backward()
        found.append(gradients(model))
    agree(*found)
