"""Caffe's four networks that are built in come out equal, bit for bit, from files; so does Python of the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stantune.images.data import Split
from stantune.images.problem.built_in import BUILT_IN, Problem, Splits, find
from stantune.images.prototxt.reading import from_caffe
from stantune.images.prototxt.writing import as_python
from stantune.stan.config import Stan
from stantune.training.trial import Trial

FILES = Path(__file__).parents[2] / "examples" / "caffe"
NAMES = {
    "lenet": "lenet",
    "cq": "cifar10_quick",
    "alexlrn": "cifar10_full",
    "alexbn": "cifar10_full_bn",
}


def files_of(name: str) -> tuple[Path, Path]:
    return FILES / f"{NAMES[name]}_train_test.prototxt", FILES / f"{NAMES[name]}_solver.prototxt"


def splits_for(problem: Problem) -> Splits:
    """A few random images, normalised as the problem says."""
    shape = (28, 28, 1) if problem.data == "mnist" else (32, 32, 3)
    made = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (60, *shape), generator=made, dtype=torch.uint8)
    split = Split(pixels, torch.randint(0, 10, (60,), generator=made))
    return Splits(split, split, split, problem.normalise.fit(split), 10)


def trained(problem: Problem, iterations: int, stan: Stan | None = None) -> tuple[list[torch.Tensor], list[float]]:
    """The initial weights of a seed, and the losses of a training of batches of 5."""
    problem = replace(problem, batch_size=5, stan_layers=("conv2",))
    trial = Trial(problem, {}, splits_for(problem), seed=3, stan=stan)
    weights = [parameter.detach().clone() for parameter in trial.model.parameters()]
    losses = []
    for iteration in range(iterations):
        batch = trial.batches.at(iteration)
        if trial.handle is not None:
            trial.handle.step()
        problem.scheduled(trial.optimizer, {})(iteration)
        loss = problem.criterion({})(trial.model(batch.inputs), batch.targets)
        trial.optimizer.zero_grad()
        loss.backward()
        trial.optimizer.step()
        losses.append(loss.item())
    return weights, losses


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_network_comes_out_equal_from_files(name: str, tmp_path: Path) -> None:
    network, solver = files_of(name)
    own, read = BUILT_IN[name], from_caffe(network, solver, str(BUILT_IN[name].data))
    file = tmp_path / "written.py"
    file.write_text(as_python(network, solver, str(own.data)))
    written = find(f"{file}:problem")
    weights, losses = trained(own, 30)
    assert len(set(losses)) == 30
    for other, iterations in ((read, 30), (written, 5)):
        other_weights, other_losses = trained(other, iterations)
        assert all(torch.equal(one, same) for one, same in zip(weights, other_weights, strict=True))
        assert losses[:iterations] == other_losses
    for field in ("data", "iterations", "batch_size", "normalise", "validation", "hold_out", "recordable"):
        assert getattr(read, field) == getattr(own, field) == getattr(written, field), field
    assert read.name == written.name == network.stem
    assert read.space == written.space
    assert read.solver == written.solver


@pytest.mark.parametrize("name", ["cq", "alexbn"])
def test_it_trains_equal_under_stan_too(name: str) -> None:
    stan = Stan(layers=("conv2",))
    read = from_caffe(*files_of(name), str(BUILT_IN[name].data))
    assert trained(BUILT_IN[name], 6, stan)[1] == trained(read, 6, stan)[1]


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("lenet", {"ip1_l2", "ip2_l2"}),
        ("cq", {"momentum"}),
        ("alexlrn", {"momentum"}),
        ("alexbn", set()),
    ],
)
def test_the_space_is_the_sources_and_what_else_the_files_have(name: str, others: set[str]) -> None:
    # Caffe calls inner products ip, where the source says fc.
    own = {parameter.replace("fc", "ip"): values for parameter, values in BUILT_IN[name].space.items()}
    read = from_caffe(*files_of(name), str(BUILT_IN[name].data)).space
    assert set(read) - set(own) == others
    assert all(read[each] == values for each, values in own.items() if each != "momentum")
    if "momentum" in read:
        assert (read["momentum"].low, read["momentum"].high) == (0.001, 0.99)  # type: ignore[union-attr]
