"""as_python: Caffe's files as the Python problem that they amount to, to be read and changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from os import PathLike
from pathlib import Path
from typing import Any

from stantune.images.prototxt import policies
from stantune.images.prototxt.calls import Call, Value, chosen_in, imports_of, quoted, written
from stantune.images.prototxt.net import Step
from stantune.images.prototxt.reading import HELD_OUT, CaffeFiles, is_chain, read_files
from stantune.images.solving.solver import Multiplier, Solver
from stantune.space import Space
from stantune.texts import brief

_WIDTH = 120
_STEP = " " * 4


def as_python(
    net: str | PathLike[str], solver: str | PathLike[str], dataset: str, *, batch_size: int | None = None
) -> str:
    """Return Python that makes the same problem as `from_caffe` of these files, bit for bit, and calls it `problem`.

    Raises UsageError as `from_caffe` does.
    """
    files = read_files(net, solver, dataset, batch_size)
    steps = files.net.steps
    own = _keywords(steps)
    apart = frozenset(name for name, values in own.items() if len(values) > 1)
    parameters = ", ".join(
        f"{name}: float | None = None" if name in apart else f"{name}: float = {next(iter(values))!r}"
        for name, values in own.items()
    )
    shape = f"images (B, {', '.join(map(str, files.size))}) to scores"
    body = _chain(steps, parameters, apart, shape) if is_chain(steps) else _graph(steps, parameters, apart, shape)
    of = f"{brief(repr(Path(net).name))} with {brief(repr(Path(solver).name))}"
    return "\n".join(
        [f"# Of {of}, by `stantune import`.", *_imports(files), "", "", *body, "", "", *_problem(files), ""]
    )


def _keywords(steps: Iterable[Step]) -> dict[str, set[float]]:
    """Return the keywords of the network, and the values that its layers have of their own."""
    found: dict[str, set[float]] = {}
    for step in steps:
        for each in chosen_in(step.call):
            found.setdefault(each.keyword, set()).add(each.own)
    return found


def _imports(files: CaffeFiles) -> Iterator[str]:
    wanted = {("torch", "nn")}.union(*(imports_of(step.call) for step in files.net.steps))
    if is_chain(files.net.steps):
        wanted.add(("collections", "OrderedDict"))
    else:
        wanted.add(("torch", "Tensor"))
    policy = files.solver.solver.policy
    if type(policy).__module__ == policies.__name__:
        wanted.add((policies.__name__, type(policy).__name__))
    by_module: dict[str, list[str]] = {}
    for module, name in sorted(wanted):
        by_module.setdefault(module, []).append(name)
    groups = (
        ("collections", "functools"),
        ("torch",),
        tuple(name for name in by_module if name.startswith("stantune")),
    )
    for group in groups:
        lines = [f"from {name} import {', '.join(by_module[name])}" for name in group if name in by_module]
        if group is groups[-1]:
            lines.insert(0, "import stantune as st")
        if lines:
            yield ""
            yield from lines


def _chain(steps: Iterable[Step], parameters: str, apart: frozenset[str], shape: str) -> Iterator[str]:
    yield f"def network({parameters}) -> nn.Module:"
    yield f'{_STEP}"""Return a new network: {shape}."""'
    yield f"{_STEP}return nn.Sequential("
    yield f"{_STEP * 2}OrderedDict("
    for step in steps:
        yield from _lines(f"{step.name}=", step.call, ",", 3, apart)
    yield f"{_STEP * 2})"
    yield f"{_STEP})"


def _graph(steps: tuple[Step, ...], parameters: str, apart: frozenset[str], shape: str) -> Iterator[str]:
    yield "class Network(nn.Module):"
    yield f'{_STEP}"""The network: {shape}."""'
    yield ""
    yield f"{_STEP}def __init__(self{', ' if parameters else ''}{parameters}) -> None:"
    yield f"{_STEP * 2}super().__init__()"
    for step in steps:
        yield from _lines(f"self.{step.name} = ", step.call, "", 2, apart)
    yield ""
    yield f"{_STEP}def forward(self, data: Tensor) -> Tensor:"
    yield f'{_STEP * 2}"""Return the scores."""'
    for step in steps:
        taken = ", ".join("data" if place < 0 else steps[place].name for place in step.inputs)
        yield f"{_STEP * 2}{step.name} = self.{step.name}({taken})"
    yield f"{_STEP * 2}return {steps[-1].name}"


def _lines(before: str, value: Value, after: str, depth: int, apart: frozenset[str]) -> Iterator[str]:
    """Yield a value as Python, on as many lines as it needs."""
    whole = f"{_STEP * depth}{before}{written(value, apart)}{after}"
    if len(whole) <= _WIDTH or not isinstance(value, Call) or not (value.arguments or value.options):
        yield whole
        return
    yield f"{_STEP * depth}{before}{value.what}("
    for each in value.arguments:
        yield from _lines("", each, ",", depth + 1, apart)
    for name, each in value.options:
        yield from _lines(f"{name}=", each, ",", depth + 1, apart)
    yield f"{_STEP * depth}){after}"


def _problem(files: CaffeFiles) -> Iterator[str]:
    normalise = [f"scale={files.net.scale!r}"] if files.net.scale != 1 else []
    normalise += (
        [f"mean={quoted(mean) if isinstance(mean := files.net.mean, str) else repr(mean)}"]
        if files.net.mean != "none"
        else []
    )
    yield "problem = st.Problem("
    yield f"{_STEP}name={quoted(files.name)},"
    yield f"{_STEP}network={'network' if is_chain(files.net.steps) else 'Network'},"
    yield f"{_STEP}data={quoted(files.data)},"
    yield f"{_STEP}space=st.Space("
    yield f"{_STEP * 2}{{"
    yield from (f"{_STEP * 3}{quoted(name)}: {_range(files.space, name)}," for name in files.space)
    yield f"{_STEP * 2}}}"
    yield f"{_STEP}),"
    yield f"{_STEP}solver=st.Solver("
    yield from (f"{_STEP * 2}{line}" for line in _solver(files.solver.solver))
    yield f"{_STEP}),"
    yield f"{_STEP}iterations={files.solver.iterations},"
    yield f"{_STEP}batch_size={files.batch_size},"
    if normalise:
        yield f"{_STEP}normalise=st.Normalise({', '.join(normalise)}),"
    yield f"{_STEP}validation={HELD_OUT:_},"
    yield f'{_STEP}hold_out="last",'
    yield f"{_STEP}recordable=True,"
    yield ")"


def _range(space: Space, name: str) -> str:
    values: Any = space[name]
    return f"st.Float({values.low!r}, {values.high!r}{', log=True' if values.log else ''})"


def _solver(solver: Solver) -> Iterator[str]:
    """Yield lines with the fields that are not what they are by default."""
    for field in fields(solver):
        value = getattr(solver, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value == default:
            continue
        if field.name == "multipliers":
            yield "multipliers={"
            yield from (f"{_STEP}{quoted(name)}: {_multiplier(each)}," for name, each in value.items())
            yield "},"
        elif field.name == "policy":
            here = type(value).__module__ == policies.__name__
            yield f"policy={'' if here else 'st.'}{value!r},"
        else:
            yield f"{field.name}={quoted(value) if isinstance(value, str) else repr(value)},"


def _multiplier(multiplier: Multiplier) -> str:
    said = [f"{name}={getattr(multiplier, name)!r}" for name in ("lr", "decay") if getattr(multiplier, name) != 1]
    return f"st.Multiplier({', '.join(said)})"
