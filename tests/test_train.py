"""Training in segments: one go and any cuts give the same bits; what diverges is noticed; evaluation is exact."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import stantune.train
import stantune.trial
from stantune.data import Dataset
from stantune.errors import CheckpointError, UsageError
from stantune.guard import CHANCE_MULTIPLE, PATIENCE
from stantune.outcome import Outcome
from stantune.problems import Problem, Splits, find
from stantune.solver import Solver
from stantune.space import Float, Space
from stantune.stan.config import Stan
from stantune.train import error_percent, run
from stantune.trial import RateFrom

pytestmark = pytest.mark.usefixtures("one_thread")


def small(problem: Problem, dataset: Dataset, images: int = 2000, held_out: int = 200) -> Splits:
    train = dataset.train.take(0, images)
    return Splits(
        train,
        dataset.train.take(images, images + held_out),
        dataset.test.take(0, held_out),
        problem.normalise.fit(train),
        dataset.classes,
    )


class Case(NamedTuple):
    """A training, the length of its batches and where it is cut."""

    name: str
    setting: Mapping[str, Any]
    batch_size: int
    stops: tuple[int, ...]
    stan: Stan | None = None
    layers: Mapping[str, str] = {}
    rates: tuple[RateFrom, ...] = ()


CASES = {
    "lenet": Case("lenet", {"lr": 0.005, "conv1_l2": 0.001}, 16, (200, 600)),
    # The cuts fall into the pre-training, behind a refresh and between two reduced iterations.
    "lenet-stan": Case("lenet", {}, 10, (10, 31, 42, 90), Stan(rate=0.25, period=3, pretrain=30, seed=7)),
    "mlp": Case("mlp", {"hidden": 150, "dropout": 0.4, "top_k": 15}, 20, (50, 51, 150)),
    "cq-stan": Case("cq", {"lr": 2e-3}, 8, (9, 20), Stan(rate=0.5, period=None, tail=5, iterations=20)),
    # Cut before, at and behind where the rate changes, and in the middle of a cycle.
    "lenet-rates": Case(
        "lenet",
        {},
        10,
        (9, 20, 33, 50),
        Stan(rate=0.25, period=3, pretrain=2, seed=7),
        rates=(RateFrom(0, 0.25), RateFrom(20, 0.5), RateFrom(33, 1.0), RateFrom(41, 0.25)),
    ),
    # What was chosen under one rate is forgotten where the next one begins.
    "lenet-rates-chosen": Case(
        "lenet",
        {},
        10,
        (14, 21, 22, 40),
        Stan(rate=0.25, period=3, tolerance=0.6, seed=7),
        rates=(RateFrom(0, 0.25), RateFrom(14, 0.5), RateFrom(21, 0.25)),
    ),
    "alexlrn": Case("alexlrn", {"lrn_scale": 0.01, "lrn_power": 2.0}, 8, (5, 12)),
    "alexbn": Case("alexbn", {"momentum": 0.7}, 8, (7, 20)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def trainer(case: Case, mnist: Dataset, cifar10: Dataset) -> Any:
    """Return run() with all but the checkpoint and the iterations filled in."""
    problem = replace(find(case.name), batch_size=case.batch_size)
    splits = small(problem, mnist if problem.data == "mnist" else cifar10)

    def train(checkpoint: Path | None, start: int, stop: int, **more: Any) -> Outcome:
        return run(
            problem,
            case.setting,
            checkpoint,
            start,
            stop,
            splits=splits,
            **{"seed": 3, "stan": case.stan, "rates": case.rates, **more},
        )

    return train


def what_counts(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state less the times, which are never equal."""
    state: dict[str, Any] = torch.load(path, weights_only=True)["state"]
    return {key: value for key, value in state.items() if key not in ("cost", "start")}


