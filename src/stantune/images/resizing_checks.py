"""What is looked at before images become small: whether a problem takes small ones where it takes whole ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stantune.errors import UsageError, words_of
from stantune.images.data import Batch, in_order
from stantune.images.problem.checks import SHOWN
from stantune.images.problem.problem import Problem, Splits
from stantune.texts import one_line


def check_small(
    problem: Problem, setting: Mapping[str, Any], whole: Splits, small: Splits, shrunk: Callable[[Tensor], Tensor]
) -> None:
    """Show a problem a few samples of both sizes, in training and as they are compared.

    Random state is afterwards what it was.

    Args:
        problem: what is to be trained.
        setting: so far as it is known.
        whole: its data.
        small: the same, which become small where they are normalised.
        shrunk: makes images (B, C, H, W) of a batch small.

    Raises:
        UsageError: the network, the loss or the measure takes whole images, and small ones not, or otherwise.
    """
    problem.shown(small, setting)
    with torch.random.fork_rng([]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = _few(problem, setting, whole)
        model = problem.tried(setting).eval()
        try:
            before = model(batch.inputs)
        except Exception:
            # What fails with whole images is no matter of their size.
            return
        images = shrunk(batch.inputs)
        try:
            outputs = model(images)
        except Exception as error:
            raise UsageError(
                f"problem {problem.name!r}: the network fails on images of a training batch, which are "
                f"{tuple(images.shape)} then ({one_line(words_of(error))})"
            ) from error
        if _would_spread(before, outputs):
            raise UsageError(
                f"problem {problem.name!r}: the network makes {tuple(outputs.shape)} of small images, and "
                f"{tuple(before.shape)} of whole ones"
            )
        criterion = problem.criterion(setting)
        _check_same("loss", problem, *(lambda said=said: criterion(said, batch.targets) for said in (before, outputs)))
        _check_same(
            "measure",
            problem,
            *(
                lambda splits=splits: problem.evaluate(
                    model, replace(splits, validation=splits.train.take(0, len(batch.ids))), "validation", "cpu"
                )
                for splits in (whole, small)
            ),
        )


def _few(problem: Problem, setting: Mapping[str, Any], splits: Splits) -> Batch:
    """Return a few samples of a training batch, whole."""
    try:
        batch = problem.batches(splits, setting, 0, "cpu").at(0)
    except Exception:
        # An augmentation may need a parameter of the setting.
        return next(in_order(splits.train, SHOWN, splits.normaliser))
    return Batch(batch.inputs[:SHOWN], batch.targets[:SHOWN], batch.ids[:SHOWN])


def _would_spread(before: Any, outputs: Any) -> bool:
    """Tell whether small outputs have a side of one where whole ones have more: each would be compared with many."""
    if not isinstance(before, Tensor) or not isinstance(outputs, Tensor):
        return False
    if before.dim() != outputs.dim():
        return True
    return any(small == 1 < whole for small, whole in zip(outputs.shape, before.shape, strict=True))


def _check_same(what: str, problem: Problem, of_whole: Callable[[], Any], of_small: Callable[[], Any]) -> None:
    """Raise UsageError where something can be done with whole images and not with small ones."""
    try:
        of_whole()
    except Exception:
        # A few samples need not be enough for it.
        return
    try:
        of_small()
    except Exception as error:
        raise UsageError(
            f"problem {problem.name!r}: its {what} fails on what the network says of small images "
            f"({one_line(words_of(error))})"
        ) from error
