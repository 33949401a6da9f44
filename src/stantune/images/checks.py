"""What is looked at before anything trains: whether data, loss and network fit together; one sentence says what not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.images.data import Dataset, Normaliser, Split
from stantune.images.losses import IGNORED, Loss
from stantune.space import Categorical, Float, Parameter

# So many samples are shown to the network.
SHOWN = 2


def check_data(name: str, loss: Loss, dataset: Dataset) -> int | None:
    """Return the number of classes; None where the targets are none.

    Args:
        name: the problem's.
        loss: what the targets are for.
        dataset: the data.

    Raises:
        UsageError: inputs or targets that are no finite numbers, or targets that the loss does not take.
    """
    if not len(dataset.train):
        raise UsageError(f"problem {name!r}: its data have no training samples; give them some")
    parts = {part: split for part, split in (("train", dataset.train), ("test", dataset.test)) if len(split)}
    for part, split in parts.items():
        for field, values in (("inputs", split.inputs), ("targets", split.targets)):
            if values.is_floating_point() and not bool(values.isfinite().all()):
                raise UsageError(
                    f"problem {name!r}: the {field} of {part} hold values that are no finite numbers; replace them, or "
                    "leave these samples out"
                )
        _check_targets(f"problem {name!r}: the targets of {part}", loss, split.targets)
    if loss.targets != "classes":
        return dataset.classes
    found = 1 + max(int(split.targets.max()) for split in parts.values())
    if dataset.classes is not None and found > dataset.classes:
        raise UsageError(
            f"problem {name!r}: its targets go up to {found - 1}, and its data have classes={dataset.classes}, 0 to "
            f"{dataset.classes - 1}; count classes from 0, or give classes={found}"
        )
    return found if dataset.classes is None else dataset.classes


def check_batch_size(name: str, sizes: Parameter | None, samples: int) -> None:
    """Raise UsageError where the space's batch sizes are more than there are training samples."""
    if sizes is None:
        return
    given = sizes.choices if isinstance(sizes, Categorical) else (sizes.low, sizes.high)
    numbers = [size for size in given if isinstance(size, int)]
    if isinstance(sizes, Float) or len(numbers) < len(given) or not 1 <= min(numbers) <= max(numbers) <= samples:
        raise UsageError(
            f"problem {name!r}: batch_size is one of {', '.join(map(str, given))}, and there are {samples} training "
            f"samples; give whole numbers from 1 to {samples}"
        )


def check_network(
    name: str,
    build: Callable[[Mapping[str, Any]], nn.Module],
    loss: Loss,
    normaliser: Normaliser,
    split: Split,
    classes: int | None,
) -> None:
    """Show a few samples to a new network, and compare what it says with what the loss takes.

    Random state is afterwards what it was.

    Raises:
        UsageError: the network fails on them, or its outputs do not fit the targets.
    """
    few = split.take(0, min(SHOWN, len(split)))
    inputs = normaliser(few.inputs)
    with torch.random.fork_rng([]), torch.no_grad():
        model = build({}).eval()
        try:
            outputs = model(inputs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            first = str(error).partition("\n")[0]
            raise UsageError(
                f"problem {name!r}: the network fails on inputs of shape {tuple(inputs.shape)} ({first}); have it take "
                "those"
            ) from error
    if loss.targets == "any":
        return
    if not isinstance(outputs, Tensor):
        raise UsageError(
            f"problem {name!r}: the network returns a {type(outputs).__name__}, and the loss {loss.name!r} takes a "
            "tensor; return one, or give a loss of your own"
        )
    shape, wanted = tuple(outputs.shape), tuple(few.targets.shape)
    if loss.targets == "classes":
        wanted = (wanted[0], classes or 0, *wanted[1:])
        fits = len(shape) == len(wanted) and shape[:1] + shape[2:] == wanted[:1] + wanted[2:] and shape[1] >= wanted[1]
    else:
        fits = shape == wanted
    if not fits:
        raise UsageError(
            f"problem {name!r}: the network makes {shape} of inputs {tuple(inputs.shape)}, and the loss {loss.name!r} "
            f"needs {wanted}; change its last layer, or the targets' shape"
        )


def _check_targets(what: str, loss: Loss, targets: Tensor) -> None:
    """Raise UsageError where the loss does not take these targets."""
    kind = str(targets.dtype).removeprefix("torch.")
    if loss.targets == "classes":
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise UsageError(
                f"{what} are {kind}, and the loss {loss.name!r} takes classes; give them as int64, or another loss: "
                "'binary cross entropy' for labels of 0 and 1, 'mean squared error' for numbers"
            )
        counted = targets[targets != IGNORED] if targets.dim() > 1 else targets
        if len(counted) and int(counted.min()) < 0:
            raise UsageError(f"{what} hold the class {int(counted.min())}; count classes from 0")
    elif loss.targets == "labels" and not bool(((targets == 0) | (targets == 1)).all()):
        raise UsageError(f"{what} hold other values than 0 and 1, and the loss {loss.name!r} takes those; give 0 and 1")