def equal(one: Any, other: Any) -> bool:
    """Tell whether two states are equal bit for bit, kinds of numbers and order of keys included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


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


def test_one_go_and_segments_give_the_same_bits(case: Case, mnist: Dataset, cifar10: Dataset, tmp_path: Path) -> None:
    train = trainer(case, mnist, cifar10)
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


def test_every_ingredient_changes_the_bits(mnist: Dataset, cifar10: Dataset, tmp_path: Path) -> None:
    # Were one of them without effect, the test above would not see whether it goes through a checkpoint.
    case = CASES["mlp"]._replace(stops=(6,))
    found = []
    for number, (changed, more) in enumerate(
        (
            (case, {}),
            (case, {"seed": 4}),
            (case._replace(setting={**case.setting, "dropout": 0.0}), {}),
            (case._replace(setting={**case.setting, "top_k": 0}), {}),
            (CASES["lenet-stan"], {}),
            (CASES["lenet-stan"], {"stan": Stan(rate=0.25, period=3, pretrain=1, seed=7)}),
            (CASES["lenet-stan"], {"stan": Stan(rate=0.25, period=3, pretrain=1, seed=8)}),
            (CASES["lenet-stan"], {"stan": Stan(rate=0.25, period=4, pretrain=1, seed=7)}),
        )
    ):
        path = tmp_path / f"{number}.pt"
        trainer(changed, mnist, cifar10)(path, 0, 6, **more)
        found.append(what_counts(path)["model"])
    for place, one in enumerate(found):
        assert not any(equal(one, other) for other in found[:place])


# The cheap training of the tests below: a perceptron with dropout, 30 iterations of 10 images.
QUICK = Case("mlp", {"hidden": 100, "dropout": 0.5, "top_k": 10}, 10, (30,))
ALL = 30


@pytest.fixture
def quick(mnist: Dataset, cifar10: Dataset) -> Any:
    return trainer(QUICK, mnist, cifar10)


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
    monkeypatch.setattr(stantune.train, "SAVE_SECONDS", 0.0)
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


def test_the_cost_of_a_segment_is_that_of_all_its_parts(mnist: Dataset, cifar10: Dataset, tmp_path: Path) -> None:
    train = trainer(CASES["lenet-stan"], mnist, cifar10)
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


def test_the_learning_rate_follows_its_policy_through_a_cut(mnist: Dataset, cifar10: Dataset, tmp_path: Path) -> None:
    train = trainer(Case("lenet", {"lr": 0.02}, 2, ()), mnist, cifar10)
    for start, stop in ((0, 3), (3, 8)):
        train(tmp_path / "t.pt", start, stop)
        # The last step was that of iteration stop - 1; weights have the multiplier 1, biases 2.
        rates = {group["lr"] for group in what_counts(tmp_path / "t.pt")["optimizer"]["param_groups"]}
        expected = 0.02 * (1 + 1e-4 * (stop - 1)) ** -0.75
        assert sorted(rates) == pytest.approx([expected, 2 * expected], rel=1e-12)


def test_whole_numbers_for_real_parameters_make_the_same_trial(quick: Any, tmp_path: Path, mnist: Dataset) -> None:
    problem = replace(find("lenet"), batch_size=4)
    splits, path = small(problem, mnist), tmp_path / "t.pt"
    run(problem, {"lr": 1, "momentum": 0.5}, path, 0, 1, splits=splits)
    run(problem, {"momentum": 0.5, "lr": 1.0}, path, 1, 2, splits=splits)


def blurred(images: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    CALLS.append(ids)
    return images + torch.rand(images.shape, generator=generator)


CALLS: list[Tensor] = []


def test_augmentation_takes_part_and_is_repeated_after_a_cut(mnist: Dataset, tmp_path: Path) -> None:
    plain = replace(find("mlp"), batch_size=10)
    problem = replace(plain, augment=blurred)
    splits = small(problem, mnist)
    CALLS.clear()
    whole = run(problem, {}, tmp_path / "whole.pt", 0, 12, splits=splits, evaluate=("validation", "test"))
    assert len(CALLS) == 12  # evaluation is not augmented
    assert torch.cat(CALLS).max() < 2000  # and only training images are
    run(problem, {}, tmp_path / "parts.pt", 0, 5, splits=splits)
    assert run(problem, {}, tmp_path / "parts.pt", 5, 12, splits=splits, evaluate=("validation", "test")) == whole
    assert equal(what_counts(tmp_path / "whole.pt"), what_counts(tmp_path / "parts.pt"))
    run(plain, {}, tmp_path / "plain.pt", 0, 12, splits=splits)
    assert not equal(what_counts(tmp_path / "whole.pt")["model"], what_counts(tmp_path / "plain.pt")["model"])


@pytest.mark.parametrize("name", ["lenet-stan", "cq-stan"])
def test_evaluation_is_exact_under_stan(name: str, mnist: Dataset, cifar10: Dataset, tmp_path: Path) -> None:
    case = CASES[name]
    problem = find(case.name)
    splits = small(problem, mnist if problem.data == "mnist" else cifar10)
    # It ends where the next iteration is a reduced one, in which every training pass would be inexact.
    stop = 33 if case.stan is CASES["lenet-stan"].stan else 9
    outcome = trainer(case, mnist, cifar10)(tmp_path / "t.pt", 0, stop, evaluate=("validation", "test"))
    model = problem.build(case.setting).eval()
    model.load_state_dict(what_counts(tmp_path / "t.pt")["model"])
    for split, error in ((splits.validation, outcome.errors["validation"]), (splits.test, outcome.errors["test"])):
        pixels = split.images.permute(0, 3, 1, 2).double()
        mean = splits.normaliser.mean
        images = (pixels if mean is None else pixels - mean.permute(2, 0, 1)) * splits.normaliser.scale
        with torch.no_grad():
            guesses = model.double()(images).argmax(1)
        # In double precision, so that a near tie may fall otherwise: one of 200 images is half a percent.
        assert error == pytest.approx(100 * (guesses != split.labels).double().mean().item(), abs=0.51)
        assert 0 < error < 100


def test_evaluation_leaves_the_model_as_it_was(mnist: Dataset) -> None:
    problem = find("mlp")
    model = problem.build({"dropout": 0.5}).train()
    splits = small(problem, mnist)
    state = torch.get_rng_state()
    error = error_percent(model, splits, splits.test)
    assert model.training
    assert model.dropout1.training
    assert error == error_percent(model, splits, splits.test)
    assert torch.equal(torch.get_rng_state(), state)
    assert error_percent(model.eval(), splits, splits.test) == error
    assert not model.training


def test_scores_that_are_no_numbers_are_wrong(mnist: Dataset) -> None:
    problem = find("mlp")
    splits = small(problem, mnist)
    model = problem.build({})
    with torch.no_grad():
        for value, error in ((math.nan, 100.0), (math.inf, 100.0)):
            model.fc2.bias.fill_(value)
            assert error_percent(model, splits, splits.test) == error
        # One bad score of ten is enough, though another one be the largest.
        model.fc2.bias.fill_(0)
        model.fc2.bias[3] = -math.inf
        assert error_percent(model, splits, splits.test) == 100.0


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("lenet", {"lr": 5, "momentum": 0.99}),
        ("lenet", {"lr": 0.7, "momentum": 0.99}),
        ("lenet", {"lr": 5.0, "momentum": 0.001, "conv1_l2": 5}),
        ("cq", {"lr": 0.5}),
        ("alexbn", {"lr": 1, "momentum": 5}),
        ("alexlrn", {"lr": 5}),
    ],
)
def test_what_diverges_is_noticed_within_twenty_iterations(
    name: str, setting: dict[str, float], mnist: Dataset, cifar10: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = replace(find(name), batch_size=10)
    splits = small(problem, mnist if problem.data == "mnist" else cifar10)
    losses = recorded(monkeypatch)
    outcome = run(problem, setting, None, 0, 150, splits=splits)
    # A loss is bad that is no number, or above ten times that of a network which knows nothing of ten classes.
    bad = [not loss <= 10 * math.log(10) for loss in losses]
    fact = next(
        (i for i in range(len(bad)) if not math.isfinite(losses[i]) or all(bad[i : i + 20])),
        None,
    )
    assert fact is not None, "this setting does not diverge"
    assert outcome.diverged_at is not None
    assert fact <= outcome.diverged_at < fact + 20
    assert outcome == Outcome(outcome.diverged_at, {}, outcome.diverged_at, False, outcome.cost)
    assert len(losses) == outcome.diverged_at + 1  # it cost nothing more


REAL_LOSS = nn.functional.cross_entropy


def recorded(monkeypatch: pytest.MonkeyPatch, script: list[float] | None = None) -> list[float]:
    """Return a list that will hold every training loss, each of them replaced by the script's if there is one."""
    losses: list[float] = []

    def loss_of(scores: Tensor, labels: Tensor) -> Tensor:
        loss = REAL_LOSS(scores, labels)
        if script is not None:
            loss = 0 * loss + script[len(losses)]
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(stantune.trial.F, "cross_entropy", loss_of)
    return losses


