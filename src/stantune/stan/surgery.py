"""accelerate_ and restore_: put STAN into a model, in place, and take it out again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from stantune.errors import NoEffectWarning, UsageError
from stantune.stan.config import Stan
from stantune.stan.eligible import check_names, convolutions, linears, why_not
from stantune.stan.entries.entries import Pattern
from stantune.stan.handle import LayerReport, StanHandle
from stantune.stan.layers.conv2d import StanConv2d, has_native_form
from stantune.stan.layers.convolution import StanConv1d
from stantune.stan.layers.fusion import NATIVE, make_native_, order_
from stantune.stan.layers.linear import StanLinear
from stantune.stan.layers.meprop import BY_SURGERY, SETTINGS, MePropLinear
from stantune.stan.layers.norm import StanBatchNorm2d
from stantune.stan.layers.pooling import StanPool2d
from stantune.stan.layers.stan_layer import forget_
from stantune.stan.layers.stand_in import copied, stand_in_for_
from stantune.stan.memo.batch_memory import BatchMemory, memory_for, output_shapes
from stantune.stan.planning.example import Example, Loss, device_of, differentiate
from stantune.stan.planning.plan import checked, plan_for
from stantune.stan.planning.timing import clock_for, typical
from stantune.stan.schedule import Phase
from stantune.stan.untouched import untouched

# What a layer's class becomes, and what `restore_` makes of it again.
SWAPPED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: StanConv1d,
    nn.Conv2d: StanConv2d,
    nn.Linear: StanLinear,
    **NATIVE,
}
ORIGINAL = {swapped: original for original, swapped in SWAPPED.items()}
# A plan is checked by whole iterations where one takes less than so many seconds; for so many seconds of them.
SHORT, CHECKED_SECONDS = 0.5, 0.5
# So many layers are named in a warning.
NAMED = 3
# What users are told of MeProp's own setting: Stan has one of that name, too.
MEPROP_LAYERS = "meprop's layers"


def accelerate_(
    model: nn.Module,
    stan: Stan,
    example: Example | None = None,
    memory_format: torch.memory_format | None = None,
    *,
    loss: Loss | None = None,
) -> StanHandle:
    """Turn the model's layers into STAN layers, in place.

    Parameters, their names, hooks and buffers stay the same objects; evaluation stays exact, bit for bit. Where native
    kernels are faster in training, they also do each nn.BatchNorm2d, nn.MaxPool2d and nn.AvgPool2d, and in one with a
    layer the ReLU and the pooling behind it in an nn.Sequential. Layers that are not plain nn.Conv1d or nn.Conv2d
    (subclasses with a forward of their own, parametrized ones, other dimensions) are left alone and reported. Copies
    and pickles of the model train exactly, but for meProp, which they keep.

    Args:
        model: any module; it may itself be a convolution.
        stan: the settings.
        example: what the model will be called with in a training iteration: a batch of inputs, (B, ...), a tuple of
            its arguments, or a dictionary of them by name (detectors: `(images, targets)`). Needed for rate="auto" and
            memo; by it the report knows before the first iteration which outputs are too small. The model is left as
            it was.
        memory_format: of the model's four-dimensional parameters from now on, and so of what its convolutions return,
            as PyTorch has it; None leaves them as they are. On a CPU torch.channels_last is faster.
        loss: the training's, a function of what the model returns; for rate="auto" alone, and by default the sum of
            squares of all tensors in it.

    Returns:
        The handle: call its `step()` once per training iteration, read its `report`.

    Raises:
        UsageError: the model is accelerated already, a shell pattern matches no layer, the example is missing or the
            model cannot be trained on it, or what is to be remembered does not fit into memory.

    Warns:
        NoEffectWarning: nothing was changed; the planner leaves a model alone that would hardly be faster.
    """

    def warn(why: str) -> None:
        warnings.warn(why, NoEffectWarning, stacklevel=5)

    return accelerate_saying_(model, stan, warn, example, memory_format, loss=loss)


def accelerate_saying_(
    model: nn.Module,
    stan: Stan,
    say: Callable[[str], None],
    example: Example | None = None,
    memory_format: torch.memory_format | None = None,
    *,
    loss: Loss | None = None,
) -> StanHandle:
    """Do what accelerate_ does, and say by `say` what it would warn of.

    To catch a warning would change what all threads of the process do with theirs.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"accelerate_ takes a model, an nn.Module, not {_kind(model)}")
    if not isinstance(stan, Stan):
        raise UsageError(f"stan= takes the settings, such as Stan(rate=0.5), not {_kind(stan)}")
    if any(_is_accelerated(module) for module in model.modules()):
        raise UsageError("the model is accelerated already; call restore_(model) first")
    if memory_format is None:
        return _accelerate(model, stan, say, example, loss)
    before = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        order_(model, memory_format)
        return _accelerate(model, stan, say, example, loss)
    except BaseException:
        for parameter, data in before:
            parameter.data = data
        raise


