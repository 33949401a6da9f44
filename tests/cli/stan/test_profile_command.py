"""`stantune profile`, run for real on a problem that trains in a blink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune.report.stan.profile import ProfileResult
from stantune.stan.planning.timing import LayerTimes, ModelTimes, PatternTimes

Stantune = Callable[..., Any]


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rounds are enough for a layer that takes no time."""
    monkeypatch.setattr("stantune.training.planning.SECONDS", 0.2)


def test_a_fixed_rate(stantune: Stantune, tiny_file: Path) -> None:
    options = ("--rate", 0.5, "--period", 4, "--iterations", 103, "--batch-size", 30, "--seed", 3)
    run = stantune("profile", f"{tiny_file}:problem", *options, "--threads", 1, "--json", "-")
    assert run.code == 0, run.err
    result = ProfileResult.model_validate_json(run.out)
    assert (result.problem, result.rate, result.batch_size, result.seed) == ("tiny", 0.5, 30, 3)
    assert (result.threads, result.iterations, result.period, result.tolerance) == (1, 103, 4, None)
    (layer,) = result.layers
    assert (layer.name, layer.left_alone) == ("1", None)
    assert layer.t_f is not None
    assert layer.t_b is not None
    assert 0 < layer.t_f + layer.t_b < result.step < 10
    assert {line.name: line.planned for line in layer.patterns} == {"rows": False, "columns": True, "blocks": False}
    assert all(0 < line.error < 2 for line in layer.patterns)
    # 103 iterations: refreshes 0, 5, …, 100 and 82 reduced ones; no pattern is chosen, so that t_e is not spent.
    (saved,) = (line.t_i + line.t_j for line in layer.patterns if line.planned)
    exact = result.native_step or result.step
    assert result.predicted_speedup == pytest.approx(103 * result.step / (103 * exact - 82 * saved))
    assert "tiny: 30 images an iteration, 1 thread, cpu" in run.err
    assert "plan: 1: columns (drawn" in run.err


def test_auto_and_no_exact_iterations(stantune: Stantune, tiny_file: Path) -> None:
    run = stantune("profile", f"{tiny_file}:problem", "--tolerance", 0.4, "--threads", 1, "--json", "-")
    assert run.code == 0, run.err
    result = ProfileResult.model_validate_json(run.out)
    assert (result.rate, result.tolerance, result.iterations, result.batch_size) == ("auto", 0.4, 60, 10)
    (layer,) = result.layers
    assert (layer.left_alone is None) == any(line.planned for line in layer.patterns)
    assert "plan: " in run.err
    run = stantune("profile", f"{tiny_file}:problem", "--rate", 0.25, "--period", "none", "--threads", 1)
    assert run.code == 0, run.err
    assert "plan: 1: blocks (drawn anew for each iteration); no exact ones" in run.out


def test_its_plan_is_what_a_training_plans(
    stantune: Stantune, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = (PatternTimes("columns", 0.001, 0.001, 0.3),)
    times = ModelTimes((LayerTimes("1", 0.002, 0.004, 0.0005, patterns),), step_seconds=0.003, rounds=1)
    monkeypatch.setattr("stantune.training.planning.times_of", lambda *_, **__: times)
    # Its layer seems to take longer than the iteration, and whole iterations save nothing.
    monkeypatch.setattr("stantune.training.planning._cycle_seconds", lambda *_: (0.004, 0.003))
    run = stantune("profile", f"{tiny_file}:problem", "--threads", 1, "--json", "-")
    assert run.code == 0, run.err
    result = ProfileResult.model_validate_json(run.out)
    (layer,) = result.layers
    assert (layer.t_f, layer.t_b) == (pytest.approx(0.001), pytest.approx(0.002))
    assert "of all layers together, a run would be" in (layer.left_alone or "")
    assert result.predicted_speedup == 1
    assert "plan: train exactly" in run.err


def test_a_setting_that_diverges(stantune: Stantune, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stantune.training.planning.SECONDS", 60.0)  # it ends with the divergence, long before
    run = stantune("profile", f"{tiny_file}:hopeless", "--threads", 1, "--json", "-")
    assert (run.code, run.out) == (1, "")
    assert "problem 'hopeless' diverges at iteration" in run.err
    assert len(run.err.splitlines()) == 1


BAD_USE = [
    # what is typed after the command, what the sentence must hold
    (("lenett",), ("'lenett'", "did you mean lenet?")),
    (("mlp", "--data", "{directory}/none"), ("'mlp'", "has no convolution")),
    (("{file}:flat",), ("'flat'", "has no convolution")),
    (("{file}:problem", "--rate", "1"), ("'tiny'", "rate=1")),
    (("{file}:problem", "--rate", "0.3"), ("rate=0.3", "0.25")),
    (("{file}:problem", "--rate", "fast"), ("--rate fast", "auto")),
    (("{file}:problem", "--period", "3"), ("--period 3", "--rate auto chooses it")),
    (("{file}:problem", "--rate", "0.5", "--period", "often"), ("--period often", "none")),
    (("{file}:problem", "--rate", "0.5", "--period", ""), ("--period ", "none")),
    (("{file}:problem", "--tolerance", "-1"), ("tolerance=-1", "above 0")),
    (("{file}:problem", "--batch-size", "0"), ("--batch-size 0", "at least 1")),
    (("{file}:problem", "--batch-size", "241"), ("batch size 241", "240")),
    (("{file}:problem", "--iterations", "0"), ("--iterations 0", "at least 1")),
    (("{file}:problem", "--device", "tpu"), ("--device tpu",)),
    (("{file}:problem", "--json", "{directory}"), ("--json", "name another file")),
]


@pytest.mark.parametrize(("typed", "said"), BAD_USE, ids=lambda value: " ".join(value)[-40:])
def test_bad_use_is_one_sentence_before_any_work(
    stantune: Stantune,
    tiny_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: tuple[str, ...],
    said: tuple[str, ...],
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("TINY_LOG", str(log))
    run = stantune("profile", *(part.format(file=tiny_file, directory=tmp_path) for part in typed))
    assert (run.code, run.out) == (2, ""), run
    assert len(run.err.splitlines()) == 1, run.err
    assert run.err.startswith("stantune: ")
    for words in said:
        assert words in run.err
    assert not log.exists(), "nothing was trained"
