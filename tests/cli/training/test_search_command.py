"""`stantune search`, run for real: its JSON, and that every interruption ends where no interruption ends."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune.search import stopping
from stantune.search.plan.hyperband import plan, trained_iterations
from stantune.search.results.contract import SearchSummary
from stantune.search.results.summary import bracket_results

Stantune = Callable[..., Any]
Timeless = Callable[[dict[str, Any]], dict[str, Any]]
AsWhole = Callable[[dict[str, Any]], None]


def test_json(whole: Any) -> None:
    assert whole.run.code == 0
    result = SearchSummary.model_validate_json(whole.run.out)
    planned = plan(60, 6, 3)
    assert result.brackets == bracket_results(planned)
    assert (result.problem, result.seed, result.accelerate, result.variant) == ("tiny", 0, "stan", "algorithm1")
    assert (result.eta, result.max_iterations, result.min_iterations, result.complete) == (3, 60, 6, True)
    counts = result.counts
    assert counts.trials == 9 + 5 + 3
    assert counts.diverged > 0, "the tiny problem is to show divergence, too"
    assert counts.promoted == 3 + 1
    finished = counts.trials - counts.dropped - counts.diverged
    assert 1 <= finished <= 1 + 1 + 3
    assert 0 < result.iterations_trained < trained_iterations(planned).continued

    assert len(result.leaders) == 5
    ranked = [(leader.validation_error, -leader.iterations, leader.trial) for leader in result.leaders]
    assert ranked == sorted(ranked)
    assert all(leader.iterations in (6, 20, 60) for leader in result.leaders)
    assert result.best is not None
    assert result.best.model_dump() == result.leaders[0].model_dump(exclude={"trial"})
    assert result.final is not None
    assert (result.final.params, result.final.iterations) == (result.best.params, 60)
    assert result.final.test_error is not None
    errors = [leader.validation_error for leader in result.leaders]
    for error in (*errors, result.final.validation_error, result.final.test_error):
        assert error is not None
        assert 0 <= error <= 100
        assert error * 60 / 100 == pytest.approx(round(error * 60 / 100)), "errors of 60 images, in percent"

    seconds = result.seconds
    assert seconds.total == pytest.approx(seconds.training + seconds.evaluation + seconds.coordination)
    assert min(seconds.training, seconds.evaluation, seconds.coordination) > 0
    assert min(result.saved.early_stopping, result.saved.continuing) > 0


def test_finalists_of_a_search_that_was_done(
    whole: Any, stantune: Stantune, tiny: tuple[str, ...], timeless: Timeless, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole.directory, copy)
    three = stantune("search", *tiny, "--finalists", 3, "--out", copy, "--json", "-")
    assert three.code == 0, three.err
    before, after = timeless(whole.run.json), timeless(three.json)
    others = {"finalists": 0, "final": 0, "notes": 0}
    assert {**after, **others} == {**before, **others}
    finalists = after["finalists"]
    assert finalists[0] == before["final"], "it is not trained again"
    assert [final["trial"] for final in finalists] == [leader["trial"] for leader in after["leaders"][:3]]
    errors = [final["validation_error"] for final in finalists]
    assert after["final"] == finalists[errors.index(min(errors))]
    assert [final["weights"] for final in finalists] == ["final.pt", "final-2.pt", "final-3.pt"]
    assert all((copy / final["weights"]).exists() for final in finalists)
    said = three.err.splitlines()
    head = said.index("final trainings of the best 3 settings (exact, from scratch, 60 iterations):")
    lines = [f"  trial {final['trial']}: validation error {final['validation_error']:.2f} %" for final in finalists]
    won = errors.index(min(errors))
    lines[won] += f", the lowest; test error {finalists[won]['test_error']:.2f} %; weights in "
    lines[won] += str(copy / finalists[won]["weights"])
    assert said[head + 1 : head + 4] == lines
    assert sum(line.startswith("final training of trial") for line in said) == 2
    # Fewer again: what there was before, and nothing is trained.
    one = stantune("search", *tiny, "--out", copy, "--json", "-")
    assert timeless(one.json) == before
    assert "final training of trial" not in one.err


def test_lines_where_there_is_no_terminal(whole: Any) -> None:
    # Under --json - people read standard error.
    lines = whole.run.err.splitlines()
    rungs = [line.partition(":")[0] for line in lines if line.startswith(("bracket", "final training of trial"))]
    assert rungs == [
        *(f"bracket {s}, rung of {stop} iterations" for s, stop in ((2, 6), (2, 20), (2, 60), (1, 20), (1, 60))),
        "bracket 0, rung of 60 iterations",
        f"final training of trial {whole.run.json['final']['trial']}",
    ]
    assert "\x1b" not in whole.run.err
    for words in ("best trials", "validation error", "test error", "saved by early stopping", "saved by STAN"):
        assert words in whole.run.err or words.replace("saved", "lost") in whole.run.err


def test_same_command_again(whole: Any, stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    again = stantune("search", *tiny, "--out", whole.directory, "--json", target)
    assert again.code == 0
    assert again.err == ""
    assert "best trials" in again.out
    assert json.loads(target.read_text()) == whole.run.json, "nothing is trained again, not even its time changes"
    assert json.loads((whole.directory / "result.json").read_text()) == whole.run.json


def test_same_seed_elsewhere(
    whole: Any, stantune: Stantune, tiny: tuple[str, ...], timeless: Timeless, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    results = [
        stantune("search", *tiny, "--out", tmp_path / name, "--storage", url, "--json", "-") for name in ("a", "b")
    ]
    assert [timeless(result.json) for result in results] == [timeless(whole.run.json)] * 2
    assert not (tmp_path / "a" / "search.db").exists()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--seed", 1), "seed: 0 there, 1 here"),
        (("--eta", 2), "eta: 3 there, 2 here"),
        (("--max-iterations", 50), "max-iterations: 60 there, 50 here"),
        (("--min-iterations", 7), "min-iterations: 6 there, 7 here"),
        (("--brackets", 1), "brackets: all there, 1 here"),
        (("--variant", "table1"), "variant: algorithm1 there, table1 here"),
        (("--accelerate", "none"), "accelerate: stan there, none here"),
        (("--accelerate", "stan:0.5,1"), "accelerate: stan there, stan:0.5,1 here"),
        (("--accelerate", "stan:auto"), "accelerate: stan there, stan:0.25,0.5,1 here"),
        (("--accelerate", "stan:auto"), "period: 1 there, 9 here"),
        (("--rate", 0.25), "rate: 0.5 there, 0.25 here"),
        (("--period", 3), "period: 1 there, 3 here"),
        (("--pretrain", 5), "pretrain: 0 there, 5 here"),
        (("--tail", 5), "tail: 0 there, 5 here"),
        (("--threads", 2), "threads: 1 there, 2 here"),
    ],
)
def test_other_settings_are_refused(
    whole: Any, stantune: Stantune, tiny: tuple[str, ...], options: tuple[object, ...], difference: str
) -> None:
    before = (whole.directory / "result.json").read_bytes()
    # Rates by rung, and none, stand in for the one rate, the last of its arguments.
    asked = tiny[:-2] if "--accelerate" in options else tiny
    refused = stantune("search", *asked, "--out", whole.directory, *options)
    assert refused.code == 2
    assert difference in refused.err
    assert "--fresh" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert (whole.directory / "result.json").read_bytes() == before


def test_fresh(stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path) -> None:
    small = (*tiny, "--max-iterations", 6, "--out", tmp_path / "out")
    first = stantune("search", *small, "--json", "-")
    assert first.json["counts"]["trials"] == 1

    refused = stantune("search", *small, "--seed", 1, "--fresh")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "--yes" in refused.err
    kept = stantune("search", *small, "--seed", 1, "--fresh", stdin="n\n")
    assert kept.code == 1
    assert "left as it is" in kept.err
    assert stantune("search", *small, "--json", "-").json == first.json

    asked = stantune("search", *small, "--seed", 1, "--fresh", "--json", "-", stdin="y\n")
    assert (asked.code, asked.json["seed"]) == (0, 1)
    assert f"Delete the search in {tmp_path / 'out'}" in asked.err
    assert asked.json["best"] != first.json["best"]
    unasked = stantune("search", *small, "--fresh", "--yes", "--json", "-")
    assert unasked.json["best"] == first.json["best"]


def test_fresh_in_a_storage_elsewhere(stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path) -> None:
    small = (*tiny, "--max-iterations", 6, "--out", tmp_path / "out", "--storage", f"sqlite:///{tmp_path / 'db'}")
    assert stantune("search", *small).code == 0
    # The directory is gone, and with it the note of where its trials are; the storage still has them.
    shutil.rmtree(tmp_path / "out")
    assert stantune("search", *small, "--seed", 1).code == 2
    assert stantune("search", *small, "--seed", 1, "--fresh").code == 2
    assert stantune("search", *small, "--seed", 1, "--fresh", "--yes", "--json", "-").json["seed"] == 1


class Clock:
    """Stands in for time.monotonic: a second goes by each time that somebody looks."""

    def __init__(self) -> None:
        self._ticks = itertools.count()

    def monotonic(self) -> float:
        return float(next(self._ticks))


def test_budget(
    stantune: Stantune, tiny: tuple[str, ...], as_whole: AsWhole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "time", Clock())
    trained = []
    for _ in range(20):
        part = stantune("search", *tiny, "--out", tmp_path, "--budget", "1m40s", "--json", "-")
        assert part.code == 0
        result = SearchSummary.model_validate_json(part.out)
        trained.append(result.iterations_trained)
        if result.complete:
            break
        last = part.err.splitlines()[-1]
        assert (
            last == "stantune: the budget of 1 min 40 s is spent; nothing is lost, the same command goes on from here"
        )
        assert result.final is None
        assert "the search is not complete" in part.err
    assert len(trained) >= 4
    assert trained == sorted(trained)
    as_whole(part.json)


def test_interrupted(
    stantune: Stantune, tiny: tuple[str, ...], as_whole: AsWhole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("TINY_LOG", str(log))
    monkeypatch.setenv("TINY_INTERRUPT_AT", "97")
    interruptions = 0
    while True:
        part = stantune("search", *tiny, "--out", tmp_path / "out", "--json", "-")
        if part.code == 0:
            break
        interruptions += 1
        assert part.code == 1
        last = part.err.splitlines()[-1]
        assert last == "stantune: interrupted; nothing is lost, the same command goes on from here"
        assert "Traceback" not in part.err
        assert part.json["complete"] is False
    assert interruptions >= 4
    as_whole(part.json)
    lines = [line.split()[1:] for line in log.read_text().splitlines()]
    assert len({tuple(line) for line in lines}) == len(lines), "no iteration is trained twice"


def test_everything_diverges(stantune: Stantune, tiny_file: Path, tmp_path: Path) -> None:
    ended = stantune("search", f"{tiny_file}:hopeless", "--threads", 1, "--out", tmp_path, "--json", "-")
    result = SearchSummary.model_validate_json(ended.out)
    assert (result.complete, result.best, result.final, result.leaders) == (True, None, None, [])
    assert result.counts.diverged == result.counts.trials
    said = (
        "nothing was found, since every trial diverged, all 5 of them; narrow the space to settings that train (lower "
        "learning rates, mostly), or try one first that is known to "
    )
    assert ended.err.splitlines()[-1] == f"stantune: {said}(--enqueue)"
    assert result.notes == [f"{said}(`enqueue`)"]
    assert ended.code == 3


def test_no_effect_is_said_once(stantune: Stantune, tiny_file: Path, tmp_path: Path) -> None:
    for rate, count in (("0.5", 1), ("1", 0)):
        out = tmp_path / rate
        ended = stantune("search", f"{tiny_file}:flat", "--threads", 1, "--out", out, "--rate", rate, "--json", "-")
        assert ended.code == 0
        notes = [line for line in ended.err.splitlines() if line.startswith("note:")]
        assert len(notes) == count
        assert "Warning" not in ended.err


def test_own_directory_and_variant(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # s_max = 1 and floor(2 / 2) * 2 = 2 trials by table 1's rounding, as by Algorithm 1's.
    command = ("search", f"{tiny_file}:flat", "--threads", 1, "--json", "-")
    ended = stantune(*command, "--max-iterations", 8, "--min-iterations", 2, "--brackets", 2, "--variant", "table1")
    assert ended.code == 0
    result = SearchSummary.model_validate_json(ended.out)
    assert result.brackets == bracket_results(plan(8, 2, 3, "table1", 2))
    assert (tmp_path / "runs" / "flat" / "result.json").is_file()


def test_real_lenet(stantune: Stantune, data_dir: Path, tmp_path: Path) -> None:
    small = ("--max-iterations", 40, "--min-iterations", 20, "--eta", 2, "--brackets", 1, "--threads", 1)
    ended = stantune("search", "lenet", *small, "--out", tmp_path, "--data", data_dir, "--json", "-")
    assert ended.code == 0, ended.err
    result = SearchSummary.model_validate_json(ended.out)
    assert [rung.model_dump() for rung in result.brackets[0].rungs] == [
        {"iterations": 20, "trials": 2},
        {"iterations": 40, "trials": 1},
    ]
    assert result.best is not None
    assert list(result.best.params) == ["lr", "conv1_l2", "conv2_l2", "momentum"]
    assert result.final is not None
    assert result.final.test_error is not None
    assert result.final.test_error < 80, "forty iterations are enough to beat chance"


def test_small_images_first(stantune: Any, tiny_file: Path, tmp_path: Path) -> None:
    run = stantune("search", f"{tiny_file}:problem", "--quick", "--resize", "2", "--out", tmp_path / "out")
    assert run.code == 2
    assert "stantune: --resize '2': '2' is no share between 0 and 1; give the share of the sides, 1/2 say" in " ".join(
        run.err.split()
    )
    alone = stantune("train", f"{tiny_file}:problem", "--iterations", 6, "--resize", "a")
    assert (alone.code, "--resize 'a': 'a' is no share" in " ".join(alone.err.split())) == (2, True)
