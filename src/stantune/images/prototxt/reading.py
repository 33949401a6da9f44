"""from_caffe: a network's and a solver's file as a problem."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from stantune.arguments import path as checked_path
from stantune.arguments import text, whole
from stantune.errors import UsageError
from stantune.images.data import Normalise
from stantune.images.data.fetching.catalog import describe
from stantune.images.problem.facts import FACTS
from stantune.images.problem.problem import Problem
from stantune.images.prototxt.calls import carried_out, chosen_in
from stantune.images.prototxt.layers.modules import Graph
from stantune.images.prototxt.layers.types import LRN_POWER, LRN_SCALE
from stantune.images.prototxt.net import Learned, Net, Step, read_net
from stantune.images.prototxt.solver_file import SolverFile, read_solver
from stantune.images.prototxt.syntax.text import MOST_BYTES, RefusalError
from stantune.images.solving.solver import LAYER_DECAY_SUFFIX, Multiplier
from stantune.parameters import Float
from stantune.space import Space

# As the built-in problems, and the source's study.
HELD_OUT = 10_000


@dataclass(frozen=True)
class CaffeFiles:
    """What the two files say, in the order in which a problem needs it.

    Attributes:
        name: of the problem.
        data: the data set's name.
        size: of an image, (channels, height, width).
        net: the network.
        solver: the solver, with the network's multipliers, and how long it trains.
        batch_size: the file's own, unless another one was asked for.
        space: what is searched.
    """

    name: str
    data: str
    size: tuple[int, int, int]
    net: Net
    solver: SolverFile
    batch_size: int
    space: Space


class Network:
    """Makes the network that steps describe, its weights drawn from torch's global generator."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.steps = steps

    def __call__(self, lrn_scale: float | None = None, lrn_power: float | None = None) -> nn.Module:
        """Return a new one: images (B, C, H, W) to scores (B, classes).

        `lrn_scale` and `lrn_power` are alpha and beta of all LRN layers; None leaves each what its file says.
        """
        given = {LRN_SCALE: lrn_scale, LRN_POWER: lrn_power}
        setting = {name: value for name, value in given.items() if value is not None}
        modules = {step.name: carried_out(step.call, setting) for step in self.steps}
        if is_chain(self.steps):
            chain = nn.Sequential()
            for name, module in modules.items():
                chain.add_module(name, module)
            return chain
        return Graph(modules, [step.inputs for step in self.steps])


def is_chain(steps: Iterable[Step]) -> bool:
    """Tell whether each step takes the result of the one before it alone."""
    return all(step.inputs == (place - 1,) for place, step in enumerate(steps))


def from_caffe(
    net: str | PathLike[str], solver: str | PathLike[str], dataset: str, *, batch_size: int | None = None
) -> Problem:
    """Return Caffe's files of a network and a solver as a problem, to be searched and trained as any other.

    ```python
    problem = st.from_caffe("lenet_train_test.prototxt", "lenet_solver.prototxt", "mnist")
    ```

    What is searched: `lr`, the weight decay of each convolution and inner product (`conv1_l2`), the momentum of SGD and
    Nesterov, and alpha and beta of the LRN layers (`lrn_scale`, `lrn_power`), in the ranges of the source's study. Of
    the training images 10 000 are held out, the last ones.

    Args:
        net: the network as it is trained, with its data layers and one SoftmaxWithLoss.
        solver: the solver.
        dataset: a built-in data set, which takes the place of the file's own.
        batch_size: of a training iteration; None: that of the file's data layer.

    Raises:
        UsageError: a file cannot be read, or says what is not taken; the message has file, line and layer.
    """
    return problem_of(read_files(net, solver, dataset, batch_size))


