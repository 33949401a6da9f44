"""A final training's file holds what was measured, also where the function changes that after its last step."""

from __future__ import annotations

import copy
import errno
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stantune.errors import StantuneError, StanWarning
from stantune.objectives.function import keeping
from stantune.objectives.function.objective import FunctionObjective
from stantune.parameters import Float
from stantune.protocols import Metric
from stantune.space import Space
from stantune.testing import check_objective
from stantune.training import checkpoint
from stantune.tuning.tune import tune

pytestmark = pytest.mark.usefixtures("one_thread")
# What the weights are in each step; the best ones are not the last.
WEIGHTS = [3.0, 1.0, 4.0, 2.0]


def restored(model: nn.Module, best: dict[str, Any], own: torch.Generator) -> None:
    model.load_state_dict(best["weights"])


def halved(model: nn.Module, best: dict[str, Any], own: torch.Generator) -> None:
    with torch.no_grad():
        model.weight.mul_(0.5)


def by_chance(model: nn.Module, best: dict[str, Any], own: torch.Generator) -> None:
    """Do what comes to something else each time, unless all random states are what they were."""
    with torch.no_grad():
        model.weight.add_(torch.rand(()) + torch.rand((), generator=own))


def as_it_is(model: nn.Module, best: dict[str, Any], own: torch.Generator) -> None:
    torch.rand(())


def ending(how: Callable[..., None], steps: list[int] | None = None) -> Callable[..., float]:
    """Return a function that changes its model after its last step; it is worth its weight."""

    def train(run):
        model = nn.Linear(1, 1, bias=False)
        best: dict[str, Any] = {"loss": math.inf}
        own = torch.Generator()
        run.keep(model=model, best=best, own=own)
        for step in run.steps():
            if steps is not None:
                steps.append(step)
            nn.init.constant_(model.weight, WEIGHTS[step])
            if WEIGHTS[step] < best["loss"]:
                best.update(loss=WEIGHTS[step], weights=copy.deepcopy(model.state_dict()))
        how(model, best, own)
        return model.weight.item()

    return train


def state_in(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)["state"]
    return state


def weight_in(path: Path) -> float:
    found: float = state_in(path)["kept"]["model"]["weight"].item()
    return found


@pytest.mark.parametrize("how", [restored, halved, by_chance])
def test_the_file_holds_what_was_measured(trained, how):
    steps: list[int] = []
    path = trained.where / "final.pt"
    outcome = trained(ending(how, steps), 0, 4, final=True)
    assert outcome.metrics["loss"] == weight_in(path) != WEIGHTS[3]
    # Who does it again, as after a kill, begins where the first one did, and comes to the same.
    assert trained(ending(how, steps), 0, 4, final=True) == outcome
    assert weight_in(path) == outcome.metrics["loss"]
    assert steps == [0, 1, 2, 3]


@pytest.mark.parametrize("how", [restored, by_chance])
def test_a_kill_before_it_is_written_changes_nothing(trained, monkeypatch, how):
    expected = trained(ending(how), 0, 4, final=True)
    path = trained.where / "final.pt"
    weight = weight_in(path)
    path.unlink()

    def killed(keeper, held):
        raise SystemError

    with monkeypatch.context() as patch:
        patch.setattr(keeping.Keeper, "save_measured", killed)
        with pytest.raises(SystemError):
            trained(ending(how), 0, 4, final=True)
    assert weight_in(path) == WEIGHTS[3]
    assert trained(ending(how), 0, 4, final=True) == expected
    assert weight_in(path) == weight


def test_what_cannot_be_kept_after_the_last_step_costs_no_result(trained):
    def train(run):
        model, history = nn.Linear(1, 1, bias=False), {}
        run.keep(model=model, history=history)
        for step in run.steps():
            nn.init.constant_(model.weight, WEIGHTS[step])
        history["model"] = model
        return 1.0

    assert trained(train, 0, 4, final=True).metrics == {"loss": 1.0}
    assert weight_in(trained.where / "final.pt") == WEIGHTS[3]


class Means:
    """Means of weights, which a function may give up when it needs them no more."""

    def __init__(self) -> None:
        self.shadow: Any = torch.zeros(1)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": 1 * self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow = state["shadow"]


