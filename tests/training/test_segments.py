"""Training in segments: one go and any cuts give the same bits; what diverges is noticed; evaluation is exact."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from states import equal, what_counts
from torch import Tensor

import stantune.training.train
import stantune.training.trial
from stantune.images.problem.built_in import Splits, find
from stantune.images.solving.optimizers import KINDS, takes
from stantune.images.solving.solver import Solver
from stantune.outcome import Outcome
from stantune.space import Space
from stantune.stan.config import Memo, Stan
from stantune.training.train import run
from stantune.training.trial import Trial


def test_states_of_different_bits_are_told_apart() -> None:
    # The comparison that the tests below stand on.
    state = {"model": {"w": torch.zeros(3)}, "group": [{"lr": 0.1}], "n": 1}
    assert equal(state, {"model": {"w": torch.zeros(3)}, "group": [{"lr": 0.1}], "n": 1})
    for other in (
        {"model": {"w": torch.tensor([0.0, 0.0, 1e-45])}, "group": [{"lr": 0.1}], "n": 1},
        {"model": {"w": torch.zeros(3)}, "group": [{"lr": 0.1 + 1e-17 + 2e-17}], "n": 1.0},
        {"model": {"w": torch.zeros(3)}, "group": [], "n": 1},
        {"model": {}, "group": [{"lr": 0.1}], "n": 1},
    ):
        assert not equal(state, other)


@pytest.mark.sampled(3)
def test_one_go_and_segments_give_the_same_bits(case: Any, tmp_path: Path, trainer: Any) -> None:
    train = trainer(case)
    last = case.stops[-1]
    whole = train(tmp_path / "whole.pt", 0, last)
    start = 0
    for stop in case.stops:
        outcome = train(tmp_path / "parts.pt", start, stop)
        assert outcome.iterations == stop
        assert outcome.cost.exact + outcome.cost.reduced == stop - start
        start = stop
    assert outcome == whole
    state = what_counts(tmp_path / "whole.pt")
    assert equal(what_counts(tmp_path / "parts.pt"), state)
    # Of what is compared nothing is missing.
    names = {name for name, _ in find(case.name).build(case.setting).named_parameters()}
    assert names <= set(state["model"])
    assert len(state["optimizer"]["state"]) == len(names)
    for buffers in state["optimizer"]["state"].values():
        assert {"momentum_buffer"} <= set(buffers) or {"exp_avg", "exp_avg_sq", "step"} <= set(buffers)
    if case.name == "alexbn":
        assert state["model"]["norm3.num_batches_tracked"] == last
        assert state["model"]["norm3.running_var"].min() > 0


def test_every_ingredient_changes_the_bits(tmp_path: Path, trainer: Any, cases: Mapping[str, Any]) -> None:
    # Were one of them without effect, the test above would not see whether it goes through a checkpoint.
    case = cases["mlp"]._replace(stops=(6,))
    found = []
    for number, (changed, more) in enumerate(
        (
            (case, {}),
            (case, {"seed": 4}),
            (case._replace(setting={**case.setting, "dropout": 0.0}), {}),
            (case._replace(setting={**case.setting, "top_k": 0}), {}),
            (cases["lenet-stan"], {}),
            (cases["lenet-stan"], {"stan": Stan(rate=0.25, period=3, pretrain=1, seed=7)}),
            (cases["lenet-stan"], {"stan": Stan(rate=0.25, period=3, pretrain=1, seed=8)}),
            (cases["lenet-stan"], {"stan": Stan(rate=0.25, period=4, pretrain=1, seed=7)}),
        )
    ):
        path = tmp_path / f"{number}.pt"
        trainer(changed)(path, 0, 6, **more)
        found.append(what_counts(path)["model"])
    for place, one in enumerate(found):
        assert not any(equal(one, other) for other in found[:place])


ALL = 30


@pytest.fixture
def reference(quick: Any, tmp_path: Path) -> tuple[Outcome, dict[str, Any]]:
    path = tmp_path / "reference.pt"
    return quick(path, 0, ALL), what_counts(path)


def test_a_segment_that_is_run_again_ends_the_same(quick: Any, reference: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    quick(path, 0, 12)
    before = path.read_bytes()
    for _ in range(2):
        path.write_bytes(before)
        assert quick(path, 12, ALL) == reference[0]
        assert equal(what_counts(path), reference[1])


def test_a_run_that_is_at_its_end_trains_nothing_more(quick: Any, reference: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    quick(path, 0, ALL)
    before, seen = (path.read_bytes(), path.stat().st_mtime_ns), []
    for start in (0, 12, ALL):
        again = quick(path, start, ALL, watch=seen.append)
        assert again == reference[0]
        assert again.cost.evaluation_seconds > 0
    assert not seen
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_missing_checkpoint_begins_anew_with_the_same_result(quick: Any, reference: Any, tmp_path: Path) -> None:
    seen: list[int] = []
    path = tmp_path / "gone" / "t.pt"
    assert quick(path, 12, ALL, watch=seen.append) == reference[0]
    assert seen == list(range(1, ALL + 1))
    assert equal(what_counts(path), reference[1])


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, ALL - 1), min_size=1, max_size=4, unique=True).map(sorted))
def test_an_interrupted_run_goes_on_to_the_same_end(quick: Any, reference: Any, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "t.pt"
        at = [0]
        for cut in cuts:
            outcome = quick(path, 0, ALL, watch=lambda i: at.__setitem__(0, i), stop_early=lambda cut=cut: at[0] >= cut)
            assert outcome == Outcome(cut, {}, None, True, outcome.cost)
            assert what_counts(path)["iteration"] == cut
            assert outcome.cost.exact == cut
        outcome = quick(path, 0, ALL)
        assert outcome == reference[0]
        assert outcome.cost.exact == ALL
        assert equal(what_counts(path), reference[1])


def test_a_run_that_is_to_stop_where_it_ends_anyway_is_not_interrupted(quick: Any, reference: Any) -> None:
    at: list[int] = []
    assert quick(None, 0, ALL, watch=at.append, stop_early=lambda: len(at) == ALL) == reference[0]


class KilledError(Exception):
    """Stands for the end of the process."""


def test_a_killed_run_loses_what_came_after_the_last_saving(
    quick: Any, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "t.pt", []

    def die(iteration: int) -> None:
        seen.append(iteration)
        if iteration == 17:
            raise KilledError

    with pytest.raises(KilledError):
        quick(path, 0, ALL, watch=die)
    assert not path.exists()  # the usual pause between two savings is longer than this run
    monkeypatch.setattr(stantune.training.train, "SAVE_SECONDS", 0.0)
    with pytest.raises(KilledError):
        quick(path, 0, ALL, watch=die)
    assert what_counts(path)["iteration"] == 17
    assert torch.load(path, weights_only=True)["state"]["cost"]["exact"] == 17
    seen.clear()
    outcome = quick(path, 0, ALL, watch=seen.append)
    assert seen == list(range(18, ALL + 1))
    assert outcome == reference[0]
    assert outcome.cost.exact == ALL
    assert equal(what_counts(path), reference[1])


def test_the_cost_of_a_segment_is_that_of_all_its_parts(tmp_path: Path, trainer: Any, cases: Mapping[str, Any]) -> None:
    train = trainer(cases["lenet-stan"])
    path, at = tmp_path / "t.pt", [0]
    cut = train(path, 0, 37, watch=lambda i: at.__setitem__(0, i), stop_early=lambda: at[0] == 33)
    # 30 of pre-training, a refresh at 30, reduced ones at 31, 32, 33, a refresh at 34, reduced ones at 35, 36.
    assert (cut.cost.exact, cut.cost.reduced) == (31, 2)
    whole = train(path, 0, 37)
    assert (whole.cost.exact, whole.cost.reduced) == (32, 5)
    assert whole.cost.exact_seconds > cut.cost.exact_seconds > 0
    assert whole.cost.reduced_seconds > cut.cost.reduced_seconds > 0
    following = train(path, 37, 39)
    # Reduced at 37, a refresh at 38; what led to 37 is not counted again.
    assert (following.cost.exact, following.cost.reduced) == (1, 1)
    assert following.cost.exact_seconds < cut.cost.exact_seconds


def test_the_random_state_of_the_caller_is_left_alone_and_plays_no_part(
    quick: Any, reference: Any, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert quick(tmp_path / "t.pt", 0, ALL) == reference[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(what_counts(tmp_path / "t.pt"), reference[1])


def test_the_learning_rate_follows_its_policy_through_a_cut(
    tmp_path: Path, trainer: Any, cases: Mapping[str, Any]
) -> None:
    train = trainer(cases["lenet"]._replace(setting={"lr": 0.02}, batch_size=2))
    for start, stop in ((0, 3), (3, 8)):
        train(tmp_path / "t.pt", start, stop)
        # The last step was that of iteration stop - 1; weights have the multiplier 1, biases 2.
        rates = {group["lr"] for group in what_counts(tmp_path / "t.pt")["optimizer"]["param_groups"]}
        expected = 0.02 * (1 + 1e-4 * (stop - 1)) ** -0.75
        assert sorted(rates) == pytest.approx([expected, 2 * expected], rel=1e-12)


def test_whole_numbers_for_real_parameters_make_the_same_trial(
    quick: Any, tmp_path: Path, small: Callable[..., Splits]
) -> None:
    problem = replace(find("lenet"), batch_size=4)
    splits, path = small(problem), tmp_path / "t.pt"
    run(problem, {"lr": 1, "momentum": 0.5}, path, 0, 1, splits=splits)
    run(problem, {"momentum": 0.5, "lr": 1.0}, path, 1, 2, splits=splits)


def blurred(images: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    CALLS.append(ids)
    return images + torch.rand(images.shape, generator=generator)


CALLS: list[Tensor] = []


def test_augmentation_takes_part_and_is_repeated_after_a_cut(tmp_path: Path, small: Callable[..., Splits]) -> None:
    plain = replace(find("mlp"), batch_size=10)
    problem = replace(plain, augment=blurred)
    splits = small(problem)
    CALLS.clear()
    whole = run(problem, {}, tmp_path / "whole.pt", 0, 12, splits=splits, evaluate=("validation", "test"))
    assert len(CALLS) == 12  # evaluation is not augmented
    assert torch.cat(CALLS).max() < 2000  # and only training images are
    run(problem, {}, tmp_path / "parts.pt", 0, 5, splits=splits)
    assert run(problem, {}, tmp_path / "parts.pt", 5, 12, splits=splits, evaluate=("validation", "test")) == whole
    assert equal(what_counts(tmp_path / "whole.pt"), what_counts(tmp_path / "parts.pt"))
    run(plain, {}, tmp_path / "plain.pt", 0, 12, splits=splits)
    assert not equal(what_counts(tmp_path / "whole.pt")["model"], what_counts(tmp_path / "plain.pt")["model"])


def test_no_iterations_at_all_evaluate_a_new_network(quick: Any, tmp_path: Path) -> None:
    outcome = quick(tmp_path / "t.pt", 0, 0, evaluate=("test", "validation"))
    assert outcome.iterations == 0
    assert set(outcome.metrics) == {"test error", "validation error"}
    assert not (tmp_path / "t.pt").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_segments_on_a_gpu_give_the_same_bits(quick: Any, tmp_path: Path) -> None:
    before = torch.cuda.get_rng_state()
    whole = quick(tmp_path / "whole.pt", 0, ALL, device="cuda")
    quick(tmp_path / "parts.pt", 0, 12, device="cuda")
    assert quick(tmp_path / "parts.pt", 12, ALL, device="cuda:0") == whole
    assert equal(what_counts(tmp_path / "whole.pt"), what_counts(tmp_path / "parts.pt"))
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_what_a_gpu_trained_exactly_goes_on_where_every_entry_is_computed(small: Callable[..., Splits]) -> None:
    """A GPU makes exact steps by itself, and keeps nothing of STAN's where that spares nothing."""
    problem = replace(find("cq"), batch_size=10)
    splits, nothing = small(problem), Stan(rate=1)
    assert nothing.spares_nothing
    first = stantune.training.trial.Trial(problem, {}, splits, seed=1, stan=None)
    first.train(3, lambda: False, lambda iteration: None)
    other = stantune.training.trial.Trial(problem, {}, splits, seed=1, stan=nothing)
    other.restore(first.state())
    assert other.handle is not None
    assert other.handle.iteration == 3
    other.train(5, lambda: False, lambda iteration: None)
    assert other.handle.iteration == other.iteration == 5


