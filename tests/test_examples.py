"""The worked example and the documentation's own problem: they are found, they fit together, they train."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stantune.errors import StantuneError
from stantune.images.data import Dataset, Normalise, fetch, load
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.parameters import Categorical, Integer
from stantune.space import Space
from stantune.stan.config import Stan
from stantune.stan.surgery import accelerate_
from stantune.training.train import run

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "fashion_residual.py"
DOCUMENT = ROOT / "docs" / "problems.md"


@pytest.fixture
def problem() -> Problem:
    return find(f"{EXAMPLE}:problem")


@pytest.fixture(scope="module")
def fashion() -> Dataset:
    """The real Fashion-MNIST, where it is there or can be had."""
    try:
        fetch("fashion-mnist")
    except StantuneError as error:
        pytest.skip(f"Fashion-MNIST cannot be fetched here: {error}")
    return load("fashion-mnist")


pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_says_how_it_is_run() -> None:
    assert "stantune search examples/fashion_residual.py:problem --quick" in EXAMPLE.read_text()


def test_every_parameter_of_its_space_has_its_effect(problem: Problem) -> None:
    kinds = {type(parameter) for parameter in problem.space.values()}
    assert {Integer, Categorical} <= kinds
    narrow = problem.build({"width": 8})
    assert narrow[0].out_channels == 8
    assert problem.build({"pool": "average"})[3].__class__ is torch.nn.AvgPool2d
    assert problem.build({"dropout": 0.3})[-2].p == 0.3
    for setting in ({"lr": 0.5}, {"momentum": 0.5}, {"weight_decay": 1e-3}):
        assert problem.space.check(setting) == setting
        groups = problem.solver.optimizer(narrow, setting).param_groups
        assert any(group[name] == value for group in groups for name, value in setting.items())
    assert narrow(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_its_flips_are_repeatable_mirrorings_of_about_half(problem: Problem) -> None:
    assert problem.augment is not None
    images = torch.rand(400, 1, 28, 28)
    one, same, other = (
        problem.augment(images, torch.arange(400), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    mirrored = (one == images.flip(3)).flatten(1).all(1)
    assert torch.equal(one[~mirrored], images[~mirrored])
    assert 150 < mirrored.sum() < 250


def test_it_learns_with_and_without_stan(problem: Problem, fashion: Dataset) -> None:
    train = fashion.train.take(0, 5000)
    splits = Splits(
        train, fashion.train.take(59_500, 60_000), fashion.test.take(0, 500), problem.normalise.fit(train), 10
    )
    quick = replace(problem, batch_size=32)
    for stan in (None, Stan(period=3, layers=problem.stan_layers)):
        # Chance is 90 %. This is one epoch of 5 000 images; four seeds of each had 35 to 46 %.
        outcome = run(quick, {"width": 8, "lr": 0.02}, None, 0, 150, splits=splits, stan=stan)
        assert outcome.diverged_at is None
        assert outcome.metrics["validation error"] < 60


def test_stan_finds_all_its_convolutions(problem: Problem) -> None:
    handle = accelerate_(problem.build({}), Stan())
    assert [line.reason for line in handle.report] == [""] * 6


def blocks() -> list[str]:
    found = re.findall(r"^( *)```python\n(.*?)^ *```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in text.splitlines()) for indent, text in found]


def test_the_problem_of_the_documentation_is_one(tmp_path: Path, mnist: Dataset) -> None:
    path = tmp_path / "my_problem.py"
    path.write_text(blocks()[0])
    problem = replace(find(f"{path}:problem"), batch_size=20)
    train = mnist.train.take(0, 1000)
    splits = Splits(train, mnist.train.take(1000, 1500), mnist.test.take(0, 500), problem.normalise.fit(train), 10)
    outcome = run(problem, {"lr": 0.1, "width": 300}, None, 0, 100, splits=splits)
    assert outcome.metrics["validation error"] < 40


def test_the_data_of_the_documentation_are_such(tmp_path: Path) -> None:
    whole, _, data = blocks()
    (tmp_path / "both.py").write_text(f"{whole}\n{data}".replace('data="mnist"', "data=lambda root: data(root)"))
    problem = replace(find(f"{tmp_path / 'both.py'}:problem"), validation=500, normalise=Normalise())
    splits = problem.load()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1500, 500, 500)
    assert run(replace(problem, batch_size=10), {}, None, 0, 2, splits=splits).iterations == 2


def test_the_conditional_space_of_the_documentation_is_one(tmp_path: Path) -> None:
    path = tmp_path / "conditional.py"
    path.write_text(blocks()[1])
    space = runpy.run_path(str(path))["space"]
    assert isinstance(space, Space)
    assert space.check({"kind": "plain"}, complete=True) == {"kind": "plain"}


def test_the_documentation_names_every_part_of_a_problem() -> None:
    text = DOCUMENT.read_text()
    for name in Problem.__dataclass_fields__:
        assert f"**{name}**" in text or f"`{name}`" in text or name == "name"