class Ending(Means):
    """Means that end the program."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() if self.shadow is not None else sys.exit("there are no means")


def without_means(model: nn.Module, means: Means) -> None:
    means.shadow = None


def elsewhere(model: nn.Module, means: Means) -> None:
    model.to("meta")


def without_memory(model: nn.Module, means: Means) -> None:
    model.weight.untyped_storage().resize_(0)


@pytest.mark.parametrize(
    ("give_up", "means", "why"),
    [
        (without_means, Means, "TypeError: unsupported operand"),
        (without_means, Ending, "SystemExit: there are no means"),
        (elsewhere, Means, "the numbers of 'model' are gone"),
        (without_memory, Means, "the numbers of 'model' are gone"),
    ],
)
def test_what_is_given_up_after_the_last_step_costs_neither_the_result_nor_the_weights(trained, give_up, means, why):
    def train(run):
        model, its = nn.Linear(1, 1, bias=False), means()
        run.keep(model=model, means=its)
        for step in run.steps():
            nn.init.constant_(model.weight, WEIGHTS[step])
        value = model.weight.item()
        give_up(model, its)
        return value

    path = trained.where / "final.pt"
    # And once more, as after a kill.
    for _ in range(2):
        with pytest.warns(StanWarning, match=rf"final.pt holds what the last step left, .*\({why}"):
            assert trained(train, 0, 4, final=True).metrics == {"loss": WEIGHTS[3]}
        assert weight_in(path) == WEIGHTS[3]
        assert "left" not in state_in(path)


def test_what_never_had_numbers_is_none_that_is_given_up(trained):
    def train(run):
        model, shape = nn.Linear(1, 1, bias=False), nn.Linear(3, 3, device="meta")
        run.keep(model=model, shape=shape)
        for step in run.steps():
            nn.init.constant_(model.weight, WEIGHTS[step])
        halved(model, {}, torch.Generator())
        return model.weight.item()

    assert trained(train, 0, 4, final=True).metrics == {"loss": WEIGHTS[3] / 2}
    assert weight_in(trained.where / "final.pt") == WEIGHTS[3] / 2


def test_a_full_disk_in_the_end_is_told_as_at_any_other_time(trained, monkeypatch):
    path, write = trained.where / "final.pt", checkpoint.write_whole

    def full(file: Path, content: bytes) -> None:
        if file.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", full)
        with pytest.raises(StantuneError, match=r"final.pt cannot be written \(No space left on device\); make room"):
            trained(ending(halved), 0, 4, final=True)
    assert weight_in(path) == WEIGHTS[3]
    assert trained(ending(halved), 0, 4, final=True).metrics == {"loss": weight_in(path)} == {"loss": WEIGHTS[3] / 2}


def test_a_longer_training_goes_on_with_what_the_steps_left(trained):
    seen = []

    def train(run):
        kept = torch.zeros(1)
        run.keep(kept=kept)
        for _ in run.steps():
            kept += 1
            seen.append(kept.item())
        kept *= 10
        return kept

    assert trained(train, 0, 2, final=True).metrics == {"loss": 20.0}
    assert state_in(trained.where / "final.pt")["kept"]["kept"].item() == 20
    assert trained(train, 0, 3, final=True).metrics == {"loss": 30.0}
    assert seen == [1, 2, 3]


def test_files_are_those_of_the_end(trained):
    seen = []

    def train(run):
        weights = run.checkpoint_dir / "weights"
        seen.append(weights.read_text() if weights.exists() else None)
        for step in run.steps():
            weights.write_text(str(step))
        weights.write_text("best")
        return 1.0

    for _ in range(2):
        trained(train, 0, 3, final=True)
        files = state_in(trained.where / "final.pt")["files"]
        assert {name: bytes(content.tolist()) for name, content in files.items()} == {"weights": b"best"}
    assert seen == [None, "2"]


def test_what_is_not_changed_is_in_the_file_once(trained):
    def train(run):
        large, small = torch.zeros(100_000), torch.zeros(1)
        run.keep(large=large, more=[large], small=small)
        for _ in run.steps():
            large += 1
        small += 1
        return small

    trained(train, 0, 2, final=True)
    path = trained.where / "final.pt"
    assert state_in(path)["kept"]["small"].item() == 1
    assert path.stat().st_size < 4 * 150_000


def test_a_file_of_what_was_measured_is_not_written_again(trained):
    trained(ending(as_it_is), 0, 4, final=True)
    path = trained.where / "final.pt"
    assert "left" not in state_in(path)
    before = path.stat().st_mtime_ns
    trained(ending(as_it_is), 0, 4, final=True)
    assert path.stat().st_mtime_ns == before


def test_another_end_than_before_is_in_the_file(trained):
    trained(ending(halved), 0, 4, final=True)
    trained(ending(as_it_is), 0, 4, final=True)
    assert weight_in(trained.where / "final.pt") == WEIGHTS[3]


def test_a_trial_goes_on_as_before(trained):
    whole = trained(ending(by_chance), 0, 4)
    assert weight_in(trained.checkpoint) == WEIGHTS[3]
    assert "left" not in state_in(trained.checkpoint)
    trained.checkpoint.unlink()
    trained(ending(by_chance), 0, 2)
    assert trained(ending(by_chance), 2, 4) == whole


def test_a_trial_that_is_the_final_training_has_what_was_measured(trained):
    measured = trained(ending(restored), 0, 4).metrics
    shutil.copy(trained.checkpoint, trained.where / "final.pt")
    # As `final="continue"` has it: the trial's own training, with nothing left of it.
    for _ in range(2):
        assert trained(ending(restored), 4, 4, final=True).metrics == measured
        assert weight_in(trained.where / "final.pt") == measured["loss"] == 1.0


def test_a_lost_training_has_nothing_to_be_measured(trained):
    assert trained(ending(lambda model, best, own: nn.init.constant_(model.weight, math.nan)), 0, 4, final=True) == (
        trained(ending(lambda model, best, own: nn.init.constant_(model.weight, math.inf)), 0, 4, final=True)
    )
    assert weight_in(trained.where / "final.pt") == WEIGHTS[3]


@pytest.mark.parametrize("final", ["scratch", "continue"])
def test_a_search_announces_what_its_weights_give(tmp_path, final):
    space = Space({"x": Float(0, 1)})
    how = {"max_resource": 4, "eta": 2, "brackets": 1, "minimize": "loss", "final": final, "out": tmp_path}
    result = tune(ending(restored), space, **how)
    assert result.final is not None
    assert result.final.weights is not None
    assert result.final.value == weight_in(result.final.weights) == 1.0
    # What the table has of the file is of the one that is there.
    again = tune(ending(restored), space, **how)
    assert again.final == result.final


def test_all_that_is_asked_of_an_objective_holds():
    objective = FunctionObjective(ending(by_chance), Space({"x": Float(0, 1)}), Metric("loss"), name="train")
    check_objective(objective, {"x": 0.5})
