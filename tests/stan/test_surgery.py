"""What accelerate_ and restore_ do to a model, and what they leave as it was."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections import Counter
from typing import ClassVar

import pytest
import torch
from torch import nn

from stantune import NoEffectWarning, Stan, accelerate_, restore_
from stantune.errors import UsageError
from stantune.stan import surgery
from stantune.stan.config import LayerPlan, Memo
from stantune.stan.entries.entries import PATTERNS, draw_grid
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.meprop import MeProp, MePropLinear
from stantune.stan.planning.timing import LayerTimes, ModelTimes, PatternTimes
from stantune.stan.schedule import Phase


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(288, 10))


@pytest.fixture
def model():
    return network()


def test_parameters_keys_and_evaluation_stay_bit_for_bit(model):
    before = dict(model.named_parameters())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(4, 3, 8, 8)
    exact = model.eval()(images)
    handle = accelerate_(model.train(), Stan(period=None))
    assert handle.phase is Phase.REDUCED
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert model.state_dict().keys() == state.keys()
    assert not torch.equal(model(images), exact)
    assert torch.equal(model.eval()(images), exact)


def test_restore_gives_back_the_original(model):
    images = torch.randn(4, 3, 8, 8)
    exact = model(images)
    accelerate_(model, Stan(period=None))
    restore_(model)
    assert [type(layer) for layer in model] == [type(layer) for layer in network()]
    assert "grid" not in model[0].__dict__
    assert torch.equal(model(images), exact)


def test_hooks_shared_layers_and_a_model_that_is_a_convolution():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    twice = nn.Sequential(conv, nn.ReLU(), conv)
    calls = []
    conv.register_forward_hook(lambda *_: calls.append(1))
    handle = accelerate_(twice, Stan(rate=0.25, period=None))
    twice(torch.randn(1, 4, 8, 8))
    assert len(calls) == 2
    assert [line.name for line in handle.report] == ["0"]
    alone = nn.Conv2d(3, 4, 3)
    assert accelerate_(alone, Stan()).report[0].name == ""
    assert isinstance(alone, StanConv2d)


def test_step_moves_the_schedule_and_draws_every_offset_equally_often(model):
    handle = accelerate_(model, Stan(rate=0.25, period=3, pretrain=2, tail=1, iterations=2000))
    phases, seen = [], Counter()
    for _ in range(2000):
        phases.append(handle.phase)
        seen[model[0].grid] += 1
        handle.step()
    assert phases[:7] == ["exact", "exact", "refresh", "reduced", "reduced", "reduced", "refresh"]
    assert phases[-1] == "exact"
    exact = seen.pop(None)
    assert exact == sum(phase != "reduced" for phase in phases)
    assert len(seen) == 4
    assert min(seen.values()) > 0.8 * sum(seen.values()) / 4


def test_grids_are_a_pure_function_of_seed_iteration_and_layer(model):
    handle = accelerate_(model, Stan(rate=0.25, period=None, seed=3))
    for _ in range(5):
        handle.step()
    first = [model[0].grid, model[2].grid]
    assert first == [draw_grid((PATTERNS["blocks"],), 3, 5, place) for place in (0, 1)]
    fresh = network()
    other = accelerate_(fresh, Stan(rate=0.25, period=None, seed=3))
    other.load_state_dict(handle.state_dict())
    assert [fresh[0].grid, fresh[2].grid] == first


def test_layers_are_chosen_by_name_and_reported(model):
    handle = accelerate_(model, Stan(layers=("2",), period=None))
    # Without native kernels it stays the layer that it was.
    assert getattr(model[0], "grid", None) is None
    assert model[2].grid is not None
    assert handle.report[0].reason == "not among layers=2"
    assert handle.report[1].reason == ""
    restore_(model)
    with pytest.raises(UsageError, match="layers='conv9' matches no convolution of the model; it has 0, 2"):
        accelerate_(model, Stan(layers=("conv9",)))


def test_a_subclass_with_its_own_forward_is_left_alone():
    class Doubled(nn.Conv2d):
        def forward(self, input):
            return 2 * super().forward(input)

    model = nn.Sequential(
        Doubled(3, 4, 3), nn.Conv2d(4, 4, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    )
    handle = accelerate_(model, Stan())
    assert [bool(line.reason) for line in handle.report] == [True, False, True]
    assert type(model[0]) is Doubled


@pytest.mark.parametrize("line", [False, True], ids=["2-d", "1-d"])
def test_depthwise_convolutions_are_left_alone_unless_they_are_named(line):
    kind = nn.Conv1d if line else nn.Conv2d
    model = nn.Sequential(kind(4, 8, 1), kind(8, 8, 3, groups=8), kind(8, 8, 3, groups=4), kind(1, 4, 3))
    by_default = accelerate_(model, Stan()).report
    assert [bool(line.patterns) for line in by_default] == [True, False, True, True]
    assert by_default[1].reason.startswith("a depthwise convolution has so few products")
    restore_(model)
    assert [bool(line.patterns) for line in accelerate_(model, Stan(layers=("*", "1"))).report] == [True] * 4


def test_an_example_that_the_model_refuses_leaves_it_as_it_was(model):
    for stan in (Stan(rate=0.5), Stan(rate="auto"), Stan(rate=1)):
        with pytest.raises(UsageError, match="cannot be called on the example"):
            accelerate_(model, stan, example=torch.randn(2, 1, 8, 8))
        assert [type(layer) for layer in model] == [type(layer) for layer in network()]
    accelerate_(model, Stan())


def test_what_is_no_model_and_no_setting_is_refused(model):
    with pytest.raises(UsageError, match=r"a model, an nn\.Module, not the class Conv2d"):
        accelerate_(nn.Conv2d, Stan())
    with pytest.raises(UsageError, match="not a value of dict"):
        accelerate_({}, Stan())
    with pytest.raises(UsageError, match=r"such as Stan\(rate=0.5\), not a value of float"):
        accelerate_(model, 0.5)


def test_a_model_that_would_hardly_be_faster_stays_what_it_was_and_that_is_said(model, monkeypatch):
    layers = tuple(
        LayerTimes(name, 0.3, 0.3, 0.1, (PatternTimes("columns", 0.1, 0.1, 0.1),))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    )
    times = ModelTimes(layers, 1.0, 1, native_seconds=2.0)
    monkeypatch.setattr("stantune.stan.planning.plan.measure", lambda *_, **__: times)
    kinds = [type(module) for module in model.modules()]
    with pytest.warns(NoEffectWarning, match=r"0, 2: a run would be 0\.\d\d times as fast as with stock PyTorch"):
        handle = accelerate_(model, Stan(rate="auto"), example=torch.randn(2, 3, 8, 8))
    assert [type(module) for module in model.modules()] == kinds
    assert (handle.plan.predicted_speedup, handle.stan.native) == (1.0, False)
    again = Stan(rate="auto").with_plan(handle.stan.planned)
    assert again == handle.stan
    assert again.identity["native"] is False
    assert "native" not in Stan().identity, "what was made before the setting came is known again"


def test_many_layers_with_one_reason_are_said_in_one():
    model = nn.Sequential(*(nn.Conv3d(1, 1, 1) for _ in range(5)))
    with pytest.warns(NoEffectWarning, match=r"\(0, 1, 2 and 2 more: Conv3d has no fast form; [^;]*\)"):
        accelerate_(model, Stan())


@pytest.mark.parametrize("model", [nn.Linear(3, 4), nn.Sequential()], ids=["linear", "empty"])
def test_nothing_to_accelerate_warns(model):
    with pytest.warns(NoEffectWarning, match="it has no convolution") as caught:
        handle = accelerate_(model, Stan())
    assert caught[0].filename == __file__, "it is the caller's line"
    handle.step()
    assert handle.phase is Phase.EXACT
    assert handle.report == ()


def test_meprop_that_keeps_all_is_said_though_convolutions_change():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    with pytest.warns(
        NoEffectWarning, match=r"meProp changes nothing in this model \(2: top_k=10 of meProp keeps all of"
    ):
        accelerate_(model, Stan(rate=0.5, meprop=MeProp(10)))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.warns(NoEffectWarning, match=r"meProp changes nothing in this model \(no nn.Linear is left to it\)"):
        accelerate_(model, Stan(rate=0.5, meprop=MeProp(10)))


@pytest.mark.usefixtures("no_kernels")
def test_rate_one_without_kernels_changes_nothing_and_says_so(model):
    with pytest.warns(NoEffectWarning, match="rate=1 computes every entry"):
        accelerate_(model, Stan(rate=1))
    assert type(model[0]) is nn.Conv2d


def test_accelerating_twice_is_refused(model):
    accelerate_(model, Stan())
    with pytest.raises(UsageError, match="accelerated already"):
        accelerate_(model, Stan())


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"rate": 0}, "rate=0 is not in"),
        ({"rate": 1.5}, "rate=1.5 is not in"),
        ({"rate": 0.3}, "nearest that has one is 0.25"),
        ({"pattern": "spiral"}, "no pattern is called 'spiral'"),
        ({"pattern": "blocks"}, "'blocks' computes 0.25"),
        ({"period": -1}, "`period`=-1 is too small"),
        ({"tail": 5}, "iterations=N"),
    ],
)
def test_bad_settings_are_named(setting, sentence):
    with pytest.raises(UsageError, match=sentence):
        Stan(**setting)


def test_copies_and_pickles_are_exact_since_no_handle_moves_their_grids(model):
    images = torch.randn(2, 3, 8, 8)
    exact = model(images)
    accelerate_(model, Stan(period=None))
    assert not torch.allclose(model(images), exact, atol=1e-3)
    # Natively sums have another order.
    torch.testing.assert_close(copy.deepcopy(model)(images), exact)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(images), exact)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    fresh = network()
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(fresh.eval()(images), model.eval()(images))


def test_a_reduced_step_trains(model):
    handle = accelerate_(model, Stan(rate=0.25, period=4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = torch.randn(32, 3, 8, 8), torch.randint(10, (32,))
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        handle.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore_(nn.Linear(1, 1))


def test_auto_at_one_half_computes_columns_at_both_offsets_alike(model):
    handle = accelerate_(model, Stan(rate=0.5, period=None))
    seen = Counter()
    for _ in range(2000):
        seen[model[0].grid] += 1
        handle.step()
    assert {(grid.pattern, grid.top, grid.left) for grid in seen} == {
        (PATTERNS["columns"], 0, 0),
        (PATTERNS["columns"], 0, 1),
    }
    assert min(seen.values()) > 900


@pytest.mark.parametrize("rate", [1, 0.5])
@pytest.mark.parametrize(("unified", "sparse_bias"), [(False, True), (True, False)])
def test_meprop_goes_in_and_out_alone_and_together_with_stan(model, rate, unified, sparse_bias):
    model.append(nn.ReLU())
    model.append(MePropLinear(10, 4, top_k=1))
    before = [type(layer) for layer in model]
    meprop = MeProp(3, unified=unified, layers=("4",), sparse_bias=sparse_bias)
    accelerate_(model, Stan(rate=rate, period=None, meprop=meprop))
    assert (getattr(model[0], "grid", None) is None) == (rate == 1)
    assert (type(model[4]), model[4].top_k, model[4].unified) == (MePropLinear, 3, unified)
    images = torch.randn(1, 3, 8, 8)
    model(images).sum().backward()
    assert 1 <= int((model[4].weight.grad.abs().sum(1) > 0).sum()) <= 3
    assert (int((model[4].bias.grad != 0).sum()) <= 3) == sparse_bias
    restore_(model)
    assert [type(layer) for layer in model] == before
    assert not {"top_k", "unified", "sparse_bias"} & set(model[4].__dict__)
    assert model[6].top_k == 1
    with pytest.raises(UsageError, match=r"meprop's layers='fc9' matches no nn\.Linear"):
        accelerate_(model, Stan(meprop=MeProp(3, layers=("fc9",))))
    assert [type(layer) for layer in model] == before, "a name that is misspelt changes nothing"


@pytest.mark.parametrize(("unified", "words"), [(False, "each example's"), (True, "the whole batch's")])
def test_meprop_is_reported(model, unified, words):
    model.append(nn.Linear(10, 3))
    model.append(MePropLinear(3, 3, top_k=1))
    handle = accelerate_(model, Stan(meprop=MeProp(4, unified=unified)))
    assert [(line.name, line.top_k, line.unified) for line in handle.report] == [
        ("0", 0, False),
        ("2", 0, False),
        ("4", 4, unified),
        ("5", 0, False),
        ("6", 0, False),
    ]
    _, _, changed, narrow, other = handle.report
    assert changed.reason == f"meProp shortens its backward pass alone, to 4 of 10 components of {words} gradient"
    assert changed.patterns == ()
    assert narrow.reason == "top_k=4 of meProp keeps all of its 3 components"
    assert other.reason == "MePropLinear is not nn.Linear itself and may compute something else"
    assert [type(layer) for layer in model[4:]] == [MePropLinear, nn.Linear, MePropLinear]


def test_the_report_tells_of_stan_or_meprop_whichever_has_the_layer():
    def reported(**settings):
        model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
        report = accelerate_(model, Stan(**settings), torch.randn(4, 8)).report
        return [(line.name, line.patterns, line.top_k, line.reason) for line in report]

    for_stan, for_meprop, neither = reported(
        linear=("0",), memo=Memo(samples=8, epoch=2), meprop=MeProp(2, layers=("0", "2"))
    )
    assert (for_stan[0], *for_stan[2:]) == ("0", 0, ""), "STAN goes first"
    assert for_meprop[:3] == ("2", (), 2)
    assert neither == ("4", (), 0, "not among linear=0")
    assert reported(meprop=MeProp(2, layers=("4",)))[0] == ("0", (), 0, "not among meprop's layers=4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        assert reported(meprop=MeProp(0)) == []


def test_meprop_that_keeps_everything_changes_nothing_and_says_so():
    model = nn.Linear(3, 4)
    with pytest.warns(NoEffectWarning, match=r"top_k=4 of meProp keeps all of its 4 components"):
        accelerate_(model, Stan(meprop=MeProp(4)))
    assert type(model) is nn.Linear


def test_whole_iterations_are_timed_in_any_run_and_leave_frozen_parts_frozen():
    class Frozen(nn.BatchNorm2d):
        modes: ClassVar[list[bool]] = []

        def forward(self, input):
            self.modes.append(self.training)
            return super().forward(input)

    model = nn.Sequential(nn.Conv2d(3, 8, 5), Frozen(8).eval(), nn.Conv2d(8, 8, 5))
    plan = (LayerPlan("0", ("rows",)), LayerPlan("2", ("rows",)))
    # Of twenty iterations none is left behind the first ones.
    stan = Stan(rate=0.5, tolerance=0.5, period=1, iterations=20, plan=plan)
    refresh, reduced = surgery._cycle_seconds(model, stan, torch.randn(2, 3, 16, 16), None)
    assert refresh > 0
    assert reduced > 0
    assert set(Frozen.modes) == {False}
    assert type(model[0]) is nn.Conv2d


def test_a_model_that_is_not_accelerated_keeps_its_layout():
    model = nn.Sequential(nn.Conv2d(3, 8, 5))
    with pytest.raises(UsageError, match="cannot be called on the example"):
        accelerate_(model, Stan(rate="auto"), torch.randn(2, 4, 16, 16), memory_format=torch.channels_last)
    assert model[0].weight.is_contiguous()


def test_nothing_can_be_timed_in_inference_mode():
    with torch.inference_mode(), pytest.raises(UsageError, match="call accelerate_ outside of it"):
        accelerate_(nn.Sequential(nn.Conv2d(3, 8, 5)), Stan(rate="auto"), torch.randn(2, 3, 16, 16))
