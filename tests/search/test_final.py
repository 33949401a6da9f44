"""What the final training is: from scratch, the best trial's own as it is, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stantune as st
from stantune.errors import UsageError
from stantune.images.data import Dataset, Split
from stantune.search.table.look import look
from stantune.stan.config import Stan

SIZES: dict[str, Any] = {"max_resource": 9, "min_resource": 3, "threads": 1}


def blobs(root: Path | None) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (300,), generator=generator)
    inputs = torch.randn(300, 4, generator=generator)
    inputs[torch.arange(300), targets] += 1
    return Dataset("blobs", Split(inputs, targets), Split(inputs[:50], targets[:50]), 3)


PROBLEM = st.Problem(
    name="blobs",
    network=lambda: nn.Linear(4, 3),
    data=blobs,
    space=st.Space({"lr": st.Float(1e-3, 1, log=True)}),
    solver=st.Solver(lr=0.1),
    iterations=9,
    batch_size=20,
)


def trains(run: st.Run) -> dict[str, float]:
    total = [0.0]
    run.keep(total=total)
    for _ in run.steps():
        total[0] += run.params["x"]
    return {"value": total[0]} | ({"test": -total[0]} if run.final else {})


SPACE = st.Space({"x": st.Float(0, 1)})


def model_in(path: Path) -> Any:
    return torch.load(path, weights_only=True)["state"]


@pytest.mark.parametrize("stopped", [False, True])
def test_the_best_trial_s_own_weights_are_taken(tmp_path: Path, stopped: bool) -> None:
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            st.tune(PROBLEM, out=tmp_path, final="continue", finalists=2, say=interrupted, **SIZES)
    found = st.tune(PROBLEM, out=tmp_path, final="continue", finalists=2, **SIZES)
    assert found.complete
    assert found.best is not None
    assert found.final is not None
    ranks = [final.number for final in found.finalists]
    best = min(found.finalists, key=lambda final: (final.value, ranks.index(final.number)))
    assert (found.final.number, found.final.value) == (best.number, best.value)
    for final in found.finalists:
        trial = found.trials()[final.number]
        assert final.value == trial.value
        assert set(final.metrics) == {"validation error", "test error"}
        assert final.weights is not None
        own, kept = model_in(tmp_path / f"checkpoints/trial-{final.number:06d}.pt"), model_in(final.weights)
        assert kept["iteration"] == own["iteration"] == 9
        for name, weights in own["model"].items():
            assert torch.equal(weights, kept["model"][name])
    assert sum(final.cost.exact for final in found.state.finals.values()) == 0
    assert look(tmp_path).state == "done"


def interrupted(line: str) -> None:
    if "final training" in line:
        raise KeyboardInterrupt


def test_a_function_is_called_for_what_else_is_measured(tmp_path: Path) -> None:
    found = st.tune(trains, SPACE, minimize="value", final="continue", out=tmp_path, **SIZES)
    assert found.final is not None
    assert found.best is not None
    assert found.final.value == found.best.value
    assert found.final.metrics == {"value": found.best.value, "test": -found.best.value}


def test_none_trains_nobody_and_may_be_had_later(tmp_path: Path) -> None:
    without = st.tune(trains, SPACE, minimize="value", final="none", out=tmp_path, **SIZES)
    assert without.complete
    assert without.best is not None
    assert (without.final, without.finalists) == (None, [])
    assert not (tmp_path / "final.pt").exists()
    assert look(tmp_path).state == "done"
    later = st.tune(trains, SPACE, minimize="value", out=tmp_path, **SIZES)
    assert later.final is not None
    assert later.final.number == without.best.number


def test_what_cannot_be(tmp_path: Path) -> None:
    def tuned(what: object = PROBLEM, **others: Any) -> None:
        st.tune(what, out=tmp_path / "refused", **{**SIZES, **others})

    with pytest.raises(UsageError, match=r"`final`=anew is unknown; give scratch, continue or none"):
        tuned(final="anew")
    with pytest.raises(UsageError, match=r"`finalists`=2 asks for final trainings, and `final`=none for none"):
        tuned(final="none", finalists=2)
    with pytest.raises(UsageError, match=r"is not trained exactly but at a rate of 0\.5; give rates by rung"):
        tuned(final="continue", stan=Stan(rate=0.5))
    command = st.CommandObjective(["true", "{x}"], SPACE, minimize="value")
    with pytest.raises(UsageError, match=r"what true keeps there only its own program knows; give scratch or none"):
        tuned(command, final="continue")
    assert not (tmp_path / "refused").exists()
    st.tune(trains, SPACE, minimize="value", out=tmp_path / "there", **SIZES)
    with pytest.raises(UsageError, match="final: nothing there, continue here"):
        st.tune(trains, SPACE, minimize="value", final="continue", out=tmp_path / "there", **SIZES)


def test_an_exact_top_rung_is_enough() -> None:
    from stantune.tuning import compose

    _, settings = compose(PROBLEM, **{"max_resource": 9, "min_resource": 1}, rates="auto", final="continue")
    assert settings.rates[-1] == 1
