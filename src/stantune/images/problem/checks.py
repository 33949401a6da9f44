"""What is looked at before anything trains: whether data, loss and network fit together; one sentence says what not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stantune.errors import StantuneError, StanWarning, UsageError, words_of
from stantune.images.data import Dataset, Normaliser, Split
from stantune.images.problem.space_checks import in_words
from stantune.images.solving.losses import IGNORED, Loss
from stantune.images.solving.measures import MEASURES, OF_EACH_CLASS, OF_NUMBERS, Measure, of_classes
from stantune.parameters import Categorical, Float, Parameter
from stantune.texts import one_line

# So many samples are shown to the network.
SHOWN = 2
# Of these kinds PyTorch knows neither the least nor the largest number; the others hold the same ones.
_SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
# Kinds of whole numbers that can be one that counts for nothing: bytes have none below 0.
_HOLD_IGNORED = (torch.int8, torch.int16, torch.int32, torch.int64)


def check_measure(name: str, measure: Measure, loss: Loss) -> None:
    """Raise UsageError for a measure of other targets than those of the loss: it would give a number all the same."""
    judged = of_classes(measure)
    if loss.targets == "any" or judged is None:
        return
    of_numbers = not judged
    if of_numbers == (loss.targets == "numbers"):
        return
    own, others = ("numbers", "classes or labels") if of_numbers else ("classes or labels", "numbers")
    known = [each for each in MEASURES if (each in OF_NUMBERS) != of_numbers]
    raise UsageError(
        f"problem {name!r}: the measure {measure.name!r} is of {own}, and the targets of the loss {loss.name!r} "
        f"are {others}; give a measure of these ({', '.join(known)}), or a loss of {own}"
    )


def warn_of_other_classes(name: str, how: str, train: Tensor, validation: Tensor) -> None:
    """Warn where validation has other classes than what is trained on, as it has where samples are sorted by class."""
    if train.dim() != 1 or not len(validation):
        return
    trained, held = (set(torch.unique(part).tolist()) for part in (train, validation))
    if trained != held:
        warnings.warn(
            f"problem {name!r}: hold_out={how!r} holds out {_classes(len(held))} and leaves {len(trained)} to train "
            f"on, of which {len(trained & held)} are the same, as where samples are sorted by class; give "
            "hold_out='stratified', or shuffle the samples",
            StanWarning,
            stacklevel=3,
        )


def check_data(name: str, loss: Loss, measure: Measure, dataset: Dataset) -> int | None:
    """Return the number of classes; None where the targets are none.

    Args:
        name: the problem's.
        loss: what the targets are for.
        measure: what they are compared by.
        dataset: the data.

    Raises:
        UsageError: inputs or targets that are no finite numbers, targets that the loss or the measure does not take, or
            none that counts.
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
        _check_judged(f"problem {name!r}: the targets of {part}", loss, measure, split.targets)
        if part == "test" or loss.targets == "classes":
            remedy = "give some of them classes" + (", or leave test out" if part == "test" else "")
            check_counted(f"problem {name!r}: the targets of {part}", loss, measure, split.targets, remedy)
    if loss.targets != "classes":
        return dataset.classes
    found = 1 + max(int(_signed(split.targets).max()) for split in parts.values())
    if dataset.classes is not None and found > dataset.classes:
        raise UsageError(
            f"problem {name!r}: its targets go up to {found - 1}, and its data have classes={dataset.classes}, 0 to "
            f"{dataset.classes - 1}; count classes from 0, or give classes={found}"
        )
    return found if dataset.classes is None else dataset.classes


def check_counted(what: str, loss: Loss, measure: Measure, targets: Tensor, remedy: str) -> None:
    """Raise UsageError where guesses are judged, and none of the targets counts: of nothing there is no share."""
    judged = of_classes(measure) or (loss.targets == "classes" and type(measure) is not Measure)
    if judged and targets.dtype in _HOLD_IGNORED and len(targets) and bool((targets == IGNORED).all()):
        raise UsageError(f"{what} are all {IGNORED}, which counts for nothing; {remedy}")


def check_batch_size(name: str, sizes: Parameter | None, samples: int) -> None:
    """Raise UsageError where the space's batch sizes are more than there are training samples."""
    if sizes is None:
        return
    given = sizes.choices if isinstance(sizes, Categorical) else (sizes.low, sizes.high)
    numbers = [size for size in given if isinstance(size, int)]
    if isinstance(sizes, Float) or len(numbers) < len(given) or not 1 <= min(numbers) <= max(numbers) <= samples:
        raise UsageError(
            f"problem {name!r}: batch_size {in_words(sizes)}, and there are {samples} training samples; give whole "
            f"numbers from 1 to {samples}"
        )


