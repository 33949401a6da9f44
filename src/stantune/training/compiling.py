"""Trainings whose network torch.compile compiles: who may ask for that, and their step."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stantune.arguments import truth
from stantune.errors import UsageError, words_of
from stantune.stan.config import Stan
from stantune.texts import one_line
from stantune.training.steps import Casting, Step, plain_step
from stantune.training.trainable import Criterion

# By its name, which is looked up where it is used: what PyTorch itself takes by default.
BACKEND = "inductor"
# In so many iterations of a training programs may be made. A network that is another one in each never ends with that.
MOST_ANEW = 8


class CompileError(ValueError):
    """A network cannot be compiled; no StantuneError, which would end a search: those of other settings can be."""


class _Programs(threading.local):
    """What was run in this thread of the programs that torch.compile had made, by their numbers."""

    def __init__(self) -> None:
        self.run: set[int] = set()


_programs = _Programs()
_numbers = itertools.count()


def check_compile(compile: object, stan: Stan | None) -> None:
    """Raise UsageError unless it is True or False, and True without STAN."""
    if truth("compile", compile) and stan is not None:
        raise UsageError(
            "`compile` does not go with STAN, whose layers torch.compile leaves as they are; leave away what asks for "
            "STAN"
        )


def check_compiler(device: str) -> None:
    """Raise UsageError where torch.compile can make no program here."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        torch.compile(nn.Identity(), backend=_program)
        if BACKEND == "inductor" and torch.device(device).type == "cpu":
            get_cpp_compiler()
    except RuntimeError as error:  # Pythons that it does not know yet, and its InvalidCxxCompiler
        raise UsageError(
            f"`compile` needs PyTorch's compiler, and that a C++ compiler ({one_line(words_of(error))}); install g++ "
            "or name yours in the environment's CXX, or leave `compile` away"
        ) from error


@contextmanager
def compiling(compile: bool) -> Iterator[None]:
    """Have torch.compile make programs without end within, and never do silently without: that is another result.

    A process trains many networks of one class, and by itself PyTorch gives up at the eighth.
    """
    if not compile:
        yield
        return
    import torch._dynamo

    settings = {"recompile_limit": 2**30, "accumulated_recompile_limit": 2**30, "suppress_errors": False}
    with torch._dynamo.config.patch(settings):
        yield


def compiled_step(
    model: nn.Module, criterion: Criterion, optimizer: torch.optim.Optimizer, casting: Casting, device: str
) -> Step:
    """Return what does a step with the network's forward and backward pass compiled; the network remains as it is.

    Programs are for one size of batch each, and shared by all trainings of a process whose networks differ in their
    weights alone: what one is does not depend on what was compiled before it.

    The step raises CompileError where torch.compile fails with the network, and UsageError where it fails with
    anything, makes no program of the network, or others again and again.
    """
    from torch._dynamo.exc import TorchDynamoException

    learn = plain_step(torch.compile(model, backend=_program, dynamic=False), criterion, optimizer, casting)
    steps = anew = 0
    known: set[int] = set()

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal steps, anew
        _programs.run.clear()
        try:
            loss = learn(inputs, targets)
        except (TorchDynamoException, OSError) as error:
            check_compiler(device)
            _check_programs(device)
            if isinstance(error, OSError):  # the network's own
                raise
            cause = getattr(error, "inner_exception", error)
            raise CompileError(_refusal(f"torch.compile fails with it ({one_line(words_of(cause))})")) from error
        steps += 1
        # Not those that are made: some were perhaps, for another training.
        if not _programs.run <= known:
            known.update(_programs.run)
            anew += 1
        if not known:
            raise UsageError(
                _refusal(
                    "torch.compile makes no program of it (it finds nothing that it can compile, is switched off by "
                    "TORCH_COMPILE_DISABLE, or gave up compiling the same class in this process before)"
                )
            )
        if anew > MOST_ANEW:
            raise UsageError(
                _refusal(
                    f"{anew} of its first {steps} iterations need programs of their own (it depends on numbers of "
                    "Python that change, or gets batches of many sizes)"
                )
            )
        return loss

    return step


def _check_programs(device: str) -> None:
    """Raise UsageError where torch.compile, which has a compiler, fails with an addition, too."""
    try:
        torch.compile(lambda x: x + 1.0, backend=_program, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:
        cause = getattr(error, "inner_exception", error)
        raise UsageError(
            f"`compile` needs PyTorch's compiler, and that fails with an addition ({one_line(words_of(cause))}); see "
            "to the C++ compiler (CXX in the environment) and the folder for programs (TORCHINDUCTOR_CACHE_DIR), or "
            "leave `compile` away"
        ) from error


def _refusal(why: str) -> str:
    return f"the network is nothing for `compile`: {why}; leave `compile` away"


def _program(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Be torch.compile's backend: one for all trainings, as programs are shared between equal backends alone."""
    from torch._dynamo import lookup_backend

    number = next(_numbers)
    program = lookup_backend(BACKEND)(graph, inputs)

    def run(*arguments: Any) -> Any:
        _programs.run.add(number)
        return program(*arguments)

    return run
