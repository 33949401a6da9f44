"""Which models and layers can be timed, why others cannot, and that the timing leaves a model as it was."""

from __future__ import annotations

import pytest
import torch
from fake_clock import BACKWARD, FORWARD, FakeClock, FakeClockOfSteps, constant, network, plain
from torch import nn

from stantune.stan.planning.timing import measure

pytestmark = pytest.mark.usefixtures("one_thread")


@plain
def test_a_model_in_evaluation_is_timed_in_training_but_for_what_stays_in_evaluation(monkeypatch):
    clock = FakeClock(monkeypatch, constant(FORWARD), constant(BACKWARD))

    class Frozen(nn.Sequential):
        def train(self, mode=True):
            return super().train(False)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Frozen(nn.Conv2d(4, 6, 3))).eval()
    measure(model, ("*",), torch.randn(2, 3, 10, 10), budget=0, clock=clock)
    assert clock.training == {4: {True}, 6: {False}}


@plain
def test_a_model_without_convolutions_is_not_timed_for_long():
    clock = FakeClockOfSteps()
    times = measure(nn.Linear(3, 4), ("*",), torch.randn(2, 3), step=clock.step, budget=50.0, clock=clock)
    assert times == ((), 1.0, 1, None)


class Doubled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


class Branching(nn.Module):
    """Returns a dictionary, leaves a layer out and calls another one by keyword, without a batch."""

    def __init__(self):
        super().__init__()
        self.used = nn.Conv2d(3, 4, 3)
        self.unused = nn.Conv2d(3, 4, 3)
        self.tiny = nn.Conv2d(4, 4, 6)
        self.single = nn.Conv2d(4, 4, 3)
        self.doubled = Doubled(4, 4, 1)
        self.unwanted = nn.Conv2d(4, 4, 1)

    def forward(self, images):
        found = self.used(images)
        single = self.single(input=found[0])
        return {"maps": [self.unwanted(self.doubled(found))], "tiny": (self.tiny(found), single), "note": "kept"}


@plain
def test_layers_that_cannot_be_timed_say_why(monkeypatch):
    clock = FakeClock(monkeypatch, constant(FORWARD), constant(BACKWARD))
    times = measure(
        Branching(), ("[!n]*d", "tiny", "single", "doubled"), torch.randn(2, 3, 10, 10), budget=0, clock=clock
    )
    reasons = {layer.name: layer.reason for layer in times.layers}
    wanted = "not among layers="
    assert reasons["unused"] == "the example does not pass through it"
    assert reasons["tiny"].startswith("its output of 3x3 entries is smaller than 3 periods of its patterns")
    assert reasons["doubled"].startswith("Doubled is not nn.Conv2d itself")
    assert reasons["used"] == reasons["single"] == reasons["unwanted"] == ""
    # Its backward pass is found through the output's list and tuple.
    assert [layer.t_b for layer in times.layers if layer.name in ("single", "unwanted")] == [80.0, 80.0]
    reasons = {
        layer.name: layer.reason for layer in measure(Branching(), ("used",), torch.randn(2, 3, 10, 10), budget=0)[0]
    }
    assert reasons.pop("used") == ""
    assert all(reason.startswith(wanted) for reason in reasons.values())


@plain
def test_a_step_that_trains_the_model_moves_the_errors_and_nothing_else():
    model, example = network(), torch.randn(2, 3, 8, 8)
    before = measure(model, ("0",), example, budget=0).layers[0].patterns[0].error

    def flatten():
        with torch.no_grad():
            model[0].weight.zero_()
            model[0].bias.fill_(1.0)

    after = measure(model, ("0",), example, step=flatten, budget=0).layers[0].patterns[0].error
    assert before > 0.1
    assert after == pytest.approx(0.0, abs=1e-6)
    assert model[0].weight.abs().sum() > 0


class Fragile(nn.Module):
    """All that a timing could disturb: statistics, dropout's random state, parts in evaluation, gradients, hooks."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.head = nn.Linear(4 * 64, 10)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images):
        self.seen = self.seen + 1
        return self.head(self.drop(self.frozen(self.norm(self.conv(images)))).flatten(1))


def snapshot(model):
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        {
            name: (parameter.grad, None if parameter.grad is None else parameter.grad.clone())
            for name, parameter in model.named_parameters()
        },
        [module.training for module in model.modules()],
        [
            [len(getattr(module, hooks)) for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
            for module in model.modules()
        ],
        [type(module) for module in model.modules()],
        dict(model.named_buffers()),
        torch.get_rng_state(),
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ending", ["whole", "own step", "broken step"])
@plain
def test_the_model_is_left_bit_for_bit(training, ending):
    torch.manual_seed(0)
    model = Fragile().train(training)
    model.frozen.eval()
    model.head.weight.grad = torch.randn_like(model.head.weight)
    example = torch.randn(4, 3, 8, 8)

    def step():
        model.zero_grad(set_to_none=False)
        model(example).square().sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        if ending == "broken step":
            raise RuntimeError("broken")

    before = snapshot(model)
    if ending == "broken step":
        with pytest.raises(RuntimeError, match="broken"):
            measure(model, ("*",), example, step=step, budget=0.1)
    else:
        times = measure(model, ("*",), example, step=None if ending == "whole" else step, budget=0.1)
        assert times.layers[0].t_f > 0
        assert times.layers[0].t_b > 0
        assert times.layers[0].t_e > 0
        assert times.step_seconds > 0
    after = snapshot(model)
    assert all(torch.equal(value, after[0][key]) for key, value in before[0].items())
    for name, (gradient, content) in before[1].items():
        assert after[1][name][0] is gradient
        assert gradient is None or torch.equal(gradient, content)
    assert after[2:5] == before[2:5]
    assert all(after[5][name] is buffer for name, buffer in before[5].items())
    assert torch.equal(after[6], before[6])
