"""A problem as an objective: its schedules take as long as the search trains, here and in other processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from stantune import Conditions, Dataset, Float, Problem, ProblemObjective, Solver, Space, Stan, tune
from stantune.errors import UsageError
from stantune.images import objective as module
from stantune.images.objective import made_of
from stantune.search.settings import SearchSettings
from stantune.search.table.looking.recorded import settings_of
from stantune.stan.config import LayerPlan

SOURCE = '''
"""Numbers from numbers."""
import numpy as np
from torch import nn

from stantune import Dataset, Float, Problem, Solver, Space

NUMBERS = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)


def data(root):
    return Dataset("numbers", (NUMBERS, NUMBERS.sum(1, keepdims=True)))


problem = Problem(
    name="numbers",
    network=lambda: nn.Linear(3, 1),
    data=data,
    space=Space({"lr": Float(1e-3, 1, log=True)}),
    solver=Solver(lr=0.1, kind="adamw", policy="cosine", warmup=0.1),
    loss="mean squared error",
    measure="R2",
    iterations=500,
    batch_size=10,
)
'''

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def objective(tmp_path: Path) -> ProblemObjective:
    from stantune.images.problem.built_in import find

    path = tmp_path / "numbers_problem.py"
    path.write_text(SOURCE)
    return ProblemObjective(find(f"{path}:problem"), source=f"{path}:problem")


def test_schedules_take_as_long_as_the_search_trains(objective: ProblemObjective) -> None:
    assert objective.identity["course"] == 500
    ready, _ = objective.prepared(Conditions(max_resource=27))
    assert isinstance(ready, ProblemObjective)
    assert (ready.problem.course, ready.identity["course"]) == (27, 27)
    there = pickle.loads(pickle.dumps(ready))
    assert there.problem.course == 27
    assert there.identity == ready.identity
    assert "splits" not in vars(there)


def test_what_loading_changes_of_the_users_own_is_no_change_of_the_file(tmp_path: Path) -> None:
    """An object that counts, or remembers what it has loaded, is digested as it is before."""
    from stantune.images.problem.built_in import find

    counting = """
class Counting:
    loaded = 0

    def __call__(self, root):
        self.loaded += 1
        return data(root)
"""
    before, problem, after = SOURCE.partition("problem = Problem(")
    path = tmp_path / "counting_problem.py"
    path.write_text(before + counting + problem + after.replace("data=data", "data=Counting()"))
    source = f"{path}:problem"
    expected = made_of(find(source))
    ready, _ = ProblemObjective(find(source), source=source).prepared(Conditions(max_resource=27))
    assert vars(ready)["splits"] is not None
    assert expected.items() <= ready.identity.items()
    assert pickle.loads(pickle.dumps(ready)).identity == ready.identity


@pytest.mark.parametrize(("part", "other"), [("Linear(3, 1)", "Linear(3, 1, bias=False)"), ("lr=0.1", "lr=0.2")])
def test_a_problem_whose_file_was_changed_is_not_trained(objective: ProblemObjective, part: str, other: str) -> None:
    ready, _ = objective.prepared(Conditions(max_resource=27))
    travels, identity = pickle.dumps(ready), ready.identity
    assert objective.source is not None
    file = Path(objective.source.partition(":")[0])
    text = file.read_text()
    file.write_text(f"# A comment.\n{text}")
    assert pickle.loads(travels).identity == identity == ready.identity
    file.write_text(text.replace(part, other))
    with pytest.raises(UsageError, match=r"numbers_problem\.py:problem was changed since the search began"):
        pickle.loads(travels)


def test_what_was_loaded_is_there_for_training(objective: ProblemObjective) -> None:
    splits = objective.splits
    ready, _ = objective.prepared(Conditions(max_resource=27))
    assert vars(ready)["splits"] is splits
    away, _ = objective.prepared(Conditions(max_resource=27, here=False))
    assert "splits" not in vars(away)


@pytest.mark.parametrize("stan", [None, Stan(rate=0.5)])
@pytest.mark.filterwarnings("ignore::stantune.errors.NoEffectWarning")
def test_a_search_of_numbers_finds_what_explains_them(
    objective: ProblemObjective, stan: Stan | None, tmp_path: Path
) -> None:
    result = tune(
        ProblemObjective(objective.problem, stan), max_resource=90, min_resource=10, seed=1, out=tmp_path / "out"
    )
    assert result.best is not None
    assert result.objective.metric.text(result.best.value) == f"{result.best.value:.4g}"
    assert result.objective.metric.name == "validation R2"
    assert result.best.value is not None
    assert 0.9 < result.best.value <= 1.0


def test_data_that_are_given_as_they_are_count_by_their_bytes() -> None:
    def made(row: int) -> dict[str, object]:
        inputs = torch.zeros(2_000, 3)
        # In the middle, which the text of a tensor leaves out.
        inputs[row] = 1.0
        data = Dataset("numbers", (inputs, torch.arange(2_000) % 2), (inputs, torch.arange(2_000) % 2), 2)
        space = Space({"lr": Float(1e-3, 1, log=True)})
        problem = Problem("given", network, data, space, Solver(lr=0.1), iterations=9)
        parts: dict[str, dict[str, dict[str, object]]] = made_of(problem)["made-of"]
        return parts["data"]["train"]

    def network() -> nn.Module:
        return nn.Linear(3, 2)

    assert made(900) == made(900)
    assert made(900)["inputs"] != made(901)["inputs"]
    assert len(str(made(900)["inputs"])) < 40


def test_a_plan_is_timed_in_the_numbers_of_the_trainings(
    objective: ProblemObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    within: list[tuple[str | None, str]] = []
    planned: list[list[tuple[str | None, str]]] = []

    @contextmanager
    def computing_in(precision: str | None, device: str) -> Iterator[None]:
        within.append((precision, device))
        yield
        within.pop()

    def planned_stan(stan: Stan, *rest: object, **more: object) -> Stan:
        planned.append([*within])
        return replace(stan, rate=0.5)

    monkeypatch.setattr(module, "computing_in", computing_in)
    monkeypatch.setattr(module, "planned_stan", planned_stan)
    asked = replace(objective, stan=Stan(rate="auto"), precision="fp32")
    asked.prepared(Conditions(max_resource=27))
    assert planned == [[("fp32", "cpu")]]


def test_stan_s_plan_of_layers_and_the_search_s_plan_are_two(objective: ProblemObjective) -> None:
    settings = SearchSettings(seed=0, max_resource=27, min_resource=3, plan_name="wide")
    identity = settings.identity(replace(objective, stan=Stan(rate="auto", plan=(LayerPlan("0", ("rows",)),))))
    assert identity["plan"]
    assert identity["search-plan"] == "wide"
    assert settings_of(identity).plan_name == "wide"
    assert settings_of(SearchSettings(0, 27, 3).identity(objective)).plan_name == "hyperband"
