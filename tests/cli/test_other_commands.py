"""`stantune train`, `brackets`, `problems` and `data fetch`, run for real."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune.cli.options import PERIOD, QUICK_ITERATIONS
from stantune.cli.settings import period_of
from stantune.images.problem.built_in import BUILT_IN
from stantune.report.results import DataResult, PlanResult, ProblemsResult, TrainResult
from stantune.search.plan.hyperband import plan, trained_iterations
from stantune.search.results.summary import bracket_results
from stantune.stan.config import Stan

Stantune = Callable[..., Any]


@pytest.fixture
def train(tiny_file: Path) -> tuple[object, ...]:
    """A training of 40 iterations."""
    assignments = ("--set", "lr=2e-4", "--set", "momentum=0.5")
    return ("train", f"{tiny_file}:problem", *assignments, "--iterations", 40, "--threads", 1)


def test_train(stantune: Stantune, train: tuple[object, ...]) -> None:
    run = stantune(*train, "--json", "-")
    assert run.code == 0
    result = TrainResult.model_validate_json(run.out)
    assert (result.problem, result.seed, result.accelerate) == ("tiny", 0, "none")
    assert result.params == {"lr": 2e-4, "momentum": 0.5}
    assert (result.iterations, result.diverged_at) == (40, None)
    assert result.validation_error is not None
    assert result.test_error is not None
    assert 0 <= result.validation_error < 60, "better than chance, which is 75 %"
    assert 0 <= result.test_error < 60
    assert result.seconds.total == pytest.approx(result.seconds.training + result.seconds.evaluation)
    assert "test error" in run.err
    assert [line for line in run.err.splitlines() if line.startswith("iteration ")] == [
        f"iteration {done} of 40" for done in range(4, 41, 4)
    ]


def test_train_with_stan_and_seed(stantune: Stantune, train: tuple[object, ...]) -> None:
    def errors(*options: object) -> Any:
        result = stantune(*train, *options, "--iterations", 12, "--json", "-").json
        assert result["accelerate"] == ("stan" if options and options[0] == "--accelerate" else "none")
        return result["validation_error"], result["test_error"]

    assert errors("--seed", 1) == errors("--seed", 1)
    assert len({errors(), errors("--seed", 1), errors("--accelerate", "stan", "--period", "none")}) == 3


def test_train_on_everything(stantune: Stantune, train: tuple[object, ...]) -> None:
    run = stantune(*train, "--full-train", "--json", "-")
    result = TrainResult.model_validate_json(run.out)
    assert result.validation_error is None
    assert result.test_error is not None
    assert "validation" not in run.err


def test_train_diverges(stantune: Stantune, tiny_file: Path, tmp_path: Path) -> None:
    # A problem's own solver and length, where nothing is said.
    run = stantune("train", f"{tiny_file}:hopeless", "--threads", 1, "--json", tmp_path / "x.json")
    assert run.code == 0
    result = TrainResult.model_validate_json((tmp_path / "x.json").read_text())
    assert result.diverged_at is not None
    assert result.diverged_at < 8
    assert (result.validation_error, result.test_error, result.params) == (None, None, {})
    assert "diverged at iteration" in run.out


def test_train_interrupted(
    stantune: Stantune, train: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stantune(*train, "--json", "-").json
    kept = (*train, "--checkpoint", tmp_path / "made" / "x.pt")
    monkeypatch.setenv("TINY_INTERRUPT_AT", "15")
    for command, at, how in ((train, 15, "without --checkpoint"), (kept, 15, "goes on"), (kept, 30, "goes on")):
        run = stantune(*command, "--json", "-")
        assert (run.code, run.out) == (1, "")
        last = run.err.splitlines()[-1]
        assert last.startswith(f"stantune: interrupted at iteration {at}; ")
        assert how in last
    ended = stantune(*kept, "--json", "-").json
    assert {key: value for key, value in ended.items() if key != "seconds"} == {
        key: value for key, value in whole.items() if key != "seconds"
    }


def test_train_with_memory(
    stantune: Stantune, train: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Epochs of 24 iterations: one exact, then one of memories.
    remembering = (*train, "--accelerate", "stan", "--fill", "memo", "--json", "-")
    whole = stantune(*remembering)
    assert whole.code == 0, whole.err
    kept = (*remembering, "--checkpoint", tmp_path / "x.pt")
    monkeypatch.setenv("TINY_INTERRUPT_AT", "30")
    assert stantune(*kept).code == 1
    monkeypatch.delenv("TINY_INTERRUPT_AT")
    ended, expected = stantune(*kept).json, whole.json
    del ended["seconds"], expected["seconds"]
    assert ended == expected
    refused = stantune(*train, "--accelerate", "stan", "--fill", "nothing")
    assert (refused.code, refused.out) == (2, "")
    assert "--fill nothing is unknown; give neighbour or memo" in refused.err


def test_train_real_lenet(stantune: Stantune, data_dir: Path) -> None:
    run = stantune("train", "lenet", "--full-train", "--iterations", 50, "--data", data_dir, "--json", "-")
    assert run.code == 0, run.err
    assert run.json["test_error"] < 40


@pytest.mark.parametrize(
    ("options", "planned"),
    [
        ((), plan(60, 20, 3)),
        (("--min-iterations", 1), plan(60, 1, 3)),
        (("--max-iterations", 27, "--min-iterations", 1, "--variant", "table1"), plan(27, 1, 3, "table1")),
        (("--max-iterations", 16, "--min-iterations", 1, "--eta", 2, "--brackets", 2), plan(16, 1, 2, brackets=2)),
    ],
)
def test_brackets(stantune: Stantune, tiny_file: Path, options: tuple[object, ...], planned: Any) -> None:
    run = stantune("brackets", f"{tiny_file}:problem", *options, "--threads", 1, "--json", "-")
    assert run.code == 0
    result = PlanResult.model_validate_json(run.out)
    assert result.brackets == bracket_results(planned)
    assert result.trials == sum(bracket.rungs[0].trials for bracket in planned)
    assert (result.iterations, result.iterations_restarting) == trained_iterations(planned)
    assert result.final_iterations == result.max_iterations
    assert result.estimated_seconds is not None
    assert result.estimated_seconds > 0
    assert f"{result.trials} trials, {result.iterations} iterations in all" in run.err


def test_brackets_of_several_finalists(stantune: Stantune, tiny: tuple[str, ...]) -> None:
    one, three = (stantune("brackets", *tiny, "--finalists", number, "--json", "-") for number in (1, 3))
    assert (one.json["final_iterations"], three.json["final_iterations"]) == (60, 180)
    assert "then 60 of the final training\n" in one.err
    assert "then 180 of the final trainings\n" in three.err


def test_brackets_of_rates_by_rung(stantune: Stantune, tiny_file: Path) -> None:
    typed = ("brackets", f"{tiny_file}:problem", "--min-iterations", 6, "--accelerate", "stan:0.25,1", "--json", "-")
    run = stantune(*typed, "--threads", 1)
    assert run.code == 0
    assert run.json["rates"] == [{"iterations": 20, "rate": 0.25}, {"iterations": 60, "rate": 1.0}]
    assert "STAN computes: 0.25 up to 20 iterations, 1 up to 60 iterations" in run.err


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--resize", "1/2", "--resize 1/2:1/3 does not go with this: problem 'tiny'"),
        ("--precision", "bf8", "--precision 'bf8' is unknown"),
    ],
)
def test_brackets_refuse_what_a_search_would(
    stantune: Stantune, tiny_file: Path, option: str, value: str, words: str
) -> None:
    run = stantune("brackets", f"{tiny_file}:problem", "--max-iterations", 27, option, value)
    assert run.code == 2
    assert words in " ".join(run.err.split())


def test_brackets_without_data(stantune: Stantune, tmp_path: Path) -> None:
    run = stantune("brackets", "cq", "--quick", "--data", tmp_path, "--json", tmp_path / "x.json")
    assert run.code == 0
    result = PlanResult.model_validate_json((tmp_path / "x.json").read_text())
    assert (result.max_iterations, result.estimated_seconds) == (QUICK_ITERATIONS, None)
    assert "unknown; it is timed where a Problem's data are there" in run.out
    assert {file.name for file in tmp_path.iterdir()} == {"x.json"}, "nothing is fetched for it"


def test_problems(stantune: Stantune) -> None:
    run = stantune("problems", "--json", "-")
    assert run.code == 0
    result = ProblemsResult.model_validate_json(run.out)
    assert [problem.name for problem in result.problems] == ["lenet", "cq", "alexlrn", "alexbn", "mlp", "meprop"]
    for problem in result.problems:
        assert {parameter.name for parameter in problem.space} == set(BUILT_IN[problem.name].space)
        assert f"{problem.name}: {problem.data}, {problem.iterations} iterations" in run.err
    lr = result.problems[0].space[0]
    assert (lr.name, lr.kind, lr.low, lr.high, lr.log) == ("lr", "float", 5e-5, 5, True)


def test_data_fetch(stantune: Stantune, data_dir: Path, tmp_path: Path) -> None:
    run = stantune("data", "fetch", "mnist", "--data", data_dir, "--json", tmp_path / "x.json")
    assert run.code == 0
    result = DataResult.model_validate(json.loads((tmp_path / "x.json").read_text()))
    assert (result.name, result.training_images, result.test_images) == ("mnist", 60_000, 10_000)
    assert Path(result.directory).is_dir()
    assert "60000 training and 10000 test images" in run.out


def test_the_package_runs_as_the_command() -> None:
    code = [sys.executable, "-m", "stantune", "problems"]
    ran = subprocess.run(code, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "lenet" in ran.stdout


def test_exact_iterations_are_as_many_as_in_a_users_own_loop() -> None:
    assert period_of(PERIOD) == Stan().period
