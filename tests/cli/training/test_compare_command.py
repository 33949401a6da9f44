"""`stantune compare`, run for real: what it prints, that it goes on where it was, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stantune.compare.plans
import stantune.training.planning
from stantune.report.compare import CompareResult
from stantune.stan.config import Memo
from stantune.stan.planning.timing import LayerTimes, ModelTimes, PatternTimes

Stantune = Callable[..., Any]


PATTERNS = tuple(PatternTimes(name, 0.001, 0.001, 0.3) for name in ("rows", "columns"))
# A convolution that takes half of an exact iteration, of which its reduced iterations save half.
TIMES = ModelTimes(
    (LayerTimes("1", t_f=0.001, t_b=0.003, t_e=0.0005, patterns=PATTERNS),), step_seconds=0.008, rounds=1
)


@pytest.fixture(autouse=True)
def _fixed_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of a network this small would depend on how busy the machine is."""
    monkeypatch.setattr(stantune.compare.plans, "times_of", lambda *_, **__: TIMES)
    monkeypatch.setattr(stantune.training.planning, "_cycle_seconds", lambda *_: (0.008, 0.006))


@pytest.fixture
def compare(tiny_file: Path) -> tuple[object, ...]:
    """Two seeds of 30 iterations."""
    return ("compare", f"{tiny_file}:problem", "--seeds", 2, "--iterations", 30, "--set", "lr=2e-4", "--threads", 1)


def timeless(result: dict[str, Any]) -> Any:
    """Return what does not depend on times: errors, shares of entries, settings."""
    arms = [(arm["rate"], arm["stan"]["test_error"], arm["stan"]["kept"]) for arm in result["arms"]]
    return result["params"], result["iterations"], result["seeds"], result["exact"]["test_error"], arms


def test_compare(stantune: Stantune, compare: tuple[object, ...]) -> None:
    run = stantune(*compare, "--equal-time", "--json", "-")
    assert run.code == 0, run.err
    result = run.json
    CompareResult.model_validate(result)
    assert {"problem", "iterations", "seeds", "exact", "stan", "speedup", "predicted_speedup", "equal_time"} < set(
        result
    )
    assert (result["problem"], result["iterations"], result["seeds"]) == ("tiny", 30, 2)
    assert (result["params"], result["threads"]) == ({"lr": 2e-4}, 1)
    exact, stan = result["exact"], result["stan"]
    for one in (exact, stan):
        assert set(one) == {"seconds_per_iteration", "seconds", "test_error", "kept"}
        assert one["seconds"] == pytest.approx(30 * one["seconds_per_iteration"])
        assert len(one["test_error"]) == 2
    assert (exact["kept"], stan["kept"]) == (1.0, 0.5)
    assert result["speedup"] == pytest.approx(exact["seconds"] / stan["seconds"])
    # Every other iteration is a refresh and takes 8 ms, the others 6 ms.
    assert result["predicted_speedup"] == pytest.approx(8 / 7)
    points = [mine - theirs for theirs, mine in zip(exact["test_error"], stan["test_error"], strict=True)]
    assert result["error_difference"] == {
        "mean": pytest.approx(sum(points) / 2),
        "spread": pytest.approx(abs(points[0] - points[1]) / 2**0.5),
    }
    assert result["equal_time"]["iterations"] == round(30 / result["speedup"])
    assert len(result["equal_time"]["test_error"]) == 2
    (arm,) = result["arms"]
    for name in ("stan", "speedup", "predicted_speedup", "error_difference", "equal_time"):
        assert arm[name] == result[name]
    assert (arm["rate"], arm["fill"], arm["period"], arm["pretrain"], arm["tail"]) == (0.5, "neighbour", 1, 0, 0)
    assert "STAN 1/2 trains tiny " in run.err.splitlines()[-1]
    assert "times faster" in run.err


def test_its_errors_are_those_of_stantune_train(stantune: Stantune, compare: tuple[object, ...]) -> None:
    schedule = ("--period", 2, "--pretrain", 3, "--tail", 4)
    result = stantune(*compare, "--rate", 0.5, "--rate", 0.25, *schedule, "--full-train", "--json", "-").json
    train = ("train", *(word for word in compare[1:] if word not in ("--seeds", 2)), "--full-train", "--json", "-")
    for seed in (0, 1):
        exact = stantune(*train, "--seed", seed).json
        assert result["exact"]["test_error"][seed] == exact["test_error"]
        for arm in result["arms"]:
            options = ("--accelerate", "stan", "--rate", arm["rate"], *schedule)
            assert arm["stan"]["test_error"][seed] == stantune(*train, "--seed", seed, *options).json["test_error"]