def _is_accelerated(module: nn.Module) -> bool:
    """Tell whether a layer shows that its model is accelerated; a pooling may be another model's, too."""
    swapped = isinstance(module, tuple(ORIGINAL)) and not isinstance(module, StanPool2d)
    return swapped or BY_SURGERY in module.__dict__


def _accelerate(
    model: nn.Module, stan: Stan, say: Callable[[str], None], example: Example | None, loss: Loss | None
) -> StanHandle:
    """Do what accelerate_saying_ does, to a model that is laid out as asked."""
    found = convolutions(model)
    dense = linears(model)
    if found:
        check_names("layers", stan.layers, list(found), "convolution")
    check_names("linear", stan.linear, list(dense), "nn.Linear")
    if stan.meprop is not None and stan.meprop.top_k:
        check_names(MEPROP_LAYERS, stan.meprop.layers, list(dense), "nn.Linear")
    if stan.rate == "annealed" and stan.iterations is None:
        raise UsageError('rate="annealed" is of a run of known length; give Stan its iterations=, such as 10000')
    plan = None
    if stan.rate == "auto" and stan.plan is None:
        if example is None:
            raise UsageError('rate="auto" measures the model; give accelerate_ a batch of inputs as example=images')
        if torch.is_inference_mode_enabled():
            raise UsageError(
                'rate="auto" times backward passes, and there are none within torch.inference_mode(); call accelerate_ '
                "outside of it"
            )
        plan = plan_for(model, stan, example, loss=loss)
        if plan.stan.plan and plan.predicted_speedup is not None and 0 < plan.times.exact_seconds < SHORT:
            plan = checked(plan, *_cycle_seconds(model, plan.stan, example, loss))
        stan = plan.stan
    reasons = {} if plan is None else plan.reasons
    report = [_report(name, module, stan, reasons) for name, module in found.items()]
    report += [_report_linear(name, module, stan) for name, module in dense.items() if stan.linear]
    chosen = {line.name: line.patterns for line in report if not line.reason}
    layers = {**found, **dense}
    memory: BatchMemory | None = None
    if stan.memo is not None and chosen:
        if example is None:
            raise UsageError("the memo fill needs the sizes of the layers' outputs; give accelerate_ example=images")
        memory, left_out = memory_for(model, stan, {name: layers[name] for name in chosen}, example)
        report = [
            line._replace(patterns=(), reason=left_out[line.name]) if line.name in left_out else line for line in report
        ]
        chosen = {name: patterns for name, patterns in chosen.items() if name not in left_out}
    shapes: dict[str, list[tuple[int, ...]]] = {}
    if example is not None and memory is None and plan is None:
        # Before anything is changed: an example that the model refuses leaves it as it was.
        shapes = output_shapes(model, {name: layers[name] for name in chosen}, example)
    swapped: list[tuple[str, StanConv1d | StanConv2d | StanLinear]] = []
    for name in chosen:
        layer = layers[name]
        layer.__class__ = SWAPPED[type(layer)]
        swapped.append((name, layer))  # type: ignore[arg-type]  # it has just become one
    made = make_native_(model, exact_ones=stan.native)
    norms = sum(isinstance(module, StanBatchNorm2d) for module in made)
    # Those, too, that another model's accelerate_ has made.
    pools = sum(isinstance(module, StanPool2d) for module in model.modules())
    native = {name for name, module in found.items() if type(module) is StanConv2d and has_native_form(module)}
    report = [line._replace(native=line.name in native) for line in report]
    sparse = _insert_meprop(dense, stan, {name for name, _ in swapped})
    asked = {line.name: line for line in report}
    report = list((asked | {name: line for name, line in sparse.items() if line.top_k or name not in asked}).values())
    if not swapped and not native and not norms and not pools and not any(line.top_k for line in sparse.values()):
        why = _why_nothing(report) or "it has no convolution"
        say(f"STAN changes nothing in this model ({why}); it trains exactly")
    elif stan.inexact and not any(line.top_k for line in sparse.values()):
        why = _why_nothing(list(sparse.values())) or "no nn.Linear is left to it"
        say(f"meProp changes nothing in this model ({why}); gradients are whole")
    handle = StanHandle(stan, swapped, tuple(report), memory, plan, norms, pools)
    handle.note(shapes)
    return handle


def restore_(model: nn.Module) -> None:
    """Turn every layer that `accelerate_` changed back into what it was, in place."""
    for module in model.modules():
        if isinstance(module, tuple(ORIGINAL)):
            forget_(module)
            module.__class__ = _without_stan(type(module), ORIGINAL)
        elif module.__dict__.pop(BY_SURGERY, False):
            for name in (*SETTINGS, "__module__"):
                module.__dict__.pop(name, None)
            module.__class__ = _without_stan(type(module), {MePropLinear: nn.Linear})