def check_network(
    name: str,
    build: Callable[[], nn.Module],
    loss: Loss,
    measure: Measure,
    normaliser: Normaliser,
    split: Split,
    classes: int | None,
    judged: Sequence[Split] = (),
) -> nn.Module:
    """Show a few samples to a new network, and compare what it says with what the loss takes; return the network.

    Random state is afterwards what it was.

    Args:
        name: the problem's.
        build: makes the network.
        loss: what it is trained by.
        measure: what it is compared by.
        normaliser: from samples to what it sees.
        split: whose first samples it is shown.
        classes: how many there are; None where the targets are none.
        judged: what it will be compared on.

    Raises:
        UsageError: the network is no new one each time, it fails on the samples, its outputs do not fit the targets, or
            the loss or the measure is no single number.
    """
    few = split.take(0, min(SHOWN, len(split)))
    inputs = normaliser(few.inputs)
    with torch.random.fork_rng([]), torch.no_grad():
        model = _new(name, build).eval()
        try:
            outputs = model(inputs)
        except StantuneError:
            raise
        except Exception as error:
            raise UsageError(
                f"problem {name!r}: the network fails on inputs of shape {tuple(inputs.shape)} "
                f"({one_line(words_of(error))}); have it take those"
            ) from error
        _check_scalars(name, loss, measure, outputs, few.targets)
    if loss.targets == "any":
        _check_same_shape(name, measure, outputs, few.targets)
        _check_each_class(name, measure, outputs, [each.targets for each in judged if len(each)])
        return model
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
    return model