def problem_of(files: CaffeFiles) -> Problem:
    """Return the problem that files amount to."""
    return Problem(
        name=files.name,
        network=Network(files.net.steps),
        data=files.data,
        space=files.space,
        solver=files.solver.solver,
        iterations=files.solver.iterations,
        batch_size=files.batch_size,
        normalise=Normalise(scale=files.net.scale, mean=files.net.mean),
        validation=HELD_OUT,
        hold_out="last",
        recordable=True,
    )


def read_files(
    net: str | PathLike[str], solver: str | PathLike[str], dataset: str, batch_size: int | None
) -> CaffeFiles:
    """Return what the files say; raises UsageError as `from_caffe` does."""
    net, solver = checked_path("net", net), checked_path("solver", solver)
    description = describe(text("dataset", dataset))
    parts = [file for file in description.files if file.part == "train" and file.kind != "labels"]
    _, *shape = parts[0].shape
    size = (1, *shape) if len(shape) == 2 else tuple(shape)
    assert len(size) == 3, "built-in data sets are images"
    there = sum(file.shape[0] for file in parts) - HELD_OUT
    texts = {path: _text_of(path) for path in (net, solver)}
    path = net
    try:
        found = read_net(texts[net], size, description.classes)
        path = solver
        how = read_solver(texts[solver], _patterns(found.learned))
    except RefusalError as error:
        raise UsageError(f"{path}, line {error.line}: {error.words}") from None
    asked = found.batch_size if batch_size is None else whole("batch_size", batch_size, 1)
    if asked is None or asked > there:
        own = f"{net} says no batch_size" if asked is None else f"{net} says batch_size: {asked}"
        said = own if batch_size is None else f"`batch_size`={asked}"
        more = "" if asked is None else f", more than the {there} training images"
        raise UsageError(f"{said}{more}; give a `batch_size` of 1 to {there}")
    return CaffeFiles(_name_of(net), dataset, size, found, how, asked, _space(found, how))


def _text_of(path: Path) -> str:
    try:
        if not path.is_file():
            raise UsageError(f"there is no file {path}; give one of Caffe's, FILE.prototxt")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a file that can") from error
    if len(content) > MOST_BYTES:
        raise UsageError(f"{path} has more than {MOST_BYTES} bytes; give a text file, not one with weights")
    if b"\0" in content:
        raise UsageError(f"{path} is no text; give a text file, not one with weights")
    # What is not UTF-8 matters only outside of comments, where `parse` tells its line.
    return content.decode("utf-8-sig", errors="surrogateescape")


def _name_of(net: Path) -> str:
    name = re.sub(r"[^\w.-]", "_", net.stem, flags=re.ASCII).lstrip(".-") or "network"
    return f"{name}_caffe" if name in FACTS else name


def _patterns(learned: Iterable[Learned]) -> dict[str, Multiplier]:
    """Return multipliers as few patterns: one for all weights or biases where they are alike."""
    patterns: dict[str, Multiplier] = {}
    of_kind: dict[str, dict[str, Multiplier]] = {"weight": {}, "bias": {}}
    for each in learned:
        of_kind[each.parameter][f"{each.module}.{each.parameter}"] = Multiplier(each.lr, each.decay)
    for kind, own in of_kind.items():
        if len(own) > 1 and len(set(own.values())) == 1:
            own = {f"*.{kind}": next(iter(own.values()))}
        patterns |= {name: each for name, each in own.items() if each != Multiplier()}
    return patterns


def _space(net: Net, solver: SolverFile) -> Space:
    """Return what is searched, in the ranges of the source's study."""
    parameters: dict[str, Any] = {"lr": Float(5e-5, 5, log=True)}
    for name in net.decayed:
        parameters[f"{name}{LAYER_DECAY_SUFFIX}"] = Float(5e-5, 5, log=True)
    if solver.searches_momentum:
        parameters["momentum"] = Float(0.001, 0.99, log=True)
    if any(chosen_in(step.call) for step in net.steps):
        parameters |= {LRN_SCALE: Float(5e-6, 5, log=True), LRN_POWER: Float(0.01, 3)}
    return Space(parameters)
