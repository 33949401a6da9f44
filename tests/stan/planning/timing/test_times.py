"""The timing of a model's layers: what is counted, with a clock that the layers themselves move."""

from __future__ import annotations

import time

import pytest
import torch
from fake_clock import (
    BACKWARD,
    BLOCKS,
    COLUMNS,
    FORWARD,
    QUARTER,
    ROWS,
    FakeClock,
    FakeClockOfSteps,
    constant,
    network,
    plain,
)
from torch import nn

from stantune.kernels.block.follow import Follow
from stantune.kernels.library import kernels
from stantune.kernels.pays import may_pay
from stantune.stan.entries.entries import Grid
from stantune.stan.entries.fill import neighbour_of_exact
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.fusion import StanSequential
from stantune.stan.planning.timing import clock_for, measure

pytestmark = pytest.mark.usefixtures("one_thread")


@plain
def test_the_five_times_of_each_layer_and_the_step(monkeypatch):
    clock = FakeClock(monkeypatch, constant(FORWARD), constant(BACKWARD), errors=0.5)
    times = measure(
        network(), ("*",), torch.randn(2, 3, 8, 8), step=lambda: clock.advance(1000.0), budget=9000.0, clock=clock
    )
    assert times.step_seconds == 1000.0
    for layer, scale in zip(times.layers, (4, 6), strict=True):
        assert (layer.t_f, layer.t_b, layer.t_e, layer.reason) == (10.0 * scale, 20.0 * scale, 0.5, "")
        assert [(name, t_i, t_j) for name, t_i, t_j, _ in layer.patterns] == [
            ("rows", 3.0 * scale, 8.0 * scale),
            ("columns", 4.0 * scale, -1.0 * scale),
            ("blocks", -1.0 * scale, 15.0 * scale),
        ]
    # A round takes 1000 + 92 * 10 + 2 * 0.5 = 1921: the fifth begins within the budget, and the first warms up.
    assert times.rounds == 4


@plain
def test_a_round_is_measured_however_small_the_budget(monkeypatch):
    clock = FakeClock(monkeypatch, constant(FORWARD), constant(BACKWARD))
    times = measure(
        network(), ("*",), torch.randn(2, 3, 8, 8), step=lambda: clock.advance(7.0), budget=0.0, clock=clock
    )
    assert (times.step_seconds, times.rounds) == (7.0, 1)


@plain
def test_the_warm_up_and_the_slowest_quarter_do_not_count(monkeypatch):
    # Rounds 1 to 12; the first is the warm-up, and of the other eleven the slowest two (11 and 12) do not count.
    def forward(layer, pattern, turn):
        return {1: 1e6, 11: 1e5, 12: 1e5}.get(turn, float(turn)) if pattern is None else 1.0

    clock = FakeClock(monkeypatch, forward, constant(dict.fromkeys(FORWARD, 0.0)), errors=0.0)
    steps = iter([1e6, *[100.0] * 9, 1e5, 1e5])
    model = nn.Sequential(nn.Conv2d(3, 1, 3))
    times = measure(
        model, ("*",), torch.randn(2, 3, 8, 8), step=lambda: clock.advance(next(steps)), budget=2.25e6, clock=clock
    )
    assert times.rounds == 11
    assert times.step_seconds == 100.0
    assert times.layers[0].t_f == 6.0  # the mean of 2 to 10


@plain
def test_a_layer_that_is_used_twice_takes_the_time_of_both(monkeypatch):
    clock = FakeClock(monkeypatch, constant(FORWARD), constant(BACKWARD), errors=0.5)
    conv = nn.Conv2d(3, 3, 3, padding=1)
    times = measure(nn.Sequential(conv, nn.ReLU(), conv), ("*",), torch.randn(2, 3, 8, 8), budget=0, clock=clock)
    [layer] = times.layers
    assert (layer.t_f, layer.t_b, layer.t_e) == (60.0, 120.0, 1.0)


