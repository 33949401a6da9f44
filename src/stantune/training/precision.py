"""In what numbers a training computes: float32, TF32 on a GPU, or bfloat16 where PyTorch's autocast takes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.process.float32 import allow_tf32, kept_float32
from stantune.stan.config import Stan

# Weights, their updates and what is measured at the end are float32 in each.
PRECISIONS = ("fp32", "tf32", "bf16")


def check_precision(precision: object) -> None:
    """Raise UsageError unless it is one of PRECISIONS, or None for what PyTorch is set to."""
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"`precision`={shown(precision)} is unknown; give {', '.join(PRECISIONS)}")


def precision_on(precision: str | None, device: str) -> str | None:
    """Return the precision of trainings on a device, None where PyTorch computes in it unasked; raises UsageError."""
    check_precision(precision)
    if torch.device(device).type == "cuda":
        return precision
    if precision == "tf32":
        raise UsageError("`precision`=tf32 are numbers of NVIDIA's GPUs, and here is none in use; give bf16 or fp32")
    return None if precision == "fp32" else precision


def check_plan(precision: str | None, stan: Stan | None) -> None:
    """Raise UsageError where STAN's plan would be made of times in other numbers than those of the training."""
    if precision == "bf16" and stan is not None and stan.rate == "auto" and stan.plan is None:
        raise UsageError(
            "`precision`=bf16 does not go with a `rate` of auto, which is chosen by times in float32; give a number, "
            "such as 0.5"
        )


def casting(precision: str | None, device: str) -> AbstractContextManager[object]:
    """Return a context in which forward passes and losses are computed."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def computing_in(precision: str | None, device: str) -> Iterator[None]:
    """Have a GPU compute a training in the numbers asked for, and the same ones each time; then it is as it was.

    Of float32 products are in TF32 or not. Of cuDNN's algorithms those are taken that add up in one order, and by its
    own rules: not the ones that happen to be fastest now. Then a training's bits depend neither on when it runs nor on
    what runs beside it.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    order = cudnn.deterministic, cudnn.benchmark
    with kept_float32():
        if precision in ("fp32", "tf32"):
            allow_tf32(precision == "tf32")
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = order
