"""One seed has one result: for one, two and three workers, on Ray, and where each goes on with what another began.

The objectives are those that benchmarks/robustness/soak.py kills: a loop of one's own with all that keeps a state, a
Lightning module, and a shell command. What is compared are rows, final trainings, their weights, and the names of all
files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import stantune as st
from benchmarks.robustness import outcomes, soaked
from benchmarks.robustness.soak import checkpoints
from stantune.search.stopping import Stop

# One bracket of a short search, so that it is over soon; each has a trial that is promoted twice.
SHORT = {"max_resource": 4, "min_resource": 1, "eta": 2, "brackets": 1}
OBJECTIVES = ["loop", "command", "lightning"]


def found(name: str, out: Path, **how: Any) -> st.SearchResult:
    """Search an objective."""
    if name == "lightning":
        pytest.importorskip("lightning", reason="Lightning is not installed: pip install 'stantune[lightning]'")
    what = soaked.OBJECTIVES[name]()
    options = {"threads": 1, "device": "cpu", "finalists": soaked.FINALISTS, "out": out, **what.options, **SHORT, **how}
    return st.tune(what.objective, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the search of an objective comes to without workers; each is made once."""
    made: dict[str, outcomes.Result] = {}

    def result(name: str) -> outcomes.Result:
        if name not in made:
            made[name] = outcomes.result_of(found(name, tmp_path_factory.mktemp(name)))
        return made[name]

    return result


def same(result: st.SearchResult, expected: outcomes.Result) -> None:
    """Check row by row, so that a failure shows which."""
    here = outcomes.result_of(result)
    assert here.rows == expected.rows
    assert here.finals == expected.finals
    assert here.weights == expected.weights
    assert here.files == expected.files
    assert here.failures == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_search_has_something_to_differ_in(name: str, alone: Any) -> None:
    result = alone(name)
    errors = [error for row in result.rows for error in row[3].values()]
    assert len(set(errors)) > len(errors) // 2
    assert max(len(row[3]) for row in result.rows) == 3, "somebody goes on from a checkpoint, and again"
    assert len(set(result.weights)) == soaked.FINALISTS
    assert all(result.weights)
    assert not [name for name in result.files if name.endswith(".part")]


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("loop", 2),
        ("command", 2),
        pytest.param("command", 3, marks=pytest.mark.slow),
        ("lightning", 2),
        pytest.param("loop", 3, marks=pytest.mark.slow),
        pytest.param("lightning", 3, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_workers_has_the_same_result(tmp_path: Path, name: str, workers: int, alone: Any) -> None:
    same(found(name, tmp_path, workers=workers), alone(name))


@pytest.mark.parametrize(
    "name",
    [
        "command",
        pytest.param("loop", marks=pytest.mark.slow),
        pytest.param("lightning", marks=pytest.mark.slow),
    ],
)
def test_ray_has_the_same_result(tmp_path: Path, name: str, address: str, alone: Any) -> None:
    same(found(name, tmp_path, executor="ray", address=address), alone(name))


class AfterOne(Stop):
    """Ends a search in good order when one more training is over."""

    def __init__(self, place: Path) -> None:
        super().__init__(None)
        self._place = place
        self._before = checkpoints(place)

    def asked(self) -> bool:
        return checkpoints(self._place) != self._before


@pytest.mark.parametrize(
    "name",
    ["command", pytest.param("loop", marks=pytest.mark.slow), pytest.param("lightning", marks=pytest.mark.slow)],
)
def test_others_go_on_with_what_one_has_begun(tmp_path: Path, name: str, address: str, alone: Any) -> None:
    part = found(name, tmp_path, workers=2, stop=AfterOne(tmp_path))
    assert not part.complete
    part = found(name, tmp_path, executor="ray", address=address, stop=AfterOne(tmp_path))
    assert not part.complete
    same(found(name, tmp_path), alone(name))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["problem", *OBJECTIVES])
def test_a_table_that_has_lost_what_came_last_has_the_same_result(tmp_path: Path, name: str, alone: Any) -> None:
    # A copy of it was put in its place, or the power failed before the last results were on the disk.
    assert not found(name, tmp_path, stop=AfterOne(tmp_path)).complete
    table = (tmp_path / "search.db").read_bytes()
    assert found(name, tmp_path).complete
    (tmp_path / "search.db").write_bytes(table)
    # What befell files uses up no try.
    again, expected = outcomes.result_of(found(name, tmp_path, retries=0)), alone(name)
    assert (again.rows, again.finals, again.weights) == (expected.rows, expected.finals, expected.weights)
    assert list(tmp_path.glob("checkpoints/*.pt.aside")), "some were further, and none of them is lost"
    assert again.failures == len(list(tmp_path.glob("checkpoints/*.pt.aside")))