@plain
def test_layers_get_their_own_inputs(monkeypatch):
    clock = FakeClock(monkeypatch, constant(FORWARD), constant(BACKWARD))
    model = network().to(memory_format=torch.channels_last)
    example = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    inside = model[1](model[0](example))
    measure(model, ("*",), example, budget=0, clock=clock)
    first = [input for input in clock.inputs if input.shape[1] == 3]
    second = [input for input in clock.inputs if input.shape[1] == 4]
    assert len(first) == len(second) == 8
    # A first layer's input needs no gradient, and its computation would count where there is none.
    assert not any(input.requires_grad for input in first)
    assert all(input.requires_grad for input in second)
    assert all(torch.equal(input, example) for input in first)
    assert all(torch.equal(input, inside) for input in second)
    assert all(input.is_contiguous(memory_format=torch.channels_last) for input in clock.inputs)


@plain
def test_every_offset_has_its_turn(monkeypatch):
    clock = FakeClock(monkeypatch, constant(dict.fromkeys(FORWARD, 1.0)), constant(BACKWARD), errors=0.0)
    measure(nn.Sequential(nn.Conv2d(3, 1, 3)), ("*",), torch.randn(2, 3, 8, 8), budget=500.0, clock=clock)
    offsets = {pattern: {grid[1:] for grid in grids} for (_, pattern), grids in clock.grids.items() if pattern}
    assert offsets == {
        ROWS: {(0, 0), (1, 0)},
        COLUMNS: {(0, 0), (0, 1)},
        BLOCKS: {(0, 0), (0, 1), (1, 0), (1, 1)},
    }


@plain
def test_the_users_hooks_see_whole_passes_alone():
    model = network()
    passes = []
    model[0].register_forward_hook(lambda *_: passes.append(1))
    times = measure(model, ("*",), torch.randn(2, 3, 8, 8), budget=0)
    assert times.rounds == 1
    # One to capture the inputs, one in the warm-up, and in the round one that is not timed and one that is.
    assert len(passes) == 4


@plain
def test_a_hook_that_changes_the_output_hides_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model[0].register_forward_hook(lambda module, arguments, output: output[..., :1, :1])
    [layer] = measure(model, ("*",), torch.randn(2, 3, 8, 8), budget=0).layers
    assert [candidate.name for candidate in layer.patterns] == ["rows", "columns", "blocks"]


@plain
def test_only_the_gradients_that_training_needs_are_computed(monkeypatch):
    wanted = []
    original = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd,
        "grad",
        lambda out, of, *a, **k: (wanted.append([x.shape for x in of]), original(out, of, *a, **k))[1],
    )
    model = network()
    model[2].weight.requires_grad_(False)
    measure(model, ("2",), torch.randn(2, 3, 8, 8), budget=0)
    of_model = [parameter.shape for parameter in model.parameters() if parameter.requires_grad]
    assert {tuple(shapes) for shapes in wanted} == {tuple(of_model), ((6,), (2, 4, 8, 8))}


@plain
def test_frozen_parts_have_no_backward_pass(monkeypatch):
    clock = FakeClock(monkeypatch, constant(FORWARD), constant(BACKWARD))
    model = network()
    model[0].requires_grad_(False)
    first, second = measure(model, ("*",), torch.randn(2, 3, 8, 8), budget=0, clock=clock).layers
    assert (first.t_b, second.t_b) == (0.0, 120.0)
    model.requires_grad_(False)
    first, second = measure(model, ("*",), torch.randn(2, 3, 8, 8), budget=0, clock=clock).layers
    assert (first.t_b, second.t_b) == (0.0, 0.0)