def check_judged_test(
    name: str, measure: Measure, model: nn.Module, normaliser: Normaliser, validation: Split, test: Split
) -> None:
    """Raise UsageError where a user's own measure fails on the test samples, which the very end of a search needs.

    It is given what the network says of a few samples, over and over: where it fails at the validation samples, too, it
    may be for that.
    """
    if type(measure) is not Measure or not len(validation) or not len(test):
        return

    def failure(split: Split) -> Exception | None:
        few = split.take(0, min(SHOWN, len(split)))
        try:
            with torch.random.fork_rng([]), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs = model(normaliser(few.inputs))
                whole = outputs.repeat(-(-len(split) // len(few)), *[1] * (outputs.dim() - 1))[: len(split)]
                measure.value([measure.counts(whole, split.targets)])
        except Exception as error:
            return error
        return None

    of_test = failure(test)
    if of_test is not None and failure(validation) is None:
        raise UsageError(
            f"problem {name!r}: its measure fails on the test samples ({one_line(words_of(of_test))}), and not on "
            "those of validation; mend it, or leave the test samples out"
        ) from of_test


def check_augment(name: str, batch: Callable[[], object], sees_setting: bool) -> None:
    """Raise UsageError where a problem's augmentation fails on a batch, or makes none of it.

    Args:
        name: the problem's.
        batch: makes an augmented batch, for a setting without parameters.
        sees_setting: whether the augmentation is given the setting, and so may lack a parameter.
    """
    try:
        with torch.random.fork_rng([]):
            batch()
    except StantuneError as error:
        raise UsageError(f"problem {name!r}: {error}") from None
    except Exception as error:
        if sees_setting and isinstance(error, KeyError):
            return
        raise UsageError(
            f"problem {name!r}: its augment fails on a training batch ({one_line(words_of(error))}); mend it"
        ) from error


def _new(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Return a new network; raises UsageError where another one would train the same weights."""
    model, other = build(), build()
    for made in (model, other):
        if not isinstance(made, nn.Module):
            raise UsageError(
                f"problem {name!r}: network returns a {type(made).__name__}; have it return a torch.nn.Module"
            )
    theirs = {id(each) for each in other.parameters() if each.requires_grad}
    shared = [key for key, each in model.named_parameters() if each.requires_grad and id(each) in theirs]
    if shared:
        raise UsageError(
            f"problem {name!r}: network returns the same weights each time ({', '.join(shared[:3])}"
            f"{', …' if len(shared) > 3 else ''}), and all trials would train them; make the layers inside of the "
            "function"
        )
    return model


def _check_scalars(name: str, loss: Loss, measure: Measure, outputs: Any, targets: Tensor) -> None:
    """Raise UsageError where a user's own loss or measure is no single number."""
    fields: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {}
    if loss.targets == "any":
        fields["loss"] = loss.function, "the mean over the samples, as a tensor of no dimension"
    if type(measure) is Measure:
        fields["measure"] = measure.function, "one number for all samples"
    for field, (function, remedy) in fields.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = function(outputs, targets)
        except Exception as error:
            if isinstance(error, TypeError) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
                # It has not even begun.
                raise UsageError(
                    f"problem {name!r}: its {field} cannot be called with outputs and targets "
                    f"({one_line(words_of(error))}); give a function of these"
                ) from None
            # A few samples need not be enough for it, and a weight of its own may be on another device.
            continue
        if not (_is_scalar if field == "loss" else _is_number)(value):
            what = f"a {type(value).__name__}"
            if getattr(value, "shape", ()) != ():
                what = f"values of shape {tuple(value.shape)}"
            raise UsageError(f"problem {name!r}: its {field} returns {what}; return {remedy}")


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return not isinstance(value, str)


def _check_same_shape(name: str, measure: Measure, outputs: Any, targets: Tensor) -> None:
    """Raise UsageError where a measure of numbers would compare each output with each target."""
    if of_classes(measure) is not False or not isinstance(outputs, Tensor):
        return
    if outputs.shape != targets.shape:
        raise UsageError(
            f"problem {name!r}: the network makes {tuple(outputs.shape)}, and the measure {measure.name!r} needs "
            f"{tuple(targets.shape)}, as the targets are; change its last layer, or the targets' shape"
        )


def _check_each_class(name: str, measure: Measure, outputs: Any, parts: Sequence[Tensor]) -> None:
    """Raise UsageError where a measure that counts each class finds none of that number among the network's scores.

    Args:
        name: the problem's.
        measure: what networks are compared by.
        outputs: what the network says of a few samples, (B, classes, …); where they are (B, labels), as the targets
            are, each label is counted.
        parts: all targets, (n, …), of each part that is looked at.
    """
    if not of_classes(measure) or measure.name not in OF_EACH_CLASS or not isinstance(outputs, Tensor):
        return
    for targets in parts:
        if outputs.dim() != targets.dim() + 1:
            continue
        what = f"problem {name!r}: the network makes {tuple(outputs.shape)}, and the measure {measure.name!r}"
        if targets.is_floating_point() or targets.dtype == torch.bool:
            kind = str(targets.dtype).removeprefix("torch.")
            raise UsageError(
                f"{what} then counts classes, and the targets are {kind}; give classes as int64, or outputs of the "
                "targets' shape"
            )
        counted = _signed(targets[targets != IGNORED] if targets.dtype in _HOLD_IGNORED else targets)
        if not counted.numel():
            continue
        least, largest = int(counted.min()), int(counted.max())
        if least < 0 or largest >= outputs.shape[1]:
            raise UsageError(
                f"{what} then counts classes from 0 to {outputs.shape[1] - 1}, but the targets go from {least} to "
                f"{largest}; change its last layer, or count classes from 0"
            )


def _check_judged(what: str, loss: Loss, measure: Measure, targets: Tensor) -> None:
    """Raise UsageError for numbers where guesses are judged, and the loss, a user's, says nothing of them."""
    if loss.targets != "any" or not of_classes(measure):
        return
    if targets.is_floating_point() and not bool(((targets == 0) | (targets == 1)).all()):
        known = ", ".join(OF_NUMBERS)
        raise UsageError(
            f"{what} are numbers for the loss {loss.name!r}, and the measure {measure.name!r} is of classes or labels; "
            f"give a measure of numbers ({known}), or classes as int64"
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
        counted = _signed(targets)
        counted = counted[counted != IGNORED] if targets.dim() > 1 else counted
        if len(counted) and int(counted.min()) < 0:
            raise UsageError(f"{what} hold the class {int(counted.min())}; count classes from 0")
    elif loss.targets == "labels" and not bool(((targets == 0) | (targets == 1)).all()):
        raise UsageError(f"{what} hold other values than 0 and 1, and the loss {loss.name!r} takes those; give 0 and 1")


def _signed(targets: Tensor) -> Tensor:
    """Return targets (n, …) whose least and largest can be asked for."""
    return targets.to(_SIGNED.get(targets.dtype, targets.dtype))


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"