def _cycle_seconds(model: nn.Module, stan: Stan, example: Example, loss: Loss | None) -> tuple[float, float]:
    """Return the seconds of a refresh and of a reduced iteration of the whole model under planned settings."""
    clock = clock_for(device_of(example))
    seconds: dict[Phase, list[float]] = {Phase.REFRESH: [], Phase.REDUCED: []}
    with untouched(model, example), torch.enable_grad():
        if not model.training:
            model.train()
        # Of the run's length nothing is left here, and no example is given: it would be evaluated.
        handle = accelerate_(model, replace(stan, pretrain=0, tail=0, iterations=None))
        try:
            began = clock()
            while len(seconds[Phase.REDUCED]) < 2 or clock() - began < CHECKED_SECONDS:
                started = clock()
                differentiate(model, example, loss)
                seconds[handle.phase].append(clock() - started)
                # Of a long cycle one reduced iteration, then the next refresh.
                handle.seek(handle.iteration + (1 if handle.phase is Phase.REFRESH else stan.period or 1))
        finally:
            restore_(model)
    return typical(seconds[Phase.REFRESH]), typical(seconds[Phase.REDUCED])


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a value of {type(value).__name__}"


def _without_stan(kind: type[nn.Module], originals: dict[type[nn.Module], type[nn.Module]]) -> type[nn.Module]:
    """Return the class that a layer would have without STAN.

    Some tools give a layer a class of its own that is derived from the one it had (parametrizations, FSDP): such a one
    is made anew, of PyTorch's.
    """
    if kind in originals:
        return originals[kind]
    ours = tuple(originals)
    bases = tuple(_without_stan(base, originals) if issubclass(base, ours) else base for base in kind.__bases__)
    names = {one.__name__: other.__name__ for one, other in originals.items()}
    old = next((name for name in names if name in kind.__name__), "")
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    if "__getstate__" in own:
        # Parametrizations refuse pickling, not copying; here they had found that the layer copies itself.
        own.setdefault("__deepcopy__", _copied_whole)
    made: type[nn.Module] = type(kind.__name__.replace(old, names[old]) if old else kind.__name__, bases, own)
    return made


def _copied_whole(layer: nn.Module, memo: dict[int, Any]) -> nn.Module:
    return copied(layer, layer.__dict__, memo)


def _why_nothing(report: Sequence[LayerReport]) -> str:
    """Return why layers are left alone, each reason once, with the first of the layers that it is of."""
    layers: dict[str, list[str]] = {}
    for line in report:
        layers.setdefault(line.reason, []).append(line.name or "the model")
    return "; ".join(
        f"{', '.join(names[:NAMED])}{f' and {len(names) - NAMED} more' if len(names) > NAMED else ''}: {reason}"
        for reason, names in layers.items()
    )


def _report(name: str, module: nn.Module, stan: Stan, reasons: Mapping[str, str]) -> LayerReport:
    patterns: tuple[Pattern, ...] = ()
    reason = why_not(name, module, "layers", stan.layers)
    if not reason:
        patterns = stan.patterns_of(name)
        if not patterns:
            does_not_pay = "it does not pay, as the planner measured"
            reason = "rate=1 computes every entry" if stan.plan is None else reasons.get(name, does_not_pay)
    return LayerReport(name, patterns, reason)


def _report_linear(name: str, module: nn.Linear, stan: Stan) -> LayerReport:
    reason = why_not(name, module, "linear", stan.linear)
    if not reason and module.weight.is_complex():
        reason = "its weights are complex, and memo remembers real numbers alone"
    patterns = () if reason else stan.patterns_of(name)
    return LayerReport(name, patterns, reason or ("" if patterns else "rate=1 computes every entry"))


def _insert_meprop(dense: dict[str, nn.Linear], stan: Stan, taken: set[str]) -> dict[str, LayerReport]:
    """Turn nn.Linear layers into meProp's; return what became of each that STAN has not taken."""
    meprop = stan.meprop
    if meprop is None or not meprop.top_k:
        return {}
    lines = {}
    for name, module in dense.items():
        if name in taken:
            continue
        width = module.out_features
        reason = why_not(name, module, MEPROP_LAYERS, meprop.layers)
        if not reason and meprop.top_k >= width:
            reason = f"top_k={meprop.top_k} of meProp keeps all of its {width} components"
        lines[name] = LayerReport(name, (), reason)
        if reason:
            continue
        module.__class__ = MePropLinear
        module.__dict__.update({name: getattr(meprop, name) for name in SETTINGS} | {BY_SURGERY: True})
        stand_in_for_(module, nn.Linear)
        whose = "the whole batch's" if meprop.unified else "each example's"
        reason = f"meProp shortens its backward pass alone, to {meprop.top_k} of {width} components of {whose} gradient"
        lines[name] = LayerReport(name, (), reason, top_k=meprop.top_k, unified=meprop.unified)
    return lines