@plain
def test_one_dimensional_layers_have_their_own_patterns(monkeypatch):
    clock = FakeClock(
        monkeypatch, constant({None: 4.0, COLUMNS: 3.0, QUARTER: 2.0}), constant({None: 0, COLUMNS: 0, QUARTER: 0})
    )
    model = nn.Sequential(nn.Conv1d(2, 1, 3), nn.Flatten())
    [layer] = measure(model, ("*",), torch.randn(2, 2, 16), budget=0, clock=clock).layers
    assert [(candidate.name, candidate.t_i) for candidate in layer.patterns] == [("columns", 1.0), ("quarter", 2.0)]
    assert [[times.name for times in layer.among(wanted)] for wanted in ((ROWS, COLUMNS), (BLOCKS,), ())] == [
        ["columns"],
        ["quarter"],
        [],
    ]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 8, 8)], ids=["batch", "single sample"])
@plain
def test_errors_are_those_of_the_fill_on_the_example(shape):
    torch.manual_seed(0)
    model, example = nn.Conv2d(3, 40, 3), torch.randn(shape)
    exact = model(example).detach()
    layer = measure(model, ("*",), example, budget=0).layers[0]
    for name, grids in (
        ("rows", [Grid(ROWS, 0, 0), Grid(ROWS, 1, 0)]),
        ("blocks", [Grid(BLOCKS, top, left) for top in (0, 1) for left in (0, 1)]),
    ):
        errors = [float((exact - neighbour_of_exact(exact, grid)).norm() / exact.norm()) for grid in grids]
        [found] = [candidate.error for candidate in layer.patterns if candidate.name == name]
        assert found == pytest.approx(sum(errors) / len(errors), rel=1e-5)


@pytest.mark.parametrize("step", [None, lambda: None], ids=["whole", "own step"])
@plain
def test_errors_are_of_what_a_layer_returned_also_where_the_next_one_writes_to_it(step):
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=inplace), nn.Conv2d(4, 6, 3, padding=1))
        times = measure(model, ("*",), torch.randn(2, 3, 8, 8), step=step, budget=0)
        found.append([(name, error) for layer in times.layers for name, _, _, error in layer.patterns])
    assert len(found[0]) == 6
    assert found[0] == found[1]


@plain
def test_the_clock_suits_the_device(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert clock_for(torch.device("cpu")) is time.thread_time
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert clock_for(torch.device("cpu")) is time.perf_counter


@pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")
def test_natively_whole_iterations_and_layers_with_what_follows_them_are_timed(monkeypatch):
    model, clock, follows = network(), FakeClockOfSteps(), []
    followed = StanConv2d.followed
    monkeypatch.setattr(StanConv2d, "followed", lambda *given: follows.append(given[2]) or followed(*given))

    def step():
        native = type(model) is StanSequential
        assert native == (type(model[0]) is StanConv2d)
        clock.now += 3.0 if native else 5.0

    times = measure(model, ("*",), torch.randn(2, 3, 8, 8), step=step, budget=30.0, clock=clock)
    assert (times.step_seconds, times.native_seconds, times.exact_seconds) == (5.0, 3.0, 3.0)
    assert type(model) is nn.Sequential
    assert type(model[0]) is nn.Conv2d
    assert set(follows) == {Follow(relu=True), Follow()}


@plain
def test_without_kernels_an_exact_iteration_under_stan_is_a_plain_one():
    clock = FakeClockOfSteps()
    times = measure(network(), ("*",), torch.randn(2, 3, 8, 8), step=clock.step, budget=30.0, clock=clock)
    assert times.native_seconds is None
    assert times.exact_seconds == times.step_seconds == 1.0


@pytest.mark.parametrize("kind", ["asked for none", "nothing that pays"])
def test_where_nothing_becomes_native_stock_is_all_there_is(kind, monkeypatch):
    monkeypatch.setattr("stantune.stan.layers.fusion.may_pay", may_pay)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4)) if kind == "nothing that pays" else network()
    times = measure(model, ("*",), torch.randn(2, 3, 8, 8), native=kind != "asked for none", budget=0)
    assert times.native_seconds is None
