"""What moves STAN in a function: the optimizer of the model, whatever it is or wraps, or the function."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerated_network import network
from torch import nn

from stantune.errors import StanWarning
from stantune.stan.config import Stan

pytestmark = pytest.mark.usefixtures("one_thread")


def test_without_a_kept_optimizer_the_function_moves_it(trained):
    def loop(run):
        model = network()
        stan = run.accelerate(model)
        run.keep(model=model)
        for _ in run.steps():
            stan.step()
        return stan.handle.iteration

    assert trained(loop, 0, 2, stan=Stan()).metrics == {"loss": 2.0}
    assert trained(loop, 2, 5, stan=Stan()).metrics == {"loss": 5.0}


def test_each_model_moves_with_its_own_optimizer(trained):
    def loop(run):
        models = network(), network()
        optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
        stans = [run.accelerate(model) for model in models]
        run.keep(first=optimizers[0], second=optimizers[1], a=models[0], b=models[1])
        run.keep(both=torch.optim.Adam([*models[0].parameters(), *models[1].parameters()]))
        for _ in run.steps():
            for times, optimizer in enumerate(optimizers, 1):
                for _ in range(times):
                    optimizer.step()
        return {"loss": stans[0].handle.iteration, "second": stans[1].handle.iteration}

    assert trained(loop, 0, 3, stan=Stan()).metrics == {"loss": 3, "second": 6}
    assert trained(loop, 3, 4, stan=Stan()).metrics == {"loss": 4, "second": 8}


def test_a_step_that_calls_its_bases_is_one_step(trained):
    """Whichever optimizers the process has made before: PyTorch puts hooks into the base's step with the first one."""

    class Base(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    class Mine(Base):
        def step(self, closure=None):
            super().step(closure)
            return super().step()

    def fails():
        raise ArithmeticError

    def loop(run):
        model = network()
        optimizer = Mine(model.parameters(), 0.1)
        stan = run.accelerate(model)
        run.keep(optimizer=optimizer)
        for _ in run.steps():
            with pytest.raises(ArithmeticError):
                optimizer.step(fails)
            optimizer.step()
        return float(stan.handle.iteration)

    assert trained(loop, 0, 3, stan=Stan()).metrics == {"loss": 3.0}
    trained.checkpoint.unlink()
    Base([nn.Parameter(torch.ones(1))], 0.1)
    assert trained(loop, 0, 3, stan=Stan()).metrics == {"loss": 3.0}


class Wrapping(torch.optim.Optimizer):
    """As Accelerate has it: an optimizer by its class alone, which calls another one with every second of its steps."""

    def __init__(self, optimizer):
        self.optimizer, self.calls = optimizer, 0

    param_groups = property(lambda self: self.optimizer.param_groups, lambda self, groups: None)
    state = property(lambda self: self.optimizer.state, lambda self, state: None)

    def state_dict(self):
        return self.optimizer.state_dict()

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state)

    def step(self, closure=None):
        self.calls += 1
        if self.calls % 2 == 0:
            self.optimizer.step(closure)


@pytest.mark.parametrize("wrap", [Wrapping, lambda optimizer: Wrapping(Wrapping(optimizer))], ids=["once", "twice"])
def test_an_optimizer_without_hooks_is_followed_by_the_one_within(trained, wrap):
    def loop(run):
        model = network()
        optimizer = wrap(torch.optim.SGD(model.parameters(), 0.1))
        stan = run.accelerate(model)
        run.keep(model=model, optimizer=optimizer)
        for _ in run.steps():
            for _ in range(4):
                optimizer.step()
        return float(stan.handle.iteration)

    each = 2 if wrap is Wrapping else 1
    assert trained(loop, 0, 2, stan=Stan()).metrics == {"loss": 2.0 * each}
    assert trained(loop, 2, 3, stan=Stan()).metrics == {"loss": 3.0 * each}


def test_an_optimizer_without_hooks_and_none_within_moves_nothing_and_that_is_said(trained):
    def loop(run):
        model = network()
        within = torch.optim.SGD(model.parameters(), 0.1)
        names = ("param_groups", "state_dict", "load_state_dict", "step")
        optimizer = Wrapping(SimpleNamespace(**{name: getattr(within, name) for name in names}))
        stan = run.accelerate(model)
        run.keep(optimizer=optimizer)
        for _ in run.steps():
            optimizer.step()
        return float(stan.handle.iteration)

    with pytest.warns(StanWarning, match="STAN stood still"):
        assert trained(loop, stan=Stan()).metrics == {"loss": 0.0}


def test_its_optimizer_is_let_go_in_the_end(trained):
    kept = []

    def loop(run):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        run.keep(optimizer=optimizer)
        stan = run.accelerate(model)
        list(run.steps())
        kept.append((optimizer, stan))
        return 1.0

    trained(loop, stan=Stan())
    optimizer, stan = kept[0]
    optimizer.step()
    assert stan.handle.iteration == 0