def test_several_arms(stantune: Stantune, compare: tuple[object, ...], tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    run = stantune(*compare, "--rate", 0.25, "--rate", 1, "--rate", "auto", "--seeds", 1, "--json", file)
    assert run.code == 0, run.err
    result = json.loads(file.read_text())
    assert [arm["rate"] for arm in result["arms"]] == [0.25, 1.0, "auto"]
    quarter, all_entries, auto = result["arms"]
    assert result["stan"] == quarter["stan"]
    assert quarter["stan"]["kept"] == 0.25
    assert quarter["stan"]["test_error"] != result["exact"]["test_error"]
    assert all_entries["stan"]["kept"] == 1
    assert result["equal_time"] is None
    assert 0.5 <= auto["stan"]["kept"] <= 1
    for words in (
        "STAN 1/4",
        "STAN 1 ",
        "STAN auto",
        "auto: 1 rows or columns; Z = ",
    ):
        assert words in run.out
    assert run.err == ""


def test_memo(stantune: Stantune, compare: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memos: list[Memo] = []
    check = Memo.__post_init__

    def noting(memo: Memo) -> None:
        check(memo)
        memos.append(memo)

    monkeypatch.setattr(Memo, "__post_init__", noting)
    # 240 images in batches of 10: the 25th iteration begins the second epoch, the first that is reduced.
    run = stantune(*compare, "--fill", "memo", "--seeds", 1, "--out", tmp_path, "--json", "-")
    assert run.code == 0, run.err
    memo, *others = memos
    assert (memo.samples, memo.epoch) == (240, 24)
    assert not [other for other in others if (other.samples, other.epoch) != (240, 24)]
    kept = json.loads((tmp_path / "plans.json").read_text())["content"]["0.5"]
    assert (kept["plan"], kept["speedup"]) == (None, None)
    assert kept["budget"] > 0, "the same for each seed, whatever is free then"
    arm = run.json["arms"][0]
    assert (arm["fill"], arm["stan"]["kept"], arm["predicted_speedup"]) == ("memo", 0.5, None)
    assert "0.5: it holds 0.1 MB of memory" in run.err
    assert "STAN 1/2 memo" in run.err


@pytest.mark.parametrize(("options", "length"), [((), 6), (("--full-train",), 8)])
def test_as_long_as_stantune_train(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, options: tuple[str, ...], length: int
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        f"{tiny_file.read_text()}\n\nimport dataclasses\n\n"
        "problem = dataclasses.replace(problem, iterations=6, full_iterations=8)\n"
    )
    run = stantune("compare", f"{file}:problem", "--seeds", 1, "--threads", 1, *options, "--json", "-")
    assert run.json["iterations"] == length


def test_a_hopeless_problem_is_a_result_too(stantune: Stantune, tiny_file: Path) -> None:
    run = stantune("compare", f"{tiny_file}:hopeless", "--seeds", 1, "--threads", 1, "--equal-time", "--json", "-")
    assert run.code == 0, run.err
    assert (run.json["iterations"], run.json["params"]) == (30, {})
    # Every setting of it diverges: that is a result too.
    for one in (run.json["exact"], run.json["stan"]):
        assert (one["test_error"], one["seconds"]) == ([None], None)
    for name in ("speedup", "equal_time"):
        assert run.json[name] is None
    assert run.json["error_difference"] == {"mean": None, "spread": None}
    assert "exact training diverged with every seed." in run.err
    assert "STAN 1/2 diverged with every seed." in run.err


@pytest.mark.parametrize(
    ("given", "metric", "worse"),
    [
        ("measure='accuracy'", {"name": "test accuracy", "direction": "maximize", "unit": "%"}, "points worse"),
        (
            # The lit corner's number, as it is guessed.
            "measure='R2', loss='mean squared error', data=numbered, network=guessing",
            {"name": "test R2", "direction": "maximize", "unit": ""},
            "worse by",
        ),
    ],
)
def test_more_of_a_measure_that_is_maximised_is_better(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, given: str, metric: dict[str, str], worse: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        f"{tiny_file.read_text()}\n\nimport dataclasses\n\n"
        "def numbered(root):\n"
        "    found = images(root)\n"
        "    parts = (Split(part.inputs, part.targets.float()[:, None]) for part in (found.train, found.test))\n"
        "    return Dataset('corners', *parts, None)\n\n"
        "def guessing():\n    return nn.Sequential(network(), nn.Linear(CLASSES, 1))\n\n"
        f"problem = dataclasses.replace(problem, {given})\n"
    )
    setting = ("--iterations", 30, "--set", "lr=1e-4", "--threads", 1)
    run = stantune("compare", f"{file}:problem", "--seeds", 2, *setting, "--json", "-")
    assert run.code == 0, run.err
    assert run.json["metric"] == metric
    gained = [
        mine - theirs
        for theirs, mine in zip(run.json["exact"]["test_error"], run.json["stan"]["test_error"], strict=True)
    ]
    assert sum(gained) != 0, "this tells nothing"
    assert run.json["error_difference"]["mean"] == pytest.approx(-sum(gained) / 2)
    assert f"{'better' if sum(gained) > 0 else 'worse'} in {metric['name'].removeprefix('test ')}." in run.err
    assert {f"{metric['name']}, %" if metric["unit"] else metric["name"], worse} <= {
        line.split("  ")[0].strip() for line in run.err.splitlines()
    }


def test_interrupted(
    stantune: Stantune, compare: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stantune(*compare, "--json", "-").json
    kept = (*compare, "--out", tmp_path / "made" / "here")
    # 8 iterations of warming up, 60 for each seed: the 100th is in the second seed.
    monkeypatch.setenv("TINY_INTERRUPT_AT", "100")
    for command, how in (
        (compare, "nothing is kept of it without --out"),
        (kept, "the same command goes on from there"),
    ):
        run = stantune(*command, "--json", "-")
        assert (run.code, run.out) == (1, "")
        assert run.err.splitlines()[-1].startswith("stantune: interrupted; ")
        assert how in run.err.splitlines()[-1]
    assert {file.name for file in (tmp_path / "made" / "here").glob("*.json")} == {"plans.json", "seed-0.json"}
    monkeypatch.delenv("TINY_INTERRUPT_AT")
    ended = stantune(*kept, "--json", "-")
    assert "seed 0" not in ended.err
    assert timeless(ended.json) == timeless(whole)
    assert stantune(*kept, "--json", "-").json == ended.json, "all is there"
    other = stantune(*kept, "--period", 4)
    assert other.code == 2
    assert "stan.0.5.period is 1 there and 4 here" in other.err


BAD_USE = [
    (("{file}:problem", "--iterations", "0"), ("--iterations 0", "at least 1")),
    (("{file}:problem", "--seeds", "0"), ("--seeds 0", "at least 1")),
    (("{file}:problem", "--seeds", "-2"), ("--seeds -2", "at least 1")),
    (("{file}:problem", "--rate", "0"), ("rate=0", "0.5")),
    (("{file}:problem", "--rate", "1.5"), ("rate=1.5", "0.5")),
    (("{file}:problem", "--rate", "-0.5"), ("rate=-0.5", "0.5")),
    (("{file}:problem", "--rate", "nan"), ("rate=nan", "0.5")),
    (("{file}:problem", "--rate", "fast"), ("--rate fast", "0.5, or auto")),
    (("{file}:problem", "--rate", "0.5", "--rate", ".50"), ("--rate .50 is given twice",)),
    (("{file}:problem", "--rate", "auto", "--period", "none"), ("period=None", "refresh")),
    (("{file}:problem", "--tolerance", "0"), ("tolerance=0", "0.3")),
    (("{file}:problem", "--fill", "zero"), ("--fill zero", "neighbour or memo")),
    (("{file}:problem", "--fill", "memo", "--rate", "auto"), ("memo", "auto")),
    (("{file}:problem", "--period", "-1"), ("--period -1", "0 or more")),
    (("{file}:problem", "--pretrain", "-1"), ("pretrain", "-1")),
    (("{file}:problem", "--iterations", "9", "--pretrain", "5", "--tail", "5"), ("--pretrain 5", "--tail 5", "9")),
    (("{file}:problem", "--set", "lr=1000"), ("lr", "1000", "1e-06 to 100")),
    (("{file}:problem", "--out", "{notes}/x"), ("notes.txt", "--out")),
    (("{file}:problem", "--json", "{notes}/x.json"), ("--json", "notes.txt")),
    (("{untested}:problem",), ("'untested' has no test images",)),
    (("{untested}:unscaled", "--equal-time"), ("'unscaled'", "Half has no method scaled(factor)", "--equal-time")),
    (("lenett",), ("did you mean lenet?",)),
]


@pytest.mark.parametrize(("typed", "said"), BAD_USE, ids=lambda value: " ".join(value)[:60])
def test_bad_use(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, typed: tuple[str, ...], said: tuple[str, ...]
) -> None:
    untested = tmp_path / "untested.py"
    untested.write_text(
        f"{tiny_file.read_text()}\n\n"
        "import dataclasses\n\n"
        "class Half:\n    def factor(self, iteration):\n        return 0.5\n\n"
        "def no_tests(root):\n    return dataclasses.replace(images(root), test=images(root).test.take(0, 0))\n\n"
        "unscaled = dataclasses.replace(problem, name='unscaled', solver=Solver(lr=1e-3, policy=Half()))\n"
        "problem = dataclasses.replace(problem, name='untested', data=no_tests)\n"
    )
    (tmp_path / "notes.txt").write_text("")
    places = {"file": tiny_file, "notes": tmp_path / "notes.txt", "untested": untested}
    run = stantune("compare", *(part.format(**places) for part in typed), "--threads", "1")
    assert run.code == (1 if "--out" in typed else 2), run
    assert run.out == ""
    assert len(run.err.splitlines()) == 1, run.err
    assert run.err.startswith("stantune: ")
    for words in said:
        assert words in run.err


def test_help_warns_of_company(stantune: Stantune) -> None:
    run = stantune("compare", "--help")
    assert run.code == 0
    assert "two comparisons at once" in " ".join(run.out.split())