HIGH = 1.01 * CHANCE_MULTIPLE * math.log(10)


@pytest.mark.parametrize("cuts", [(), (7,), (15,), (7, 20, 29)])
def test_the_patience_of_the_guard_goes_through_a_checkpoint(
    quick: Any, cuts: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [2.0] * 10 + [HIGH] * 30
    losses = recorded(monkeypatch, script)
    start = 0
    for stop in cuts:
        assert quick(tmp_path / "t.pt", start, stop).diverged_at is None
        start = stop
    assert quick(tmp_path / "t.pt", start, 40).diverged_at == 10 + PATIENCE - 1
    assert len(losses) == 10 + PATIENCE


def test_a_spike_is_no_divergence(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, [HIGH] * (PATIENCE - 1) + [2.0] + [HIGH] * 10)
    assert quick(None, 0, ALL).diverged_at is None


def test_a_diverged_segment_diverges_again_from_its_checkpoint(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.pt"
    recorded(monkeypatch, [2.0] * 15 + [math.nan])
    quick(path, 0, 10)
    before = path.read_bytes()
    outcome = quick(path, 10, ALL)
    assert outcome.diverged_at == 15
    assert outcome.cost.exact == 5
    assert path.read_bytes() == before  # a state with spoilt weights is not kept
    recorded(monkeypatch, [2.0] * 5 + [math.nan])
    assert quick(path, 10, ALL) == outcome


def test_no_iterations_at_all_evaluate_a_new_network(quick: Any, tmp_path: Path) -> None:
    outcome = quick(tmp_path / "t.pt", 0, 0, evaluate=("test", "validation"))
    assert outcome.iterations == 0
    assert set(outcome.errors) == {"test", "validation"}
    assert not (tmp_path / "t.pt").exists()


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (2, 3)])
def test_a_range_that_makes_no_sense_is_refused(quick: Any, start: int, stop: int) -> None:
    with pytest.raises(UsageError, match=f"cannot train from iteration {start} to {stop}"):
        quick(None, start, stop)


