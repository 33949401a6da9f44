"""PyTorch's SGD, whose step is one native call for all parameters where it can be, or follows numbers on a device."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stantune.kernels.library import loaded, suits

Noted = list[list[tuple[float, float]]]
"""Rates and momenta: of each iteration, of each group."""


class Sgd(torch.optim.SGD):
    """A torch.optim.SGD in every respect; parameter groups, state and state_dict are its own.

    A step is native where all parameters that have a gradient are dense, float32 and on the CPU, and the groups ask for
    neither Nesterov's momentum nor dampening nor maximization. Otherwise it is PyTorch's, or after `follow` one that
    reads rates and momenta from the device.
    """

    # Of each group rate and momentum, (groups, 2), on the parameters' device.
    _sent: Tensor | None = None
    _last: list[tuple[float, float]] | None = None
    _noted: Noted | None = None

    @property
    def follows(self) -> bool:
        """Whether steps read rates and momenta from the device."""
        return self._sent is not None

    @property
    def sent(self) -> Tensor | None:
        """Where steps read rates and momenta, (groups, 2); None where they do not."""
        return self._sent

    def follow(self) -> None:
        """Have all further steps read rates and momenta from the parameters' device, where `send` puts them.

        A CUDA graph of a step then follows them, which otherwise has those that it was recorded with. All parameters
        are on one device.

        Raises ValueError where a group asks for Nesterov's momentum, dampening or maximization.
        """
        for group in self.param_groups:
            if group["nesterov"] or group["dampening"] or group["maximize"]:
                raise ValueError("steps that follow have neither Nesterov's momentum nor dampening nor maximization")
        device = next(parameter.device for group in self.param_groups for parameter in group["params"])
        self._sent, self._last = torch.zeros(len(self.param_groups), 2, device=device), None
        self.send()

    def send(self) -> None:
        """Put the groups' rates and momenta where steps read them; nothing without `follow`, or where none changed."""
        if self._sent is not None:
            numbers = [(float(group["lr"]), float(group["momentum"])) for group in self.param_groups]
            if self._noted is not None:
                self._noted.append(numbers)
            elif numbers != self._last:
                # From memory that is not pinned, each iteration would wait for the device.
                self._sent.copy_(torch.tensor(numbers, pin_memory=self._sent.is_cuda), non_blocking=True)
                self._last = numbers

    @contextmanager
    def noting(self) -> Iterator[Noted]:
        """Have `send` add all groups' (rate, momentum) to a list, and send nothing: who asks puts them there."""
        self._noted, self._last = [], None
        try:
            yield self._noted
        finally:
            self._noted = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step, as torch.optim.SGD does, and return what the closure returns."""
        trained = [
            (parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if self._sent is not None and closure is None:
            self._follow(self._sent)
            return None
        # Mixed precision scales the gradients in PyTorch's own step.
        scaled = getattr(self, "grad_scale", None) is not None or getattr(self, "found_inf", None) is not None
        if closure is not None or scaled or not trained or not all(self._is_native(*each) for each in trained):
            step: Any = super().step
            # Hooks are run by this class's own step. Where a torch.optim.SGD was made in this process, its step runs
            # them, too.
            return step.__wrapped__(self, closure) if getattr(step, "hooked", False) else step(closure)
        parameters = (_StanSgd * len(trained))()
        for native, (parameter, group) in zip(parameters, trained, strict=True):
            assert parameter.grad is not None
            native.numbers = parameter.numel()
            native.rate, native.decay = float(group["lr"]), group["weight_decay"]
            native.momentum = group["momentum"]
            native.weight, native.gradient = parameter.data_ptr(), parameter.grad.data_ptr()
            if group["momentum"]:
                native.velocity = self._velocity(parameter).data_ptr()
        loaded().stan_sgd(parameters, len(parameters), torch.get_num_threads())
        # A graph that was kept must not go on with weights that it has not seen.
        for parameter, _ in trained:
            torch.autograd.graph.increment_version(parameter)
        return None

    @torch.no_grad()
    def _follow(self, sent: Tensor) -> None:
        """Make a step by what was sent: V = momentum * V + gradient + decay * w, w -= rate * V."""
        # One operation for all parameters wherever that can be: a small network waits for launches, not for numbers.
        trained = [
            (number, parameter)
            for number, group in enumerate(self.param_groups)
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not trained:
            return
        owners, parameters = [number for number, _ in trained], [parameter for _, parameter in trained]
        change: list[Any] = [parameter.grad for parameter in parameters]
        decays = [float(self.param_groups[number]["weight_decay"]) for number in owners]
        if any(decays):
            decayed = torch._foreach_mul(parameters, decays)
            torch._foreach_add_(decayed, change)
            change = list(decayed)
        of_rate, of_momentum = self.shared([(group["lr"], group["momentum"]) for group in self.param_groups])
        for first, momentum in enumerate(sent[:, 1]):
            places = [place for place, number in enumerate(owners) if of_momentum[number] == first]
            if places and self.param_groups[first]["momentum"]:
                velocities = [self._velocity(parameters[place]) for place in places]
                torch._foreach_mul_(velocities, momentum)
                torch._foreach_add_(velocities, [change[place] for place in places])
                for place, velocity in zip(places, velocities, strict=True):
                    change[place] = velocity
        for first, rate in enumerate(sent[:, 0]):
            places = [place for place, number in enumerate(owners) if of_rate[number] == first]
            if places:
                for place, times_rate in zip(
                    places, torch._foreach_mul([change[place] for place in places], rate), strict=True
                ):
                    change[place] = times_rate
        torch._foreach_sub_(parameters, change)

    @staticmethod
    def shared(numbers: Sequence[tuple[float, float]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return of each group the first one of the same rate, and the first one of the same momentum."""
        rates, momenta = ([pair[kind] for pair in numbers] for kind in (0, 1))
        return tuple(map(rates.index, rates)), tuple(map(momenta.index, momenta))

    @classmethod
    def kind_of_step(cls, numbers: Sequence[tuple[float, float]]) -> Hashable:
        """Return all that the operations of a step that follows depend on, of the groups' rates and momenta."""
        return cls.shared(numbers), tuple(bool(momentum) for _, momentum in numbers)

    def _is_native(self, parameter: nn.Parameter, group: dict[str, Any]) -> bool:
        gradient = parameter.grad
        assert gradient is not None
        velocity: Tensor | None = self.state.get(parameter, {}).get("momentum_buffer") if group["momentum"] else None
        return (
            not (group["nesterov"] or group["dampening"] or group["maximize"] or group["differentiable"])
            and suits(parameter, gradient, velocity)
            and parameter.shape == gradient.shape
            and parameter.stride() == gradient.stride()
            and _is_dense(parameter)
            and (velocity is None or velocity.shape == parameter.shape)
        )

    def _velocity(self, parameter: nn.Parameter) -> Tensor:
        """Return the parameter's momentum buffer, which PyTorch begins with the first gradient: zeros before it."""
        state = self.state[parameter]
        velocity: Tensor | None = state.get("momentum_buffer")
        if velocity is None or velocity.stride() != parameter.stride():
            # One that was loaded may be in another order.
            fresh = torch.zeros_like(parameter, requires_grad=False)
            velocity = state["momentum_buffer"] = fresh if velocity is None else fresh.copy_(velocity)
        return velocity


class _StanSgd(ctypes.Structure):
    """StanSgd of native/api.hpp."""

    _fields_ = [
        ("numbers", ctypes.c_int64),
        ("rate", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("decay", ctypes.c_double),
        ("weight", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("velocity", ctypes.c_void_p),
    ]


def _is_dense(tensor: Tensor) -> bool:
    """Tell whether the tensor's numbers fill one stretch of memory, in whatever order."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
