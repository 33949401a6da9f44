"""What the handle does from iteration to iteration: choosing patterns, remembering samples, noticing misuse."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from stantune import Stan, accelerate_, restore_
from stantune.errors import StanWarning, UsageError
from stantune.stan.config import LayerPlan, Memo
from stantune.stan.entries.entries import PATTERNS, Grid
from stantune.stan.entries.fill import memo_of_exact, neighbour_of_exact
from stantune.stan.handle import FORGOTTEN
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.linear import StanLinear

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.Flatten(),
        nn.Linear(144, 12),
        nn.Linear(12, 10),
    )


def smooth(batch: int = 6) -> Tensor:
    """Images of which neighbouring entries differ little, (B, 3, 8, 8)."""
    return nn.functional.avg_pool2d(torch.randn(batch, 3, 14, 14), 7, 1)


class TestChoosing:
    """At a refresh each layer takes the cheapest pattern under the tolerance, measured on its exact output."""

    def test_the_cheapest_pattern_under_the_tolerance_is_taken(self):
        model = network()
        images = smooth()
        handle = accelerate_(model, Stan(rate=0.25, tolerance=0.4, period=3))
        exact = {"0": model[0](images).detach(), "2": model[2](torch.relu(model[0](images))).detach()}
        handle.history.clear()
        model(images)
        assert [choice.layer for choice in handle.history] == ["0", "2"]
        for choice in handle.history:
            layer, output = model.get_submodule(choice.layer), exact[choice.layer]
            assert set(choice.errors) == {PATTERNS["rows"], PATTERNS["columns"], PATTERNS["blocks"]}
            fitting = [p for p, error in choice.errors.items() if error <= 0.4]
            assert choice.pattern == min(fitting, key=lambda p: (p.rate, choice.errors[p]), default=None)
            handle.step()
            assert layer.grid is None if choice.pattern is None else layer.grid.pattern == choice.pattern
            handle.seek(0)
            for pattern, error in choice.errors.items():
                offsets = [
                    neighbour_of_exact(output, Grid(pattern, top, left))
                    for top in range(pattern.rows)
                    for left in range(pattern.columns)
                ]
                assert any(abs(float((output - y).norm() / output.norm()) - error) < 1e-5 for y in offsets)

    @pytest.mark.parametrize(("tolerance", "kept"), [(1e-6, 1.0), (100.0, 0.25)])
    def test_kept_says_what_was_computed(self, tolerance, kept):
        model = network()
        handle = accelerate_(model, Stan(rate=0.25, tolerance=tolerance, period=3))
        for _ in range(8):
            model(smooth())
            handle.step()
        assert handle.kept == kept

    def test_rate_is_the_least_that_is_computed(self):
        model = network()
        handle = accelerate_(model, Stan(rate=0.5, tolerance=100.0, period=3))
        model(smooth())
        assert {rate for choice in handle.history for rate in [p.rate for p in choice.errors]} == {0.5}

    def test_every_entry_is_computed_before_the_first_refresh(self):
        model = network()
        handle = accelerate_(model, Stan(tolerance=100.0, period=3, pretrain=2))
        handle.seek(4)
        assert handle.phase == "reduced"
        assert model[0].grid is None

    def test_a_resumed_run_goes_on_with_what_was_chosen(self):
        model, other = network(), network()
        stan = Stan(rate=0.25, tolerance=100.0, period=5)
        handle, fresh = accelerate_(model, stan), accelerate_(other, stan)
        model(smooth())
        handle.step()
        fresh.load_state_dict(handle.state_dict())
        assert other[0].grid is not None
        assert (other[0].grid, other[2].grid, fresh.iteration) == (model[0].grid, model[2].grid, 1)

    def test_a_state_of_other_settings_is_refused(self):
        handle = accelerate_(network(), Stan(tolerance=1.0))
        with pytest.raises(UsageError, match="made with other settings"):
            handle.load_state_dict({"iteration": 3})
        with pytest.raises(UsageError, match="of 1 layers, and the model has 2"):
            handle.load_state_dict({"iteration": 3, "chosen": [None]})

    def test_an_output_that_is_not_finite_is_named_once_and_computed_whole(self):
        model = network()
        handle = accelerate_(model, Stan(rate=0.25, tolerance=100.0, period=3))
        with pytest.warns(StanWarning, match="output of 0 is not finite at the refresh of iteration 0") as caught:
            model(smooth() * float("nan"))
        assert len(caught) == 1
        handle.step()
        assert model[0].grid is None

    def test_a_plan_limits_the_layers_and_their_patterns(self):
        model = network()
        plan = (LayerPlan("2", ("rows", "blocks")),)
        handle = accelerate_(model, Stan(rate="auto", plan=plan, tolerance=100.0, period=3))
        model(smooth())
        assert [set(choice.errors) for choice in handle.history] == [{PATTERNS["rows"], PATTERNS["blocks"]}]
        assert "does not pay" in handle.report[0].reason

    def test_auto_without_an_example_says_what_is_missing(self):
        with pytest.raises(UsageError, match="example=images"):
            accelerate_(network(), Stan(rate="auto"))

    def test_auto_plans_on_the_example_and_its_settings_are_numbers(self):
        model = network()
        before = copy.deepcopy(model.state_dict())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            handle = accelerate_(model, Stan(rate="auto", iterations=1000), example=smooth())
        assert handle.plan is not None
        assert isinstance(handle.stan.rate, float)
        assert handle.stan.plan is not None
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def _noting(remember, seen: list):
    def noted(output, entries):
        seen.append(entries)
        remember(output, entries)

    return noted


class TestMemo:
    """A skipped entry receives what its sample had at its last visit, and no gradient flows through it."""

    SAMPLES = 12
    BATCH = 6

    def stan(self, **changes) -> Stan:
        memo = Memo(samples=self.SAMPLES, epoch=2, dtype="fp32", **changes.pop("memo", {}))
        return Stan(period=2, memo=memo, **changes)

    def data(self) -> Tensor:
        torch.manual_seed(1)
        return torch.randn(self.SAMPLES, 3, 8, 8)

    @pytest.mark.parametrize("rate", [0.5, 0.25])
    @pytest.mark.parametrize("positions", ["grid", "changed"])
    def test_each_epoch_agrees_with_an_oracle_that_remembers_in_a_dictionary(self, rate, positions):
        data = self.data()
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
        stan = self.stan(rate=rate, memo={"positions": positions})
        handle = accelerate_(model, stan, example=data[: self.BATCH])
        oracle = nn.Conv2d(3, 8, 3, padding=1)
        remembered: dict[int, Tensor] = {}
        skipped = 0
        for iteration in range(18):
            ids = torch.arange(self.BATCH) * 2 + iteration % 2
            handle.visit(ids, data[ids])
            with torch.no_grad():  # weights move between visits, so that memory and exact values differ
                model[0].weight.add_(0.01 * torch.randn_like(model[0].weight))
            oracle.load_state_dict(model[0].state_dict())
            seen: list = []
            model[0].memory.remember = _noting(model[0].memory.remember, seen)
            model.zero_grad()
            oracle.zero_grad()
            output = model(data[ids])
            del model[0].memory.remember
            want = oracle(data[ids])
            if seen and seen[0] is not None:
                skipped += 1
                want = memo_of_exact(want, seen[0], torch.stack([remembered[int(i)] for i in ids]))
            torch.testing.assert_close(output, want)
            (output**2).sum().backward()
            (want**2).sum().backward()
            # Minimal filtering rounds a gradient's sums by more than one of its smallest numbers.
            error = model[0].weight.grad - oracle.weight.grad
            assert error.norm() <= 1e-5 * oracle.weight.grad.norm()
            remembered.update({int(i): row.detach().clone() for i, row in zip(ids, output, strict=True)})
            handle.step()
        assert skipped >= 6
        assert handle.kept == rate

    def test_refreshes_are_whole_epochs(self):
        handle = accelerate_(network(), self.stan(), example=self.data())
        phases = []
        for _ in range(8):
            phases.append(handle.phase)
            handle.step()
        assert phases == ["refresh"] * 2 + ["reduced"] * 4 + ["refresh"] * 2

    def test_linear_layers_compute_a_run_of_their_neurons(self):
        data = self.data()
        model = network()
        reference = copy.deepcopy(model)
        handle = accelerate_(model, self.stan(linear=("4",), layers=("0",)), example=data)
        assert (type(model[0]), type(model[4]), type(model[5])) == (StanConv2d, StanLinear, nn.Linear)
        assert [line.name for line in handle.report if line.patterns] == ["0", "4"]
        ids = torch.arange(self.SAMPLES)
        handle.visit(ids)
        torch.testing.assert_close(model(data), reference(data))  # an exact visit
        with torch.no_grad():
            model[4].weight.mul_(2)
        handle.seek(2)
        handle.visit(ids)
        seen = {}
        model[4].register_forward_hook(lambda _, inputs, output: seen.update(input=inputs[0], output=output))
        model(data).sum().backward()
        new = nn.functional.linear(seen["input"], model[4].weight, model[4].bias)
        moved = torch.isclose(seen["output"], new).all(0)
        assert 6 <= int(moved.sum()) <= 7
        assert (model[4].weight.grad.abs().sum(1) > 0).sum() == 6

    def test_a_state_brings_the_memory_back(self):
        data, ids = self.data(), torch.arange(self.SAMPLES)
        model, other = network(), network()
        handle, fresh = (accelerate_(each, self.stan(), example=data) for each in (model, other))
        handle.visit(ids, data)
        model(data)
        handle.seek(2)
        fresh.load_state_dict(handle.state_dict())
        with torch.no_grad():
            for each in (model, other):
                each[0].weight.mul_(1.5)
        handle.visit(ids, data)
        fresh.visit(ids, data)
        assert torch.equal(other(data), model(data))

    def test_what_it_holds_is_told_and_what_cannot_fit_is_refused(self):
        data = self.data()
        handle = accelerate_(network(), self.stan(), example=data)
        values = 4 * self.SAMPLES * (8 * 64 + 4 * 36)
        assert values < handle.memory_bytes < 1.1 * values
        with pytest.raises(UsageError, match="missing"):
            accelerate_(network(), self.stan(memo={"budget": 100}), example=data)
        tight = accelerate_(network(), self.stan(memo={"budget": 10_000}), example=data)
        assert [bool(line.reason) for line in tight.report] == [True, False]
        assert [bool(line.patterns) for line in tight.report] == [False, True]

    def test_misuse_is_named(self):
        data, ids = self.data(), torch.arange(self.SAMPLES)
        with pytest.raises(UsageError, match="example=images"):
            accelerate_(network(), self.stan())
        model = network()
        handle = accelerate_(model, self.stan(), example=data)
        with pytest.raises(UsageError, match=r"call visit\(ids\)"):
            model(data)
        with pytest.raises(UsageError, match="more than once"):
            handle.visit(torch.zeros(6, dtype=torch.int64))
        with pytest.raises(UsageError, match="sample id 88"):
            handle.visit(ids + 88)
        handle.visit(ids, data)
        model(data)
        with pytest.raises(UsageError, match="differs from its first visit"):
            handle.visit(ids, data.flip(3))

    @pytest.mark.parametrize("positions", ["grid", "changed"])
    @pytest.mark.parametrize(
        ("layer", "size", "outputs"),
        [
            (nn.Conv2d(3, 4, 3), (3, 8, 8), (4, 6, 6)),
            (nn.Conv1d(3, 4, 3), (3, 8), (4, 6)),
            (nn.Linear(5, 6), (5,), (6,)),
        ],
        ids=["conv2d", "conv1d", "linear"],
    )
    def test_a_batch_that_does_not_fit_its_ids_is_refused_in_a_reduced_iteration_too(
        self, positions, layer, size, outputs
    ):
        model, data = nn.Sequential(copy.deepcopy(layer)), torch.randn(self.SAMPLES, *size)
        linear = ("0",) if isinstance(layer, nn.Linear) else ()
        handle = accelerate_(model, self.stan(memo={"positions": positions}, linear=linear), example=data)
        ids = torch.arange(self.BATCH)
        for iteration in (0, 1, 2):
            handle.seek(iteration)
            handle.visit(ids)
            if iteration < 2:
                model(data[ids])
        for number in (1, self.BATCH - 1, self.BATCH + 1):
            with pytest.raises(UsageError, match=rf"layer '0' gave an output .*{number}, .* with {self.BATCH} ids"):
                model(data[:number])
        if not linear:
            with pytest.raises(UsageError, match="keep the inputs' size"):
                model(data[ids][..., 1:])
        assert model(data[ids]).shape == (self.BATCH, *outputs)

    def test_settings_that_contradict_each_other(self):
        memo = Memo(samples=10, epoch=1)
        with pytest.raises(UsageError, match="fixed rate"):
            Stan(rate="auto", memo=memo)
        with pytest.raises(UsageError, match="no neighbours to copy"):
            Stan(linear=("fc1",))
        with pytest.raises(UsageError, match=r"`memo\.samples`=0"):
            Memo(samples=0, epoch=1)
        with pytest.raises(UsageError, match=r"`memo\.dtype`='int8'"):
            Memo(samples=1, epoch=1, dtype="int8")


def test_a_forgotten_step_is_noticed_and_said_once():
    model = network()
    handle = accelerate_(model, Stan(period=None))
    images = smooth(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2 * FORGOTTEN):
            model(images)
    assert [warning.category for warning in caught] == [StanWarning]
    # A recurrence, a line search and accumulated gradients make as many where step() is called rightly.
    sentence = "if these are of no recurrence, line search or accumulation, step() seems forgotten"
    assert sentence in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(FORGOTTEN + 10):
            model(images)
            handle.step()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"rate": "fast"}, "rate='fast' is unknown"),
        ({"rate": "auto", "pattern": "rows"}, "pattern='rows' is fixed"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
        ({"tolerance": float("nan")}, "`tolerance`=nan"),
        ({"tolerance": 0.3, "period": None}, "period=None has none"),
        ({"pretrain": 8, "tail": 3, "iterations": 10}, "more than iterations=10"),
        ({"offset_sets": 6}, "offset_sets=6 would not .* a multiple of 4"),
        ({"offset_sets": 0}, "`offset_sets`=0"),
    ],
)
def test_settings_that_make_no_sense_are_named(setting, sentence):
    with pytest.raises(UsageError, match=sentence):
        Stan(**setting)


def test_restore_takes_everything_off_the_layers():
    model = network()
    handle = accelerate_(model, Stan(tolerance=1.0))
    model(smooth())
    handle.step()
    restore_(model)
    assert not {"grid", "watch", "memory", "passed"} & set(model[0].__dict__)
    accelerate_(model, Stan())


@pytest.mark.parametrize("tolerance", [None, 1.0])
def test_steps_go_on_where_layers_were_restored(tolerance):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    handle = accelerate_(model, Stan(tolerance=tolerance, period=1))
    restore_(model[0])
    for _ in range(4):
        model(torch.randn(2, 3, 12, 12)).sum().backward()
        handle.step()
    assert handle.kept == 0.75
    restore_(model)
    handle.step()
    handle.step()
    assert not {"grid", "watch"} & {name for layer in model for name in layer.__dict__}