def test_a_checkpoint_beyond_the_end_is_refused(quick: Any, tmp_path: Path) -> None:
    quick(tmp_path / "t.pt", 0, 5)
    with pytest.raises(UsageError, match=r"t\.pt is at iteration 5, beyond 4"):
        quick(tmp_path / "t.pt", 0, 4)


def test_bad_use_is_refused_before_anything_is_trained(mnist: Dataset) -> None:
    problem = find("lenet")
    splits = small(problem, mnist)
    nothing = replace(splits, validation=splits.validation.take(0, 0))

    def never(iteration: int) -> None:
        raise AssertionError

    for setting, there, evaluate, message in (
        ({"lr": 6}, splits, (), "lr is 6, outside its range.*nearest valid value is 5"),
        ({"moment": 0.5}, splits, (), "no parameter 'moment'.*nearest is momentum"),
        ({}, nothing, ("validation",), "nothing to evaluate in 'validation'"),
        ({}, splits, ("test", "tests"), "nothing to evaluate in 'tests'"),
        ({}, splits, ("train",), "nothing to evaluate in 'train'"),
    ):
        with pytest.raises(UsageError, match=message):
            run(problem, setting, None, 0, 1, splits=there, evaluate=evaluate, watch=never)
    for stan, starts in ((None, (0, 5)), (Stan(rate="auto"), (0, 5)), (Stan(), (1, 5)), (Stan(), (0, 5, 5))):
        rates = [RateFrom(start, 0.5) for start in starts]
        with pytest.raises(UsageError, match=f"iterations {', '.join(map(str, starts))} on make no sense"):
            run(problem, {}, None, 0, 1, splits=splits, stan=stan, rates=rates, watch=never)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"stan": Stan()},
        {"setting": {"lr": 0.02}},
        {"batch_size": 5},
        {"images": 1999},
        {"problem": "another"},
    ],
)
def test_another_trials_checkpoint_is_refused(change: dict[str, Any], mnist: Dataset, tmp_path: Path) -> None:
    def train(start: int, stop: int, **given: Any) -> Outcome:
        lenet = replace(find("lenet"), name=given.get("problem", "lenet"), batch_size=given.get("batch_size", 4))
        splits = small(lenet, mnist, given.get("images", 2000))
        more = {"seed": given.get("seed", 3), "stan": given.get("stan")}
        return run(lenet, given.get("setting", {}), tmp_path / "t.pt", start, stop, splits=splits, **more)

    train(0, 1)
    with pytest.raises(CheckpointError, match=r"t\.pt is another trial's"):
        train(1, 2, **change)
    assert train(1, 2).iterations == 2


