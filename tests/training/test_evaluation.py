"""Evaluation is exact, and leaves the model as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from stantune.images.problem.built_in import Splits, find
from stantune.images.solving.evaluation import error_percent


@pytest.mark.parametrize("name", ["lenet-stan", "cq-stan"])
def test_evaluation_is_exact_under_stan(
    name: str, tmp_path: Path, small: Callable[..., Splits], trainer: Any, cases: Mapping[str, Any]
) -> None:
    case = cases[name]
    problem = find(case.name)
    splits = small(problem)
    # It ends where the next iteration is a reduced one, in which every training pass would be inexact.
    stop = 33 if case.stan is cases["lenet-stan"].stan else 9
    outcome = trainer(case)(tmp_path / "t.pt", 0, stop, evaluate=("validation", "test"))
    model = problem.build(case.setting).eval()
    model.load_state_dict(torch.load(tmp_path / "t.pt", weights_only=True)["state"]["model"])
    errors = outcome.metrics["validation error"], outcome.metrics["test error"]
    for split, error in zip((splits.validation, splits.test), errors, strict=True):
        pixels = split.images.permute(0, 3, 1, 2).double()
        mean = splits.normaliser.mean
        images = (pixels if mean is None else pixels - mean.permute(2, 0, 1)) * splits.normaliser.scale
        with torch.no_grad():
            guesses = model.double()(images).argmax(1)
        # In double precision, so that a near tie may fall otherwise: one of 200 images is half a percent.
        assert error == pytest.approx(100 * (guesses != split.labels).double().mean().item(), abs=0.51)
        assert 0 < error < 100


def test_evaluation_leaves_the_model_as_it_was(small: Callable[..., Splits]) -> None:
    problem = find("mlp")
    model = problem.build({"dropout": 0.5}).train()
    splits = small(problem)
    state = torch.get_rng_state()
    error = error_percent(model, splits.test, splits.normaliser)
    assert model.training
    assert model.dropout1.training
    assert error == error_percent(model, splits.test, splits.normaliser)
    assert torch.equal(torch.get_rng_state(), state)
    assert error_percent(model.eval(), splits.test, splits.normaliser) == error
    assert not model.training


def test_scores_that_are_no_numbers_are_wrong(small: Callable[..., Splits]) -> None:
    problem = find("mlp")
    splits = small(problem)
    model = problem.build({})
    with torch.no_grad():
        for value, error in ((math.nan, 100.0), (math.inf, 100.0)):
            model.fc2.bias.fill_(value)
            assert error_percent(model, splits.test, splits.normaliser) == error
        # One bad score of ten is enough, though another one be the largest.
        model.fc2.bias.fill_(0)
        model.fc2.bias[3] = -math.inf
        assert error_percent(model, splits.test, splits.normaliser) == 100.0