@pytest.mark.parametrize(
    "stan", [Stan(), Stan(rate=1, memo=Memo(samples=8, epoch=2)), Stan(rate=((0, 0.5), (9, 1.0))), Stan(rate="auto")]
)
def test_what_spares_anything_is_told(stan: Stan) -> None:
    assert not stan.spares_nothing


@pytest.mark.parametrize("kind", [kind for kind in KINDS if takes(kind, "capturable")])
def test_a_training_goes_on_on_another_kind_of_device(kind: str, small: Callable[..., Splits]) -> None:
    """On a GPU the optimizers' steps can be part of a graph, which a CPU refuses; and the other way round."""
    problem = replace(find("lenet"), solver=Solver(kind=kind, lr=0.001), space=Space({}), batch_size=10)
    splits = small(problem, 40, 10)

    def made() -> Trial:
        return Trial(problem, {}, splits, seed=2, stan=None)

    def weights(trial: Trial, stop: int) -> Tensor:
        trial.train(stop, lambda: False, lambda iteration: None)
        return torch.cat([each.detach().flatten() for each in trial.model.parameters()])

    first, gone_on, on_gpu = made(), made(), made()
    weights(first, 2)
    state = copy.deepcopy(first.state())
    for group in state["optimizer"]["param_groups"]:
        group["capturable"] = True
    gone_on.restore(state)
    assert torch.equal(weights(gone_on, 4), weights(first, 4))
    for group in on_gpu.optimizer.param_groups:
        group["capturable"] = True
    on_gpu.restore(first.state())
    assert all(group["capturable"] for group in on_gpu.optimizer.param_groups)