@pytest.mark.filterwarnings("ignore::stantune.errors.NoEffectWarning")
def test_other_rates_are_another_trials_checkpoint(quick: Any, tmp_path: Path) -> None:
    checkpoint, rates = tmp_path / "t.pt", (RateFrom(0, 0.5), RateFrom(9, 1.0))
    quick(checkpoint, 0, 1, stan=Stan(), rates=rates)
    for others in ((), (RateFrom(0, 0.5), RateFrom(8, 1.0)), (RateFrom(0, 0.5), RateFrom(9, 0.25))):
        with pytest.raises(CheckpointError, match=r"t\.pt is another trial's"):
            quick(checkpoint, 1, 2, stan=Stan(), rates=others)
    assert quick(checkpoint, 1, 2, stan=Stan(), rates=rates).iterations == 2


def perceptron(hidden: int = 5) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def deeper() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_a_checkpoint_of_a_network_that_was_changed_since_is_refused(mnist: Dataset, tmp_path: Path) -> None:
    problem = Problem(
        name="mine",
        network=perceptron,
        data="mnist",
        space=Space({"lr": Float(0, 1)}),
        solver=Solver(lr=0.1, momentum=0.5),
        iterations=10,
        batch_size=4,
    )
    splits = small(problem, mnist)
    run(problem, {}, tmp_path / "t.pt", 0, 1, splits=splits)
    for changed in (
        replace(problem, network=deeper),
        replace(problem, network=lambda: perceptron(6)),
        replace(problem, solver=Solver(kind="adam", lr=0.1)),
    ):
        with pytest.raises(CheckpointError, match=r"t\.pt does not fit the network or the optimizer"):
            run(changed, {}, tmp_path / "t.pt", 1, 2, splits=splits)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_segments_on_a_gpu_give_the_same_bits(quick: Any, tmp_path: Path) -> None:
    before = torch.cuda.get_rng_state()
    whole = quick(tmp_path / "whole.pt", 0, ALL, device="cuda")
    quick(tmp_path / "parts.pt", 0, 12, device="cuda")
    assert quick(tmp_path / "parts.pt", 12, ALL, device="cuda:0") == whole
    assert equal(what_counts(tmp_path / "whole.pt"), what_counts(tmp_path / "parts.pt"))
    assert torch.equal(torch.cuda.get_rng_state(), before)
